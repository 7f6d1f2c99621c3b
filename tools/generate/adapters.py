"""Small adapters with random numbers for a GGUF model, the same bytes for the same arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.lora import EMBEDDING
from rocmforge.tools.generate.gguf_writing import finish


def layer_matrices(model: Path) -> list[str]:
    """Return the names of a model's layers' matrices, and of its logits and embedding where these are two tensors."""
    tensors = read_gguf(model).tensors
    named = [name for name in tensors if name.startswith("blk.") or name == "output.weight"]
    if "output.weight" in tensors:  # llama.cpp takes none of an embedding that gives the logits too
        named.append(EMBEDDING)
    return [name for name in named if len(tensors[name].shape) == 2 and name.endswith(".weight")]


def write_adapter(path: Path, model: Path, names: Sequence[str], rank: int, alpha: float, seed: int) -> Path:
    """Write an adapter of llama.cpp's kind, whose numbers are float32 that float16 holds.

    Args:
        path: where to.
        model: whose it is.
        names: of the tensors that it adds to.
        rank: of each.
        alpha: its products are multiplied by alpha / rank.
        seed: of all numbers.
    """
    source, random = read_gguf(model), np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, source.get_str("general.architecture"))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name in names:
        rows, columns = source.tensors[name].shape
        turned = name == EMBEDDING  # as llama.cpp has it, which looks up rows of A
        shapes = ((rows, rank), (columns, rank)) if turned else ((rank, columns), (rows, rank))
        for side, shape in zip(("lora_a", "lora_b"), shapes, strict=True):
            writer.add_tensor(f"{name}.{side}", random.normal(0, 0.2, shape).astype(np.float16).astype(np.float32))
    finish(writer)
    return path
