"""The plan as the runtime sees it: a bundle's layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Self

from .arguments import Argument, BufferRef
from .dataclass import dataclass
from .errors import DeviceError
from .head import Head

TENSOR_ALIGNMENT: Final = 64
ITEM_BYTES: Final = {"float32": 4, "int8": 1, "int32": 4, "uint16": 2, "uint8": 1}

MAX_ARGUMENTS: Final = 8  # of a launch; kernels/host/program.h

KV_DTYPES: Final = ("f16", "q8_0")
KV_GROUP: Final = 32  # elements of a head that share a scale in q8_0, as in a GGUF
GRID_ROWS: Final = ("tokens", "logits", "none", "adapted_tokens", "adapted_logits", "sequences")
STATE_ALIGNMENT: Final = 64  # bytes, of what a slot holds for an entry
MAX_ADAPTERS: Final = 64
ADAPTER_NAME: Final = re.compile(r"(?!latest$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
"""Names of adapters: without a colon, which stands before them in the name of a model, and not Ollama's tag."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One packed tensor inside the file of weights of a backend (`Manifest.weights_of`).

    Its `shape` is the logical one, in elements; `packing` names the order of bytes that the kernels expect;
    `offset` is a multiple of 64 bytes from the start of the file.
    """

    name: str
    packing: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class BufferEntry:
    """One buffer of the arena; `dtype` is a key of `ITEM_BYTES`, T the number of tokens in the step.

    It has `elements_per_token` * T + `elements_fixed` elements.
    """

    name: str
    dtype: str
    elements_per_token: int
    elements_fixed: int

    def n_bytes(self, tokens: int) -> int:
        """Bytes needed for a step of `tokens` tokens."""
        return (self.elements_per_token * tokens + self.elements_fixed) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class GridEntry:
    """How a kernel is spread over a GPU, by what the step holds.

    Attributes:
        threads: work items of a workgroup.
        x: workgroups in x.
        rows: what counts in y: `tokens`, `logits` or (of a model with state) `sequences` of the step, or `none`; with
            `adapted_` before it, it is launched only where a sequence of the step has an adapter.
        tile: of these, how many one workgroup takes: y = ceil(count / tile), and 1 for `none`.
        split: 0: z = 1; else z = ceil(longest context of the step / split).
        at_least: launched only where the count is not less (`none`: always),
        at_most: and not more.
    """

    threads: int
    x: int
    rows: str = "none"
    tile: int = 1
    split: int = 0
    at_least: int = 1
    at_most: int = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class LaunchEntry:
    """One kernel launch: a symbol, its arguments, and on a GPU its grid."""

    kernel: str
    arguments: tuple[Argument, ...]
    grid: GridEntry | None = None


@dataclass(frozen=True, slots=True)
class KvCache:
    """The keys and values of one layer: heads of both, and elements of a key and of a value as they are stored.

    Where `value_dim` is 0, values are the first elements of their keys.
    """

    num_kv_heads: int
    key_dim: int
    value_dim: int

    def bytes_per_token(self, dtype: str) -> tuple[int, int]:
        """Bytes of the keys of a token, and of its values."""
        sizes = (kv_head_bytes(dtype, dim) for dim in (self.key_dim, self.value_dim))
        keys, values = (self.num_kv_heads * size for size in sizes)
        return keys, values


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Shape of the paged key/value cache; a block holds `block_size` tokens of every layer that has a cache.

    Where no layer has one, the first three numbers are 0: blocks take no bytes then, and still count positions.

    Attributes:
        num_layers: that have a cache of their own.
        num_kv_heads: of each, where they are alike; else the most.
        head_dim: elements of a head as it is stored, where they are alike; else the most.
        block_size: tokens.
        dtype: one of `KV_DTYPES`: `f16`, or `q8_0`, int8 with a float16 scale for each `KV_GROUP` elements.
        unlike: each layer's cache, where they are not alike; from format 1.4 on.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: str
    unlike: tuple[KvCache, ...] = ()

    @classmethod
    def of(cls, caches: Sequence[KvCache], block_size: int, dtype: str) -> Self:
        """Return the layout of caches."""
        heads = max((cache.num_kv_heads for cache in caches), default=0)
        size = max((max(cache.key_dim, cache.value_dim) for cache in caches), default=0)
        unlike = () if set(caches) <= {KvCache(heads, size, size)} else tuple(caches)
        return cls(len(caches), heads, size, block_size, dtype, unlike)

    @property
    def caches(self) -> tuple[KvCache, ...]:
        """The cache of each layer that has one."""
        return self.unlike or (KvCache(self.num_kv_heads, self.head_dim, self.head_dim),) * self.num_layers

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block: the keys and the values of all layers."""
        return self.block_size * sum(sum(cache.bytes_per_token(self.dtype)) for cache in self.caches)

    def offset(self, layer: int, values: bool, num_blocks: int) -> int:
        """Where the keys, or the values, of a layer begin in a cache of so many blocks, layer after layer."""
        sizes = [cache.bytes_per_token(self.dtype) for cache in self.caches[: layer + 1]]
        keys, _ = sizes.pop()
        return num_blocks * self.block_size * (sum(map(sum, sizes)) + (keys if values else 0))


def kv_head_bytes(dtype: str, head_dim: int) -> int:
    """Bytes of one key, or one value, of one head."""
    return head_dim + 2 * (head_dim // KV_GROUP) if dtype == "q8_0" else 2 * head_dim


@dataclass(frozen=True, slots=True)
class StateEntry:
    """What a slot of recurrent state holds for one operation: `n_bytes`, a multiple of `STATE_ALIGNMENT`.

    A slot holds all state of one sequence after one of its tokens. Entries lie one after another, each as uint8[slots,
    n_bytes].
    """

    name: str
    n_bytes: int


NORM_KINDS: Final = ("rms", "layer", "none")


@dataclass(frozen=True, slots=True)
class FinalNorm:
    """What makes hidden states of what the last layer leaves in the arena; nothing overwrites that within a step.

    Attributes:
        buffer: float32[T, hidden_size] after the last layer.
        tensor: float32[hidden_size], the weights of the norm that follows; "" where it has none.
        epsilon: of that norm.
        kind: one of `NORM_KINDS`: `rms`, `layer` (which takes the mean away first), or `none`: no norm follows.
        bias: float32[hidden_size], added at the end; "" where there is none.
    """

    buffer: str
    tensor: str
    epsilon: float
    kind: str = "rms"
    bias: str = ""


@dataclass(frozen=True, slots=True)
class Tap:
    """Where a step leaves the rows that a head which drafts tokens reads; nothing overwrites them within a step.

    Attributes:
        buffer: float32[T, columns].
        columns: of a row.
    """

    buffer: str
    columns: int


@dataclass(frozen=True, slots=True)
class Sampler:
    """Where a step's forward pass ends.

    Attributes:
        launch: index of the launch that draws tokens; those before it are the forward pass.
        logits: name of the buffer that it reads, float32[rows of logits, vocab_size].
    """

    launch: int
    logits: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that the runtime needs beside the code and the weights.

    `final_norm` is None in bundles of format 1.0: they give no embeddings. `sampler` is None before format 1.3: see
    `find_sampler`. `head` is there, from format 1.4 on, where a model was made to embed or to rank. Where `both_ways`
    (from 1.4 on) a position sees those after it, so a step has to hold all of a sequence. `adapters` (from 1.4 on) are
    those that requests may ask for by these names, in the order of a step's scales. `states` (from 1.5 on) is what a
    model keeps of a sequence beside keys and values. `input_width`: elements of the rows that a step may be given from
    outside; 0 where it takes none. `tap`: where rows lie that a head reads; None where none does.
    """

    tensors: tuple[TensorEntry, ...]
    buffers: tuple[BufferEntry, ...]
    launches: tuple[LaunchEntry, ...]
    kv: KvLayout
    max_batch_tokens: int
    max_sequences: int
    vocab_size: int
    hidden_size: int
    max_seq_len: int
    final_norm: FinalNorm | None = None
    sampler: Sampler | None = None
    head: Head | None = None
    both_ways: bool = False
    adapters: tuple[str, ...] = ()
    states: tuple[StateEntry, ...] = ()
    input_width: int = 0
    tap: Tap | None = None

    def find_sampler(self) -> Sampler:
        """Return the sampler; before format 1.3 that is the last launch, whose first argument are the logits.

        Raises:
            DeviceError: there is none.
        """
        if self.sampler is not None:
            return self.sampler
        first = self.launches[-1].arguments[:1] if self.launches else ()
        if not first or not isinstance(first[0], BufferRef):
            raise DeviceError("layout: expected a last launch that reads logits, found none")
        return Sampler(len(self.launches) - 1, first[0].name)

    @property
    def weights_bytes(self) -> int:
        """Bytes of its file of weights that the tensors need: the end of the last one."""
        return max((t.offset + t.n_bytes for t in self.tensors), default=0)

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of one slot of recurrent state; 0 where the model has none."""
        return sum(entry.n_bytes for entry in self.states)

    def arena_bytes(self) -> int:
        """Bytes of all buffers for the largest step, each starting at a multiple of 64."""
        sizes = (b.n_bytes(self.max_batch_tokens) for b in self.buffers)
        return sum(-(-size // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT for size in sizes)
