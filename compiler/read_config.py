"""Stage: a checked GGUF file in, the model's hyperparameters out.

What leaves here is consistent: bounds hold, and every tensor that the model needs is there with the shape and
a type that the rest of the compiler knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..artifacts.errors import printable
from .architectures import ARCHITECTURES, REFUSED
from .model_config import ModelConfig
from .model_source import ModelSource, checked_int
from .model_tensors import check_tensors
from .models.architecture import Architecture
from .read_experts import with_experts
from .read_head import read_head
from .read_recurrence import with_recurrence
from .read_rope import DEFAULT_ROPE_THETA, MAX_THETA, read_rope_scaling, with_sections, with_temperatures, with_windows

MAX_LAYERS = 1024
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_HIDDEN_SIZE = 1 << 17
MAX_INTERMEDIATE_SIZE = 1 << 20
MAX_VOCAB_SIZE = 1 << 21
MAX_SEQ_LEN = 1 << 24
NUMBERS: Mapping[str, float] = MappingProxyType(
    {
        "attention_scale": 0.0,
        "attention_softcap": 0.0,
        "embedding_scale": 1.0,
        "logit_scale": 1.0,
        "logit_softcap": 0.0,
        "max_alibi_bias": 0.0,
        "qkv_clamp": 0.0,
        "residual_scale": 1.0,
        "value_scale": 1.0,
    }
)
"""Fields of `ModelConfig` that some files have a key for, and what they are without."""


def read_config(gguf_file: ModelSource, drafting: bool = False) -> ModelConfig:
    """Translate a file's metadata, and check its tensors against it.

    Args:
        drafting: it is a block that drafts tokens, as `draft_head.py` makes it a model of one layer.

    Raises:
        GgufError: an architecture or feature that is not supported, a value out of bounds, or a tensor that
            is missing or has another shape or type than the metadata implies.
    """
    row = _architecture(gguf_file)
    _refuse_unsupported(gguf_file, row)
    hidden_size = gguf_file.get_int(row.key("hidden_size"), minimum=1, maximum=MAX_HIDDEN_SIZE)
    num_layers, draft_layers = _num_layers(gguf_file, row)
    intermediate_size = _of_layers(gguf_file, row, "intermediate_size", num_layers, MAX_INTERMEDIATE_SIZE)
    num_heads = _of_layers(gguf_file, row, "num_heads", num_layers, MAX_HEADS)
    head_dim = _head_dim(gguf_file, row, hidden_size, max(num_heads))
    num_kv_heads = _num_kv_heads(gguf_file, row, num_heads)
    max_seq_len = gguf_file.get_int(row.key("max_seq_len"), minimum=1, maximum=MAX_SEQ_LEN)
    config = ModelConfig(
        architecture=row.name,
        name=gguf_file.get_str("general.name", gguf_file.path.stem),
        hidden_size=hidden_size,
        intermediate_size=max(intermediate_size),
        num_layers=num_layers,
        draft_layers=draft_layers,
        num_heads=max(num_heads),
        num_kv_heads=max(num_kv_heads),
        head_dim=head_dim,
        value_dim=_value_dim(gguf_file, row, head_dim),
        vocab_size=_vocab_size(gguf_file, row),
        max_seq_len=max_seq_len,
        rope_theta=gguf_file.get_float(row.key("rope_theta"), DEFAULT_ROPE_THETA, minimum=1, maximum=MAX_THETA),
        norm_epsilon=_norm_epsilon(gguf_file, row),
        rope_style=row.rope_style,
        rope_dim=_rope_dim(gguf_file, row, head_dim),
        rope_scaling=read_rope_scaling(gguf_file, row, max_seq_len),
        tie_word_embeddings=row.tensor_name("output") not in gguf_file.tensors,
        by_layer=_differing(intermediate_size=intermediate_size, num_heads=num_heads, num_kv_heads=num_kv_heads),
        bounded="position_embedding" in row.tensors and row.tensor_name("position_embedding") in gguf_file.tensors,
        parallel="parallel" in row.keys and gguf_file.get_bool(row.key("parallel"), True),
        **_numbers(gguf_file, row),
    )
    if not drafting:  # such a block has attention, whatever the model's own have
        config = with_recurrence(gguf_file, row, config)
    config = with_temperatures(gguf_file, row, with_windows(gguf_file, row, config))
    config = with_sections(gguf_file, row, config)
    config = with_experts(gguf_file, row, config)
    config = row.refine(gguf_file, config)
    config = replace(config, head=read_head(gguf_file, config), drafting=drafting)
    check_tensors(gguf_file, config)
    return config


def _num_layers(source: ModelSource, row: Architecture) -> tuple[int, int]:
    """Return the blocks of the model, and those behind them that draft tokens, which files count among them."""
    count = source.get_int(row.key("num_layers"), minimum=1, maximum=MAX_LAYERS)
    drafts = source.get_int(row.key("draft_layers"), 0, 0, count - 1) if "draft_layers" in row.keys else 0
    return count - drafts, drafts


def _rope_dim(source: ModelSource, row: Architecture, head_dim: int) -> int:
    if row.rope_style == "none":
        return 0
    key = row.key("rope_dim")
    rope_dim = source.get_int(key, head_dim, minimum=2, maximum=head_dim)
    if rope_dim % 2:
        raise source.error(key, f"expected an even number, found {rope_dim}")
    return rope_dim


def _norm_epsilon(source: ModelSource, row: Architecture) -> float:
    key, default = row.key("norm_epsilon"), row.defaults.get("norm_epsilon")
    if default is not None and not source.get_float(key, 0.0, 0, 1):
        return default
    if key not in source.metadata and "norm_epsilon_else" in row.keys:
        key = row.key("norm_epsilon_else")
    return source.get_float(key, minimum=1e-12, maximum=1)


def _numbers(source: ModelSource, row: Architecture) -> dict[str, Any]:
    """Return the numbers of which the row names the key, or says what they are; 0 in the file is that there is none."""
    found = {name: row.defaults.get(name, usual) for name, usual in NUMBERS.items()}
    said = (name for name in NUMBERS if name in row.keys and row.key(name) in source.metadata)
    return found | {name: source.get_float(row.key(name), None, -1e6, 1e6) or NUMBERS[name] for name in said}


def _architecture(gguf_file: ModelSource) -> Architecture:
    key = "general.architecture"
    name = gguf_file.get_str(key)
    if name in REFUSED:
        raise gguf_file.error(key, f"{name} has {REFUSED[name]}, which is not supported")
    if name not in ARCHITECTURES:
        known = f"one of the {len(ARCHITECTURES)} architectures of docs/architectures.md"
        raise gguf_file.error(key, f"expected {known}, found {printable(name)}")
    return ARCHITECTURES[name]


def _refuse_unsupported(gguf_file: ModelSource, row: Architecture) -> None:
    if "causal" in row.keys and not gguf_file.get_bool(row.key("causal"), True):
        raise gguf_file.error(row.key("causal"), "expected causal attention, found an encoder")


def _of_layers(source: ModelSource, row: Architecture, name: str, num_layers: int, maximum: int) -> tuple[int, ...]:
    """Return an integer of each layer, which the source has one by one, or once for all.

    With recurrent state some layers may have none, and a model that no layer of which has any has no key for it.
    """
    if name not in row.keys:
        return (0,) * num_layers
    key, minimum = row.key(name), 1 if row.mixer is None else 0
    if key not in source.metadata and name == "intermediate_size" and not _is_dense(source, row, num_layers):
        return (0,) * num_layers
    if source.get_numbers(key) is None:
        return (source.get_int(key, None, minimum, maximum),) * num_layers
    values = source.get_int_list(key)
    if len(values) < num_layers:
        raise source.error(key, f"expected a value for each of {num_layers} layers, found {len(values)}")
    return tuple(checked_int(source.error, key, value, minimum, maximum) for value in values[:num_layers])


def _is_dense(source: ModelSource, row: Architecture, num_layers: int) -> bool:
    """Return whether a layer has a feed-forward without experts: files of mixtures without may not say its width."""
    names = (row.tensor_name("ffn_down", layer) for layer in range(num_layers)) if row.mixture is not None else ()
    return row.mixture is None or any(name in source.tensors for name in names)


def _differing(**values: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return those values that differ between layers."""
    return {name: of_layers for name, of_layers in values.items() if len(set(of_layers)) > 1}


def _head_dim(gguf_file: ModelSource, row: Architecture, hidden_size: int, num_heads: int) -> int:
    if not num_heads:
        return 0
    key = row.key("key_length")
    if key not in gguf_file.metadata and hidden_size % num_heads:
        problem = f"expected a divisor of the hidden size {hidden_size}, found {num_heads}"
        raise gguf_file.error(row.key("num_heads"), problem)
    return gguf_file.get_int(key, hidden_size // num_heads, minimum=2, maximum=MAX_HEAD_DIM)


def _value_dim(source: ModelSource, row: Architecture, head_dim: int) -> int:
    """Return the elements of a head of values; 0 where keys have as many."""
    if not head_dim:
        return 0
    found = source.get_int(row.key("value_length"), head_dim, minimum=2, maximum=MAX_HEAD_DIM)
    return 0 if found == head_dim else found


def _num_kv_heads(source: ModelSource, row: Architecture, num_heads: tuple[int, ...]) -> tuple[int, ...]:
    key = row.key("num_kv_heads") if max(num_heads) else ""
    if key not in source.metadata:
        return num_heads
    found = _of_layers(source, row, "num_kv_heads", len(num_heads), max(num_heads))
    for heads, kv_heads in zip(num_heads, found, strict=True):
        if kv_heads and heads % kv_heads:
            raise source.error(key, f"expected a divisor of the {heads} heads, found {kv_heads}")
    return found


def _vocab_size(gguf_file: ModelSource, row: Architecture) -> int:
    name = row.tensor_name("token_embedding")
    if name not in gguf_file.tensors:
        raise gguf_file.error(name, "expected this tensor, found none of that name")
    rows = gguf_file.tensors[name].shape[0]
    if rows > MAX_VOCAB_SIZE:
        raise gguf_file.error(name, f"expected at most {MAX_VOCAB_SIZE} rows, found {rows}")
    return rows
