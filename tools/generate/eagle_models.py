"""Small EAGLE 3 heads with random weights, for models of `architecture_models`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from rocmforge.compiler.eagle import TENSORS
from rocmforge.compiler.models.eagle_head import EagleConfig, shapes
from rocmforge.tools.generate.architecture_models import add_tokens, write_architecture
from rocmforge.tools.generate.gguf_writing import finish

TARGETS: Final = ("llama", "qwen3")
"""Architectures of the models that heads are made for here."""
LAYERS: Final = 4  # of these
TAPS: Final = (1, 2, 3)  # before which a head reads
_HIDDEN, _VOCAB, _DRAFTED = 64, 96, 40


def sizes(own: bool, target: int = _HIDDEN) -> EagleConfig:
    """Return the sizes of a head for a model of width `target`; `own`: it is half as wide."""
    hidden = target // 2 if own else target
    return EagleConfig(hidden, len(TAPS) * target, 96, 4, 2, 16, 16, 1e-5, own)


def write_head(
    path: Path,
    own: bool = False,
    seed: int = 0,
    *,
    keys: Mapping[str, int | Sequence[int]] | None = None,
    tensors: Mapping[str, tuple[int, ...] | None] | None = None,
    tokens: Sequence[int] | None = None,
    kv_heads: int = 2,
    adds_to_normed: bool | None = None,
    context: int = 64,
) -> Path:
    """Write a head for models of 64 columns and 96 tokens; returns `path`.

    Args:
        path: where to.
        own: it has an embedding and an output matrix of its own, of fewer columns, drafts 40 tokens, divides
            frequencies, norms what it is given, and adds to what is normed.
        seed: of all weights.
        keys: that are not as usual, without the architecture.
        tensors: likewise, by name; None: there is none.
        tokens: that it drafts, in the stead of those that the seed chooses.
        kv_heads: heads of keys and values.
        adds_to_normed: see `EagleConfig`; None: as `own`.
        context: positions of a sequence.
    """
    random, config = np.random.default_rng([seed, own]), replace(sizes(own), num_kv_heads=kv_heads)
    if own and tokens is None:
        tokens = random.permutation(_VOCAB)[:_DRAFTED].tolist()
    writer = gguf.GGUFWriter(path, "eagle3")
    numbers: dict[str, int | Sequence[int]] = {
        "block_count": 1,
        "context_length": context,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.rope_dim,
        "target_hidden_size": _HIDDEN,
        "target_layers": TAPS,
        **(keys or {}),
    }
    for key, value in numbers.items():
        if isinstance(value, int):
            writer.add_uint32(f"eagle3.{key}", value)
        else:
            writer.add_array(f"eagle3.{key}", list(value))
    writer.add_float32("eagle3.attention.layer_norm_rms_epsilon", config.norm_epsilon)
    writer.add_float32("eagle3.rope.freq_base", 10000.0)
    writer.add_bool("eagle3.norm_before_residual", own if adds_to_normed is None else adds_to_normed)
    writer.add_bool("eagle3.norm_before_fc", own)
    add_tokens(writer, _VOCAB)
    left_out = () if own else ("embedding", "output", "fusion_norm", "rope_factors")
    known = shapes(config, _VOCAB, _VOCAB if tokens is None else len(tokens))
    found: dict[str, tuple[int, ...] | None] = {TENSORS[role]: known[role] for role in TENSORS if role not in left_out}
    for name, shape in {**found, **(tensors or {})}.items():
        if shape is not None:
            writer.add_tensor(name, _values(random, name, shape))
    if tokens is not None:
        writer.add_tensor("d2t", np.array(tokens, np.int64))
    finish(writer)
    return path


def _values(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if len(shape) == 1:
        low, high = (1.0, 4.0) if name.startswith("rope") else (0.5, 1.5)
        return random.uniform(low, high, shape).astype(np.float32)
    values: npt.NDArray[np.float32] = (random.standard_normal(shape) * 1.5 / np.sqrt(shape[-1])).astype(np.float32)
    return values


def write_agreeing(folder: Path, context: int) -> tuple[Path, Path]:
    """Write a model and a head that drafts what it says itself; returns both paths.

    No layer of the model adds anything, so that its logits follow from the last token. The first column of all
    embeddings is the same, of which the head makes queries and keys: each position sees itself alone, by far. Values
    are the embedding less the hidden state as it is normed, to which they are added: the embedding alone is left.
    """
    model = write_architecture(folder / "model.gguf", "llama", num_layers=LAYERS, keys={"context_length": context})
    head = write_head(folder / "head.gguf", kv_heads=4, adds_to_normed=True, context=context)
    of_model, of_head = (
        {tensor.name: tensor.data for tensor in gguf.GGUFReader(path, "r+").tensors} for path in (model, head)
    )
    for name, data in of_model.items():
        if name.endswith(("attn_output.weight", "ffn_down.weight")):
            data[...] = 0
    embedding = of_model["token_embd.weight"]
    embedding[:, 0] = 1
    rest = embedding[:, 1:]
    rest /= np.sqrt(np.mean(rest.astype(np.float64) ** 2, axis=1, keepdims=True)).astype(np.float32)
    for name in ("fc", "blk.0.attn_q", "blk.0.attn_k", "blk.0.ffn_down"):
        of_head[f"{name}.weight"][...] = 0
    for name in ("attn_q", "attn_k"):
        of_head[f"blk.0.{name}.weight"][::2, 0] = 16  # the first of each pair that rotates
    for name in ("attn_norm", "attn_norm_2"):
        of_head[f"blk.0.{name}.weight"][...] = 1
    one = np.eye(_HIDDEN, dtype=np.float32)
    of_head["blk.0.attn_v.weight"][...] = np.concatenate([one, -one], axis=1)
    of_head["blk.0.attn_output.weight"][...] = one
    of_model["output_norm.weight"] *= np.float32(4)  # what is likely is the likelier
    of_head["output_norm.weight"][...] = of_model["output_norm.weight"]
    return model, head


def write_pair(folder: Path, name: str, own: bool = False) -> tuple[Path, Path]:
    """Write a model of `TARGETS` and a head for it; returns both paths."""
    model = write_architecture(folder / "model.gguf", name, num_layers=LAYERS)
    return model, write_head(folder / "head.gguf", own)
