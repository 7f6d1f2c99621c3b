"""Small models with a block that drafts tokens (`nextn`), random as `architecture_models` has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import gguf
import numpy as np

from rocmforge.tools.generate.architecture_models import write_architecture

DRAFTING: Final = (
    "cohere2moe",
    "deepseek2",
    "deepseek32",
    "glm-dsa",
    "glm4moe",
    "hy_v3",
    "qwen35",
    "qwen35moe",
    "qwen3next",
)
"""Architectures whose blocks are compiled."""
LAYERS: Final = 4  # the block among them: of models with recurrent state the last has attention
_HIDDEN, _VOCAB = 64, 96
_ADDED: Final = (
    *("attn_output.weight", "ffn_down.weight", "ssm_out.weight", "ffn_down_exps.weight", "ffn_down_shexp.weight"),
)
"""What a layer adds to the residual stream comes of one of these."""
_INDEXED: Final = ("deepseek32", "glm-dsa")
_INDEXER: Final[Mapping[str, tuple[int, ...]]] = {
    "indexer.k_norm.weight": (128,),
    "indexer.k_norm.bias": (128,),
    "indexer.proj.weight": (2, _HIDDEN),
    "indexer.attn_k.weight": (128, _HIDDEN),
    "indexer.attn_q_b.weight": (256, 40),
}
"""What llama.cpp reads of each layer beside; the block has no use for it."""
_INDEXER_KEYS: Final = {"attention.indexer.head_count": 2, "attention.indexer.key_length": 128}
_KEYS: Mapping[str, Mapping[str, float]] = {
    "deepseek2": {"attention.temperature_scale": 0.0},
    **{name: {"attention.temperature_scale": 0.0, **_INDEXER_KEYS} for name in _INDEXED},
}
"""What llama.cpp takes no other values of beside such a block, and what it asks for."""


def draft_tensors(own: bool, hidden: int = _HIDDEN, vocab: int = _VOCAB) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a block's own tensors by the end of their name.

    Args:
        own: it has an embedding and an output matrix of its own.
        hidden: width of the residual stream.
        vocab: tokens.
    """
    found: dict[str, tuple[int, ...]] = {"nextn.eh_proj.weight": (hidden, 2 * hidden)}
    found |= {f"nextn.{name}.weight": (hidden,) for name in ("enorm", "hnorm", "shared_head_norm")}
    if own:
        found |= {f"nextn.{name}.weight": (vocab, hidden) for name in ("embed_tokens", "shared_head_head")}
    return found


def write_drafting(
    path: Path,
    name: str,
    own: bool = False,
    seed: int = 0,
    *,
    context: int = 0,
    layers: int = LAYERS,
    sizes: Mapping[str, int] | None = None,
) -> Path:
    """Write a model of an architecture of `DRAFTING` whose last block drafts; see `draft_tensors`. Returns `path`.

    Args:
        context: positions of a sequence, where not as usual.
        layers: of the model, the block among them.
        sizes: see `write_architecture`.
    """
    has = {"hidden_size": _HIDDEN, "vocab_size": _VOCAB, **(sizes or {})}
    shapes = draft_tensors(own, has["hidden_size"], has["vocab_size"])
    tensors: dict[str, tuple[int, ...] | None] = {
        f"blk.{layers - 1}.{ending}": shape for ending, shape in shapes.items()
    }
    if name in ("cohere2moe", "hy_v3"):
        tensors["rope_freqs.weight"] = None  # llama.cpp reads it of none that drafts
    if name in _INDEXED:
        tensors |= {f"blk.{layer}.{ending}": shape for layer in range(layers) for ending, shape in _INDEXER.items()}
    keys: dict[str, float] = {"nextn_predict_layers": 1, **_KEYS.get(name, {})}
    if context:
        keys["context_length"] = context
    return write_architecture(path, name, seed=seed, num_layers=layers, keys=keys, tensors=tensors, sizes=sizes)


def agree(path: Path, sharpness: float = 1.0) -> Path:
    """Change a model of `write_drafting`, of float32 alone, such that its block drafts what it says itself; returns
    `path`.

    The block's layer is that of the model's last layer with attention, and all others of the model add nothing. The
    block's product takes the embedding's half alone; rows of the embedding have a mean square of 1, and its norm is of
    ones, so that it leaves them as they are, but for epsilon.

    Args:
        sharpness: by which logits are multiplied: what is likely is the likelier, and roundings decide less.
    """
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path, "r+").tensors}
    block = max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    last = max(
        n for n in range(block) if f"blk.{n}.attn_k.weight" in tensors or f"blk.{n}.attn_kv_a_mqa.weight" in tensors
    )
    for name, data in tensors.items():
        ending = name.partition(".")[2].partition(".")[2]
        if name.startswith(f"blk.{last}."):
            tensors[f"blk.{block}.{ending}"][...] = data
        elif name.startswith("blk.") and ending in _ADDED and not name.startswith(f"blk.{block}."):
            data[...] = 0
    embedding, own = tensors["token_embd.weight"], f"blk.{block}.nextn"
    embedding /= np.sqrt(np.mean(embedding.astype(np.float64) ** 2, axis=1, keepdims=True)).astype(np.float32)
    hidden = embedding.shape[1]
    tensors[f"{own}.eh_proj.weight"][...] = np.eye(hidden, 2 * hidden, dtype=np.float32)
    tensors[f"{own}.enorm.weight"][...] = 1
    tensors["output_norm.weight"] *= np.float32(sharpness)
    tensors[f"{own}.shared_head_norm.weight"][...] = tensors["output_norm.weight"]
    return path
