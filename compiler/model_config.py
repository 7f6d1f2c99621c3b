"""Stage: a checked GGUF file in, the model's hyperparameters out.

What leaves here is consistent: bounds hold, and every tensor that the model needs is there with the shape and
a type that the rest of the compiler knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from ..artifacts.errors import printable
from ..artifacts.formats import FORMATS
from .architectures import ARCHITECTURES, Architecture, RopeStyle
from .gguf_file import GgufFile, TensorInfo

Quant = GGMLQuantizationType

MATRIX_TYPES = tuple(GGMLQuantizationType[name] for name in FORMATS)
VECTOR_TYPES = tuple(kind for kind in MATRIX_TYPES if FORMATS[kind.name].is_float)

MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
HEAD_DIM_MULTIPLE = 16  # attention works on vectors of 16 elements of a head
MAX_HIDDEN_SIZE = 1 << 17
MAX_INTERMEDIATE_SIZE = 1 << 20
MAX_VOCAB_SIZE = 1 << 21
MAX_SEQ_LEN = 1 << 24
DEFAULT_ROPE_THETA = 10000.0

# Tensors with these endings change the result: one that no role names must not be passed over.
_MEANINGFUL_ENDINGS = (".bias", ".scale")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched for long contexts.

    Attributes:
        kind: "none"; "linear": all frequencies divided by `factor`; "factors": each divided by its own number
            from the tensor `rope_factors` (Llama 3.1 to 3.3), and by `factor`.
        factor: 1 where nothing else is said.
    """

    kind: Literal["none", "linear", "factors"] = "none"
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Hyperparameters of a decoder-only transformer with RMS norms, rotary positions and SwiGLU.

    Attributes:
        architecture: name of a row of `ARCHITECTURES`.
        name: the model's own name, untrusted text.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward's inside.
        num_layers: transformer blocks.
        num_heads: query heads; a multiple of `num_kv_heads`.
        num_kv_heads: key and value heads.
        head_dim: elements of one head; a multiple of `HEAD_DIM_MULTIPLE`.
        vocab_size: rows of the token embedding.
        max_seq_len: tokens of context that the model was trained for.
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: added to the mean square in every RMS norm.
        rope_style: which elements rotate together, see `Architecture`.
        rope_dim: elements at a head's front that rotate; even, at most `head_dim`.
        rope_scaling: see `RopeScaling`.
        qkv_bias: the query, key and value projections have biases.
        qk_norm: queries and keys pass an RMS norm over each head.
        tie_word_embeddings: the token embedding serves as the output projection too.
    """

    architecture: str
    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_seq_len: int
    rope_theta: float
    rms_norm_eps: float
    rope_style: RopeStyle
    rope_dim: int
    rope_scaling: RopeScaling
    qkv_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool

    def inverse_frequencies(self, factors: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
        """Angles, in radians, that one position turns each pair by.

        Args:
            factors: float32[rope_dim / 2] divisors, for the scaling kind "factors"; else None.

        Returns:
            float32[rope_dim / 2]: theta^(-2i / rope_dim) / factor.
        """
        exponents = -2.0 * np.arange(self.rope_dim // 2, dtype=np.float64) / self.rope_dim
        frequencies = self.rope_theta**exponents / self.rope_scaling.factor
        if factors is not None:
            frequencies = frequencies / factors.astype(np.float64)
        return frequencies.astype(np.float32)


def read_config(gguf_file: GgufFile) -> ModelConfig:
    """Translate a file's metadata, and check its tensors against it.

    Raises:
        GgufError: an architecture or feature that is not supported, a value out of bounds, or a tensor that
            is missing or has another shape or type than the metadata implies.
    """
    row = _architecture(gguf_file)
    _refuse_unsupported(gguf_file, row)
    hidden_size = gguf_file.get_int(row.key("hidden_size"), minimum=1, maximum=MAX_HIDDEN_SIZE)
    num_heads = gguf_file.get_int(row.key("num_heads"), minimum=1, maximum=MAX_HEADS)
    head_dim = _head_dim(gguf_file, row, hidden_size, num_heads)
    rope_dim = gguf_file.get_int(row.key("rope_dim"), head_dim, minimum=2, maximum=head_dim)
    if rope_dim % 2:
        raise gguf_file.error(row.key("rope_dim"), f"expected an even number, found {rope_dim}")
    tensors = gguf_file.tensors
    config = ModelConfig(
        architecture=row.name,
        name=gguf_file.get_str("general.name", gguf_file.path.stem),
        hidden_size=hidden_size,
        intermediate_size=gguf_file.get_int(row.key("intermediate_size"), minimum=1, maximum=MAX_INTERMEDIATE_SIZE),
        num_layers=gguf_file.get_int(row.key("num_layers"), minimum=1, maximum=MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(gguf_file, row, num_heads),
        head_dim=head_dim,
        vocab_size=_vocab_size(gguf_file, row),
        max_seq_len=gguf_file.get_int(row.key("max_seq_len"), minimum=1, maximum=MAX_SEQ_LEN),
        rope_theta=gguf_file.get_float(row.key("rope_theta"), DEFAULT_ROPE_THETA, minimum=1, maximum=1e15),
        rms_norm_eps=gguf_file.get_float(row.key("rms_norm_eps"), minimum=1e-12, maximum=1),
        rope_style=row.rope_style,
        rope_dim=rope_dim,
        rope_scaling=_rope_scaling(gguf_file, row),
        qkv_bias=row.tensor_name("attention_q_bias") in tensors if row.qkv_bias is None else row.qkv_bias,
        qk_norm=row.qk_norm,
        tie_word_embeddings=row.tensor_name("output") not in tensors,
    )
    _check_tensors(gguf_file, config)
    return config


def weight_tensors(gguf_file: GgufFile, config: ModelConfig) -> Mapping[str, TensorInfo]:
    """Return the model's tensors by role: `token_embedding`, `layers.0.attention_q` and so on.

    Raises:
        GgufError: one is missing.
    """
    found: dict[str, TensorInfo] = {}
    for role, name, _ in _needed(config):
        if name not in gguf_file.tensors:
            raise gguf_file.error(name, "expected this tensor, found none of that name")
        found[role] = gguf_file.tensors[name]
    return found


def unused_tensors(gguf_file: GgufFile, config: ModelConfig) -> tuple[str, ...]:
    """Return the names of tensors that the model does not use, in the file's order."""
    used = {name for _, name, _ in _needed(config)}
    return tuple(name for name in gguf_file.tensors if name not in used)


def _architecture(gguf_file: GgufFile) -> Architecture:
    key = "general.architecture"
    name = gguf_file.get_str(key)
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise gguf_file.error(key, f"expected a supported architecture ({known}), found {printable(name)}")
    return ARCHITECTURES[name]


def _refuse_unsupported(gguf_file: GgufFile, row: Architecture) -> None:
    experts = gguf_file.get_int(row.key("num_experts"), 0)
    if experts:
        problem = f"expected a dense model, found a mixture of {experts} experts, which is not supported"
        raise gguf_file.error(row.key("num_experts"), problem)
    if not gguf_file.get_bool(row.key("causal"), True):
        raise gguf_file.error(row.key("causal"), "expected causal attention, found an encoder")
    shards = gguf_file.get_int("split.count", 0)
    if shards > 1:
        raise gguf_file.error("split.count", f"expected one whole file, found one of {shards} shards")


def _head_dim(gguf_file: GgufFile, row: Architecture, hidden_size: int, num_heads: int) -> int:
    key = row.key("key_length")
    if key not in gguf_file.metadata and hidden_size % num_heads:
        problem = f"expected a divisor of the hidden size {hidden_size}, found {num_heads}"
        raise gguf_file.error(row.key("num_heads"), problem)
    head_dim = gguf_file.get_int(key, hidden_size // num_heads, minimum=2, maximum=MAX_HEAD_DIM)
    if head_dim % HEAD_DIM_MULTIPLE:
        at = key if key in gguf_file.metadata else row.key("num_heads")
        raise gguf_file.error(at, f"expected heads of a multiple of {HEAD_DIM_MULTIPLE} elements, found {head_dim}")
    value_length = gguf_file.get_int(row.key("value_length"), head_dim)
    if value_length != head_dim:
        problem = f"expected the key length {head_dim}, found {value_length}"
        raise gguf_file.error(row.key("value_length"), problem)
    return head_dim


def _num_kv_heads(gguf_file: GgufFile, row: Architecture, num_heads: int) -> int:
    key = row.key("num_kv_heads")
    num_kv_heads = gguf_file.get_int(key, num_heads, minimum=1, maximum=num_heads)
    if num_heads % num_kv_heads:
        raise gguf_file.error(key, f"expected a divisor of the {num_heads} heads, found {num_kv_heads}")
    return num_kv_heads


def _vocab_size(gguf_file: GgufFile, row: Architecture) -> int:
    name = row.tensor_name("token_embedding")
    if name not in gguf_file.tensors:
        raise gguf_file.error(name, "expected this tensor, found none of that name")
    rows = gguf_file.tensors[name].shape[0]
    if rows > MAX_VOCAB_SIZE:
        raise gguf_file.error(name, f"expected at most {MAX_VOCAB_SIZE} rows, found {rows}")
    return rows


def _rope_scaling(gguf_file: GgufFile, row: Architecture) -> RopeScaling:
    """Source: llama.cpp `llama_model::load_hparams`: linear is what a bare factor means; 0 means none."""
    key = row.key("rope_scaling_kind")
    kind = gguf_file.get_str(key, "linear")
    if kind not in ("none", "linear"):
        raise gguf_file.error(key, f"expected none or linear, found {printable(kind)}, which is not supported")
    old = gguf_file.get_float(row.key("rope_scale_linear"), 0.0, minimum=0, maximum=1e6)
    factor = gguf_file.get_float(row.key("rope_scaling_factor"), old, minimum=0, maximum=1e6)
    if kind == "none" or factor == 0:
        factor = 1.0
    if row.rope_factors and row.tensor_name("rope_factors") in gguf_file.tensors:
        return RopeScaling("factors", factor)
    return RopeScaling("none" if factor == 1 else "linear", factor)


def _needed(config: ModelConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield (role, GGUF name, shape) of every tensor that the model has."""
    row = ARCHITECTURES[config.architecture]
    shapes = _shapes(config)
    for role in row.tensors:
        if role in shapes and not row.is_layer_role(role):
            yield role, row.tensor_name(role), shapes[role]
    for layer in range(config.num_layers):
        for role in row.tensors:
            if role in shapes and row.is_layer_role(role):
                yield f"layers.{layer}.{role}", row.tensor_name(role, layer), shapes[role]


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each role that the model has; matrices are [outputs, inputs]."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding": (config.vocab_size, hidden),
        "output_norm": (hidden,),
        "attention_norm": (hidden,),
        "attention_q": (query, hidden),
        "attention_k": (key, hidden),
        "attention_v": (key, hidden),
        "attention_output": (hidden, query),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    if not config.tie_word_embeddings:
        shapes["output"] = (config.vocab_size, hidden)
    if config.rope_scaling.kind == "factors":
        shapes["rope_factors"] = (config.rope_dim // 2,)
    if config.qkv_bias:
        shapes |= {"attention_q_bias": (query,), "attention_k_bias": (key,), "attention_v_bias": (key,)}
    if config.qk_norm:
        shapes |= {"attention_q_norm": (config.head_dim,), "attention_k_norm": (config.head_dim,)}
    return shapes


def _check_tensors(gguf_file: GgufFile, config: ModelConfig) -> None:
    tensors = weight_tensors(gguf_file, config)
    for role, name, shape in _needed(config):
        tensor = tensors[role]
        if tensor.shape != shape:
            raise gguf_file.error(name, f"expected shape {list(shape)}, found {list(tensor.shape)}")
        known: tuple[Quant, ...] = MATRIX_TYPES if len(shape) == 2 else VECTOR_TYPES
        if role == "rope_factors":
            known = (Quant.F32,)
        if tensor.ggml_type not in known:
            names = ", ".join(kind.name for kind in known)
            raise gguf_file.error(name, f"expected a type of {names}, found {tensor.ggml_type.name}")
    if "rope_factors" in tensors:
        name = tensors["rope_factors"].name
        factors = gguf_file.read_tensor(name).view("<f4")
        if not (np.isfinite(factors) & (factors > 0)).all():
            raise gguf_file.error(name, "expected positive, finite divisors, found others")
    for name in unused_tensors(gguf_file, config):
        if name.endswith(_MEANINGFUL_ENDINGS):
            raise gguf_file.error(name, f"expected no such tensor in a {config.architecture} model, found it")
