"""EAGLE 3 heads, as files beside a model's: what a part `eagle3` of a bundle is compiled of.

A head is a file of its own, of the architecture `eagle3`, made for one model: it says which layers' hidden states it
reads. What it lacks, embedding or output matrix, is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import InputError, printable
from ..artifacts.manifest import HEAD_PART
from .architectures import ARCHITECTURES
from .arrays import is_array
from .derived_source import DerivedSource
from .graph import Weight
from .model_config import ModelConfig
from .model_source import ModelSource, TensorInfo
from .model_tensors import MATRIX_TYPES, VECTOR_TYPES, WeightTensor, weight_tensors
from .models.decoder import output_role
from .models.eagle_head import LAYER, ROPE_TABLE, EagleConfig, graph, shapes
from .parts import PartModel
from .passes import run_passes
from .position_tables import RopeTable
from .read_rope import DEFAULT_ROPE_THETA, MAX_THETA, read_rope_scaling
from .sources import open_source

ARCHITECTURE: Final = "eagle3"
_OPTION = "--draft-head"
_LAYERS: Final = 3  # whose hidden states it reads
_LEAST_TOKENS: Final = 8  # that it drafts: as many as golden records name
_OWN: Final = "eagle3:"
TENSORS: Final = {
    "embedding": "token_embd.weight",
    "fusion_norm": "enc.output_norm.weight",
    "fusion": "fc.weight",
    "embedding_norm": "blk.0.attn_norm.weight",
    "hidden_norm": "blk.0.attn_norm_2.weight",
    "attention_q": "blk.0.attn_q.weight",
    "attention_k": "blk.0.attn_k.weight",
    "attention_v": "blk.0.attn_v.weight",
    "attention_output": "blk.0.attn_output.weight",
    "ffn_norm": "blk.0.ffn_norm.weight",
    "ffn_gate": "blk.0.ffn_gate.weight",
    "ffn_up": "blk.0.ffn_up.weight",
    "ffn_down": "blk.0.ffn_down.weight",
    "final_norm": "output_norm.weight",
    "output": "output.weight",
    "rope_factors": "rope_freqs.weight",
}
"""By role, names of a head's tensors in its file, as llama.cpp writes them."""
_TOKENS: Final = "d2t"
_OPTIONAL: Final = ("embedding", "output", "rope_factors")


class HeadSource(DerivedSource):
    """A model's tensors, and under names with `_OWN` before them those of its head."""

    __slots__ = ("_head",)

    def __init__(self, model: ModelSource, head: ModelSource) -> None:
        own = {_OWN + name: replace(info, name=_OWN + name) for name, info in head.tensors.items()}
        super().__init__(model, {**model.tensors, **own})
        self._head = head
        self.path, self.metadata = head.path, head.metadata

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        if name.startswith(_OWN):
            return self._head.read_rows(name.removeprefix(_OWN), first, count)
        return self.base.read_rows(name, first, count)

    def error(self, key: str, problem: str) -> InputError:
        """See `ModelSource`; of the head's file."""
        return self._head.error(key.removeprefix(_OWN), problem)


@dataclass(frozen=True, slots=True)
class EagleHead:
    """A head that fits a model.

    Attributes:
        file: it.
        layers: of the model, before which it reads the residual stream.
        config: its sizes.
        table: by which its heads rotate.
        tokens: int64[tokens that it drafts], the model's number of each; None: it drafts all.
    """

    file: ModelSource
    layers: tuple[int, ...]
    config: EagleConfig
    table: RopeTable
    tokens: npt.NDArray[np.int64] | None


def read_eagle(path: Path, config: ModelConfig) -> EagleHead:
    """Read a head for a model.

    Raises:
        InputError: it cannot be trusted, or is another model's.
    """
    file = open_source(path)
    architecture = file.get_str("general.architecture")
    if architecture != ARCHITECTURE:
        problem = f"expected {ARCHITECTURE}, as heads have ({_OPTION}), found {printable(architecture)!r}"
        raise file.error("general.architecture", problem)
    file.get_int("eagle3.block_count", None, 1, 1)
    width = file.get_int("eagle3.target_hidden_size", None, 1)
    if width != config.hidden_size:
        problem = f"expected {config.hidden_size}, as the model has ({_OPTION}), found {width}"
        raise file.error("eagle3.target_hidden_size", problem)
    found = _config(file, width)
    row = replace(ARCHITECTURES["llama"], name=ARCHITECTURE)
    theta = file.get_float("eagle3.rope.freq_base", DEFAULT_ROPE_THETA, minimum=1, maximum=MAX_THETA)
    length = file.get_int("eagle3.context_length", None, 1)
    table = RopeTable(theta, found.rope_dim, read_rope_scaling(file, row, length))
    head = EagleHead(file, _layers(file, config), found, table, _tokens(file, config.vocab_size))
    _check_tensors(head, config)
    return head


def _config(file: ModelSource, width: int) -> EagleConfig:
    hidden = file.get_int("eagle3.embedding_length", None, 1, 1 << 17)
    heads = file.get_int("eagle3.attention.head_count", None, 1, 1024)
    kv_heads = file.get_int("eagle3.attention.head_count_kv", heads, 1, heads)
    if heads % kv_heads:
        raise file.error("eagle3.attention.head_count_kv", f"expected a divisor of {heads}, found {kv_heads}")
    head_dim = file.get_int("eagle3.attention.key_length", hidden // heads, 2, 1024)
    file.get_int("eagle3.attention.value_length", head_dim, head_dim, head_dim)
    rope_dim = file.get_int("eagle3.rope.dimension_count", head_dim, 2, head_dim)
    for key, number in (("attention.key_length", head_dim), ("rope.dimension_count", rope_dim)):
        if number % 2:
            raise file.error(f"eagle3.{key}", f"expected an even number, found {number}")
    return EagleConfig(
        hidden_size=hidden,
        given_size=_LAYERS * width,
        intermediate_size=file.get_int("eagle3.feed_forward_length", None, 1, 1 << 20),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rope_dim=rope_dim,
        norm_epsilon=file.get_float("eagle3.attention.layer_norm_rms_epsilon", minimum=1e-12, maximum=1),
        adds_to_normed=file.get_bool("eagle3.norm_before_residual", False),
    )


def _layers(file: ModelSource, config: ModelConfig) -> tuple[int, ...]:
    key = "eagle3.target_layers"
    value = file.metadata.get(key)
    found = [int(one) for one in np.asarray(value).tolist()] if is_array(value) and len(value) == _LAYERS else []
    if not found or not all(0 <= one <= config.num_layers for one in found):
        told = f"{found}" if found else "others"
        raise file.error(key, f"expected {_LAYERS} layers from 0 to {config.num_layers} ({_OPTION}), found {told}")
    return tuple(found)


def _tokens(file: ModelSource, vocab_size: int) -> npt.NDArray[np.int64] | None:
    """Return the model's number of each token that the head drafts; None where these are all."""
    if _TOKENS not in file.tensors:
        return None
    info = file.tensor(_TOKENS)
    if info.ggml_type.name != "I64" or len(info.shape) != 1:
        raise file.error(_TOKENS, f"expected a row of I64, found {list(info.shape)} of {info.ggml_type.name}")
    tokens = file.read_tensor(_TOKENS).view("<i8").astype(np.int64)
    inside = ((tokens >= 0) & (tokens < vocab_size)).all()
    if len(tokens) < _LEAST_TOKENS or not inside or len(np.unique(tokens)) < len(tokens):
        problem = f"expected at least {_LEAST_TOKENS} different tokens from 0 to {vocab_size - 1}, found others"
        raise file.error(_TOKENS, problem)
    return tokens


def _check_tensors(head: EagleHead, config: ModelConfig) -> None:
    """Hold a head's tensors against its sizes, and what it lacks against the model's."""
    file, count = head.file, config.vocab_size if head.tokens is None else len(head.tokens)
    expected = shapes(head.config, config.vocab_size, count)
    lacks = [role for role in _OPTIONAL if TENSORS[role] not in file.tensors]
    has_norm = file.get_bool("eagle3.norm_before_fc", False)
    for role in (role for role in TENSORS if role not in lacks and (role != "fusion_norm" or has_norm)):
        info, shape = file.tensor(TENSORS[role]), expected[role]
        if info.shape != shape:
            raise file.error(info.name, f"expected shape {list(shape)} ({_OPTION}), found {list(info.shape)}")
        known = MATRIX_TYPES if len(shape) == 2 else VECTOR_TYPES
        if info.ggml_type not in known:
            names = ", ".join(kind.name for kind in known)
            raise file.error(info.name, f"expected a type of {names}, found {info.ggml_type.name}")
    for role in ("embedding", "output"):
        if role in lacks and head.config.hidden_size != config.hidden_size:
            raise file.error(TENSORS[role], "expected this tensor: the model's rows have another width, found none")
    if "output" in lacks and head.tokens is not None:
        raise file.error(TENSORS["output"], f"expected this tensor beside {_TOKENS}, found none")
    known_names = {*TENSORS.values(), _TOKENS}
    for name in file.tensors:
        if name not in known_names and name.endswith((".bias", ".scale")):
            raise file.error(name, f"expected no such tensor in a head of {ARCHITECTURE}, found it")


def eagle_part(head: EagleHead, source: ModelSource, config: ModelConfig, max_seq_len: int) -> PartModel:
    """Return the part of a bundle that is a head of its model."""
    part = drawn_part(head, source, config, max_seq_len)
    return replace(part, graph=run_passes(part.graph))


def drawn_part(head: EagleHead, source: ModelSource, config: ModelConfig, max_seq_len: int) -> PartModel:
    """Return the part with its graph as it is drawn, before any pass."""
    both = HeadSource(source, head.file)
    tensors, made = _weight_tensors(head, both, config), _made(head, config.vocab_size)
    tables = {ROPE_TABLE: head.table}
    weights = {role: Weight(role, one.shape, one.ggml_type.name) for role, one in tensors.items()}
    weights |= {role: Weight(role, numbers.shape, "F32") for role, numbers in made.items()}
    weights[ROPE_TABLE] = Weight(ROPE_TABLE, head.table.shape(max_seq_len), "F32")
    drawn = graph(head.config, weights, output_role(config))
    sizes = max_seq_len, config.vocab_size, head.config.hidden_size
    facts = {"reads": "layers", "layers": list(head.layers)}
    return PartModel(HEAD_PART, both, tensors, tables, drawn, *sizes, facts=facts, of_model=True, made=made)


def _weight_tensors(head: EagleHead, source: HeadSource, config: ModelConfig) -> Mapping[str, WeightTensor]:
    """Return the head's tensors by role, and those of the model that stand for what it lacks."""
    found: dict[str, WeightTensor] = {}
    names = {role: _OWN + name for role, name in TENSORS.items() if name in head.file.tensors}
    if not head.file.get_bool("eagle3.norm_before_fc", False):
        names.pop("fusion_norm", None)
    for role, name in names.items():
        info: TensorInfo = source.tensor(name)
        own = role if role == "rope_factors" else LAYER + role
        found[own] = WeightTensor(info, info.shape)
    of_model = weight_tensors(source.base, config)
    for role, stands in (("embedding", "token_embedding"), ("output", output_role(config))):
        if role not in names:
            found[stands] = of_model[stands]
    return found


def _made(head: EagleHead, vocab_size: int) -> dict[str, npt.NDArray[np.float32]]:
    """Return where the logit of each of the model's tokens stands among the head's; see `ops/token_logits.py`."""
    if head.tokens is None:
        return {}
    columns = np.full(vocab_size, -1, np.float32)  # exact: a vocabulary has fewer than 2^24 tokens
    columns[head.tokens] = np.arange(len(head.tokens), dtype=np.float32)
    return {f"{LAYER}draft_tokens": columns}
