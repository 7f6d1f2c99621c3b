"""layout.msgpack: the plan as the runtime sees it.

The file is one msgpack map. Its three tables (tensors, buffers, launches) are arrays of small positional
arrays, `kv` and `final_norm` are such arrays, and everything else is an integer. It is decoded entry by entry,
never as one object, so that a few bytes that promise four billion elements cost nothing (FAULTS 36, 37).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import msgpack

from .errors import BundleError
from .packing_sizes import packed_bytes

MAX_LAYOUT_BYTES: Final = 64 << 20
TENSOR_ALIGNMENT: Final = 64
ITEM_BYTES: Final = {"float32": 4, "int8": 1, "int32": 4, "uint16": 2, "uint8": 1}

MAX_ARGUMENTS: Final = 8  # of a launch; kernels/host/program.h

_MAX_ENTRIES: Final = {"tensors": 1 << 16, "buffers": 1 << 12, "launches": 1 << 16}
_MAX_ENTRY_ITEMS: Final = 64  # elements of one array inside an entry: its fields, a shape, the arguments
_MAX_DIMS: Final = 8
_MAX_NAME: Final = 512
_MAX_ARENA_BYTES: Final = 1 << 42
_SYMBOL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_GRID_FIELDS: Final = {
    "threads": (1, 1024),
    "x": (1, (1 << 31) - 1),
    "tile": (1, 1 << 20),
    "split": (0, 1 << 30),
    "at_least": (0, (1 << 31) - 1),
    "at_most": (1, (1 << 31) - 1),
}
KV_DTYPES: Final = ("f16", "q8_0")
KV_GROUP: Final = 32  # elements of a head that share a scale in q8_0, as in a GGUF
GRID_ROWS: Final = ("tokens", "logits", "none")
STEP_ARGUMENTS: Final = ("step:image", "step:echo")
"""The host's pinned image of a step, and where it is told which step was computed."""
_KV_ARGUMENT: Final = re.compile(r"kv:(0|[1-9][0-9]{0,5}):(key|value)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checker:
    """Turns untrusted values from `path` into typed ones, or raises a `BundleError` that names the field."""

    path: Path | str

    def fail(self, field: str, problem: str) -> NoReturn:
        """Raise a `BundleError` for `field`."""
        raise BundleError(self.path, field, problem)

    def integer(self, value: object, field: str, low: int = 0, high: int = (1 << 63) - 1) -> int:
        """Return `value` if it is an int (not a bool) in [low, high]."""
        if type(value) is not int:
            self.fail(field, f"expected an integer, found {type(value).__name__}")
        if not low <= value <= high:
            self.fail(field, f"expected {low} to {high}, found {value}")
        return value

    def text(self, value: object, field: str, max_chars: int = _MAX_NAME, empty: bool = False) -> str:
        """Return `value` if it is a str of at most `max_chars` characters, and not empty unless `empty`."""
        if not isinstance(value, str):
            self.fail(field, f"expected a string, found {type(value).__name__}")
        if len(value) > max_chars or not (value or empty):
            self.fail(field, f"expected {0 if empty else 1} to {max_chars} characters, found {len(value)}")
        return value

    def array(self, value: object, field: str, low: int = 0, high: int = _MAX_ENTRY_ITEMS) -> list[object]:
        """Return `value` if it is a list of `low` to `high` elements."""
        if not isinstance(value, list):
            self.fail(field, f"expected an array, found {type(value).__name__}")
        if not low <= len(value) <= high:
            self.fail(field, f"expected {low} to {high} elements, found {len(value)}")
        return value


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One packed tensor inside weights.bin.

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
        rows: what counts in y: `tokens` or `logits` of the step, or `none`.
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
    """One kernel launch: a symbol, and arguments that are each `tensor:NAME`, `buffer:NAME`,
    `kv:LAYER:key`, `kv:LAYER:value` or `none`; of a GPU, from format 1.2 on, also one of `STEP_ARGUMENTS`. The host has
    no grid.
    """

    kernel: str
    arguments: tuple[str, ...]
    grid: GridEntry | None = None


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Shape of the paged key/value cache; a block holds `block_size` tokens of every layer.

    Its `dtype` is one of `KV_DTYPES`: `f16`, or `q8_0`, int8 with a float16 scale for each `KV_GROUP` elements.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: str

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block: the keys and the values of all layers."""
        heads = self.num_layers * self.num_kv_heads * self.block_size
        return 2 * heads * kv_head_bytes(self.dtype, self.head_dim)


def kv_head_bytes(dtype: str, head_dim: int) -> int:
    """Bytes of one key, or one value, of one head."""
    return head_dim + 2 * (head_dim // KV_GROUP) if dtype == "q8_0" else 2 * head_dim


@dataclass(frozen=True, slots=True)
class FinalNorm:
    """What makes hidden states of what the last layer leaves in the arena; nothing overwrites that within a step.

    Attributes:
        buffer: float32[T, hidden_size] after the last layer.
        tensor: float32[hidden_size], the weights of the RMS norm that follows.
        epsilon: of that norm.
    """

    buffer: str
    tensor: str
    epsilon: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that the runtime needs beside the code and the weights.

    `final_norm` is None in bundles of format 1.0: they give no embeddings.
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

    @property
    def weights_bytes(self) -> int:
        """Bytes of weights.bin that the tensors need: the end of the last one."""
        return max((t.offset + t.n_bytes for t in self.tensors), default=0)

    def arena_bytes(self) -> int:
        """Bytes of all buffers for the largest step, each starting at a multiple of 64."""
        sizes = (b.n_bytes(self.max_batch_tokens) for b in self.buffers)
        return sum(-(-size // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT for size in sizes)


_Entry = TensorEntry | BufferEntry | LaunchEntry

# The integers of the file and their largest values; 1 is the smallest.
_SCALARS: Final = {
    "max_batch_tokens": 1 << 20,
    "max_sequences": 1 << 20,
    "vocab_size": (1 << 31) - 1,
    "hidden_size": 1 << 24,
    "max_seq_len": (1 << 31) - 1,
}
_KV_FIELDS: Final = {
    "num_layers": 1 << 12,
    "num_kv_heads": 1 << 16,
    "head_dim": 1 << 16,
    "block_size": 1 << 16,
}


def encode_layout(layout: Layout) -> bytes:
    """Encode a layout; equal layouts give equal bytes."""
    table: dict[str, object] = {
        "tensors": [[t.name, t.packing, list(t.shape), t.offset, t.n_bytes] for t in layout.tensors],
        "buffers": [[b.name, b.dtype, b.elements_per_token, b.elements_fixed] for b in layout.buffers],
        "launches": [[entry.kernel, list(entry.arguments), _encode_grid(entry.grid)] for entry in layout.launches],
        "kv": [*(getattr(layout.kv, name) for name in _KV_FIELDS), layout.kv.dtype],
    }
    table.update({name: getattr(layout, name) for name in _SCALARS})
    if layout.final_norm is not None:
        table["final_norm"] = [layout.final_norm.buffer, layout.final_norm.tensor, layout.final_norm.epsilon]
    encoded: bytes = msgpack.packb(table)
    return encoded


def _encode_grid(grid: GridEntry | None) -> list[object]:
    return [] if grid is None else [grid.rows, *(getattr(grid, name) for name in _GRID_FIELDS)]


def decode_layout(path: Path | str, data: bytes, weights_bytes: int) -> Layout:
    """Decode and check the `data` of the file `path`; tensors must lie inside `weights_bytes` bytes.

    Raises:
        BundleError: anything wrong at all, with the field named.
    """
    check = Checker(path)
    if len(data) > MAX_LAYOUT_BYTES:
        check.fail("size", f"expected at most {MAX_LAYOUT_BYTES} bytes, found {len(data)}")
    try:
        layout = _read(check, data)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise BundleError(path, "msgpack", f"expected a layout, found malformed data ({error!r})") from error
    _check_tensors(check, layout.tensors, weights_bytes)
    _check_launches(check, layout)
    _check_final_norm(check, layout)
    if layout.arena_bytes() > _MAX_ARENA_BYTES:
        check.fail("buffers", f"expected at most {_MAX_ARENA_BYTES} bytes, found {layout.arena_bytes()}")
    return layout


class _Budget:
    """Bounds the elements of all arrays in one entry, however they are nested."""

    def __init__(self) -> None:
        self.spent = 0

    def spend(self, items: list[object]) -> list[object]:
        self.spent += len(items) + 1
        if self.spent > 4 * _MAX_ENTRY_ITEMS:
            raise ValueError("too many elements in one entry")
        return items


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def _read(check: Checker, data: bytes) -> Layout:
    """Read the map key by key; the tables' own counts are checked here, since msgpack bounds no header."""
    budget = _Budget()
    unpacker = msgpack.Unpacker(
        list_hook=budget.spend,
        ext_hook=_refuse_extension,
        max_buffer_size=max(len(data), 1),
        max_str_len=min(len(data), 4 * _MAX_NAME),
        max_array_len=min(len(data), _MAX_ENTRY_ITEMS),
        **dict.fromkeys(("max_bin_len", "max_map_len", "max_ext_len"), 0),
    )
    unpacker.feed(data)
    fields: dict[str, Any] = {}
    for _ in range(unpacker.read_map_header()):
        key = check.text(unpacker.unpack(), "key")
        if key in fields:
            check.fail(key, "expected once, found twice")
        if key in _MAX_ENTRIES:
            fields[key] = tuple(_read_table(check, unpacker, budget, key))
        elif key == "kv":
            budget.spent = 0
            fields[key] = _kv(check, unpacker.unpack())
        elif key == "final_norm":
            budget.spent = 0
            fields[key] = _final_norm(check, unpacker.unpack())
        elif key in _SCALARS:
            fields[key] = check.integer(unpacker.unpack(), key, 1, _SCALARS[key])
        else:
            check.fail(key, "expected no such field")
    if unpacker.tell() != len(data):
        check.fail("msgpack", f"expected {unpacker.tell()} bytes, found {len(data)}")
    for key in (*_MAX_ENTRIES, "kv", *_SCALARS):
        if key not in fields:
            check.fail(key, "expected a value, found none")
    return Layout(**fields)


def _kv(check: Checker, value: object) -> KvLayout:
    *numbers, dtype = check.array(value, "kv", len(_KV_FIELDS) + 1, len(_KV_FIELDS) + 1)
    pairs = zip(_KV_FIELDS.items(), numbers, strict=True)
    integers = (check.integer(number, f"kv.{name}", 1, high) for (name, high), number in pairs)
    num_layers, num_kv_heads, head_dim, block_size = integers
    if dtype == 2:  # format 1.0 had bytes of an element here, always those of float16
        dtype = "f16"
    kind = check.text(dtype, "kv.dtype")
    if kind not in KV_DTYPES:
        check.fail("kv.dtype", f"expected one of {', '.join(KV_DTYPES)}, found {kind!r}")
    if kind == "q8_0" and head_dim % KV_GROUP:
        check.fail("kv.head_dim", f"expected a multiple of {KV_GROUP} for q8_0, found {head_dim}")
    return KvLayout(num_layers, num_kv_heads, head_dim, block_size, kind)


def _read_table(check: Checker, unpacker: Any, budget: _Budget, table: str) -> Iterator[_Entry]:
    """Yield the entries of one table; duplicate tensor and buffer names are refused."""
    count = check.integer(unpacker.read_array_header(), table, 0, _MAX_ENTRIES[table])
    decode = _DECODERS[table]
    seen: set[str] = set()
    for index in range(count):
        budget.spent = 0
        at = f"{table}[{index}]"
        entry = decode(check, unpacker.unpack(), at)
        if not isinstance(entry, LaunchEntry):
            if entry.name in seen:
                check.fail(f"{at}.name", f"expected a unique name, found {entry.name!r} again")
            seen.add(entry.name)
        yield entry


def _tensor(check: Checker, value: object, at: str) -> TensorEntry:
    name, packing, dims, offset, n_bytes = check.array(value, at, 5, 5)
    shape = tuple(check.integer(d, f"{at}.shape", 1, 1 << 48) for d in check.array(dims, f"{at}.shape", 0, _MAX_DIMS))
    return TensorEntry(
        name=check.text(name, f"{at}.name"),
        packing=check.text(packing, f"{at}.packing"),
        shape=shape,
        offset=check.integer(offset, f"{at}.offset"),
        n_bytes=check.integer(n_bytes, f"{at}.n_bytes", 1),
    )


def _buffer(check: Checker, value: object, at: str) -> BufferEntry:
    name, dtype, per_token, fixed = check.array(value, at, 4, 4)
    kind = check.text(dtype, f"{at}.dtype")
    if kind not in ITEM_BYTES:
        check.fail(f"{at}.dtype", f"expected one of {', '.join(ITEM_BYTES)}, found {kind!r}")
    return BufferEntry(
        name=check.text(name, f"{at}.name"),
        dtype=kind,
        elements_per_token=check.integer(per_token, f"{at}.elements_per_token", 0, 1 << 40),
        elements_fixed=check.integer(fixed, f"{at}.elements_fixed", 0, 1 << 40),
    )


def _launch(check: Checker, value: object, at: str) -> LaunchEntry:
    kernel, arguments, grid = check.array(value, at, 3, 3)
    symbol = check.text(kernel, f"{at}.kernel")
    if not _SYMBOL.fullmatch(symbol):
        check.fail(f"{at}.kernel", f"expected a symbol, found {symbol!r}")
    texts = check.array(arguments, f"{at}.arguments", 0, MAX_ARGUMENTS)
    names = tuple(check.text(a, f"{at}.arguments[{i}]") for i, a in enumerate(texts))
    return LaunchEntry(symbol, names, _grid(check, grid, f"{at}.grid"))


def _grid(check: Checker, value: object, at: str) -> GridEntry | None:
    fields = check.array(value, at, 0, 1 + len(_GRID_FIELDS))
    if not fields:
        return None
    if len(fields) != 1 + len(_GRID_FIELDS):
        check.fail(at, f"expected {1 + len(_GRID_FIELDS)} elements, found {len(fields)}")
    rows = check.text(fields[0], f"{at}.rows")
    if rows not in GRID_ROWS:
        check.fail(f"{at}.rows", f"expected one of {', '.join(GRID_ROWS)}, found {rows!r}")
    limits = zip(_GRID_FIELDS.items(), fields[1:], strict=True)
    return GridEntry(
        rows=rows, **{name: check.integer(v, f"{at}.{name}", low, high) for (name, (low, high)), v in limits}
    )


def _final_norm(check: Checker, value: object) -> FinalNorm:
    buffer, tensor, epsilon = check.array(value, "final_norm", 3, 3)
    if not isinstance(epsilon, float) or not 0.0 <= epsilon < 1.0:  # spelled so that a NaN fails
        check.fail("final_norm.epsilon", f"expected a number from 0 to 1, found {epsilon!r}")
    return FinalNorm(check.text(buffer, "final_norm.buffer"), check.text(tensor, "final_norm.tensor"), epsilon)


_Decoder = Callable[[Checker, object, str], _Entry]
_DECODERS: Final[dict[str, _Decoder]] = {"tensors": _tensor, "buffers": _buffer, "launches": _launch}


def _check_tensors(check: Checker, tensors: tuple[TensorEntry, ...], weights_bytes: int) -> None:
    """Check that the tensors lie aligned inside the blob and apart, and that shapes and bytes agree (FAULTS 38, 39)."""
    end, before = 0, ""
    for tensor in sorted(tensors, key=lambda t: t.offset):
        at = f"tensor {tensor.name}"
        if tensor.offset % TENSOR_ALIGNMENT:
            check.fail(f"{at}.offset", f"expected a multiple of {TENSOR_ALIGNMENT}, found {tensor.offset}")
        if tensor.offset + tensor.n_bytes > weights_bytes:
            found = f"{tensor.offset} + {tensor.n_bytes}"
            check.fail(f"{at}.offset", f"expected an end within {weights_bytes} bytes, found {found}")
        if tensor.offset < end:
            check.fail(f"{at}.offset", f"expected at least {end}, the end of {before!r}, found {tensor.offset}")
        try:
            expected = packed_bytes(tensor.packing, tensor.shape)
        except ValueError as error:
            check.fail(f"{at}.shape", f"{error}, found {tensor.packing!r} of {tensor.shape}")
        if tensor.n_bytes != expected:
            problem = f"expected {expected} bytes for {tensor.packing!r} of {tensor.shape}, found {tensor.n_bytes}"
            check.fail(f"{at}.shape", problem)
        end, before = tensor.offset + tensor.n_bytes, tensor.name


def _check_launches(check: Checker, layout: Layout) -> None:
    """Check that each argument names something that exists."""
    known = {
        "none",
        *(f"tensor:{t.name}" for t in layout.tensors),
        *(f"buffer:{b.name}" for b in layout.buffers),
    }
    for index, launch in enumerate(layout.launches):
        for position, argument in enumerate(launch.arguments):
            if argument in known or (launch.grid is not None and argument in STEP_ARGUMENTS):
                continue
            kv = _KV_ARGUMENT.fullmatch(argument)
            if kv is None or int(kv[1]) >= layout.kv.num_layers:
                at = f"launches[{index}].arguments[{position}]"
                check.fail(at, f"expected a known tensor, buffer or layer, found {argument!r}")


def _check_final_norm(check: Checker, layout: Layout) -> None:
    """Check that buffer and tensor exist and are as large as they are read."""
    norm, size = layout.final_norm, layout.hidden_size
    if norm is None:
        return
    buffer = next((b for b in layout.buffers if b.name == norm.buffer), None)
    if buffer is None or (buffer.dtype, buffer.elements_per_token) != ("float32", size):
        check.fail("final_norm.buffer", f"expected a buffer of {size} float32 a token, found {norm.buffer!r}")
    tensor = next((t for t in layout.tensors if t.name == norm.tensor), None)
    if tensor is None or (tensor.packing, tensor.shape) != ("f32", (size,)):
        check.fail("final_norm.tensor", f"expected a tensor f32 of {size} elements, found {norm.tensor!r}")
