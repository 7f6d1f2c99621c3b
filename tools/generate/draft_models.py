"""Small models with a block that drafts tokens (`nextn`), random as `architecture_models` has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rocmforge.tools.generate.architecture_models import write_architecture

DRAFTING: Final = ("deepseek2", "glm4moe", "hy_v3", "qwen35", "qwen35moe", "qwen3next")
"""Architectures whose blocks are compiled."""
LAYERS: Final = 4  # the block among them: of models with recurrent state the last has attention
_HIDDEN, _VOCAB = 64, 96
_KEYS: Mapping[str, Mapping[str, float]] = {"deepseek2": {"attention.temperature_scale": 0.0}}
"""What llama.cpp takes no other values of beside such a block."""


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


def write_drafting(path: Path, name: str, own: bool = False, seed: int = 0) -> Path:
    """Write a model of an architecture of `DRAFTING` whose last block drafts; see `draft_tensors`. Returns `path`."""
    tensors: dict[str, tuple[int, ...] | None] = {
        f"blk.{LAYERS - 1}.{ending}": shape for ending, shape in draft_tensors(own).items()
    }
    if name == "hy_v3":
        tensors["rope_freqs.weight"] = None  # llama.cpp reads it of none that drafts
    keys = {"nextn_predict_layers": 1, **_KEYS.get(name, {})}
    return write_architecture(path, name, seed=seed, num_layers=LAYERS, keys=keys, tensors=tensors)
