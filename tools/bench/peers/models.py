"""The models that are measured, and our bundles of them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import gguf

from rocmforge.tools.bench.type_speed import bundle_of
from rocmforge.tools.generate.shapes import SHAPES, write_shape

_REPOSITORY: Final = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Model:
    """A row of the table.

    Attributes:
        title: in the table.
        shape: of `generate.shapes`; empty: the model whose tokenizer the others have.
        kind: of its matrices.
        layers: 0: all.
    """

    title: str
    shape: str = ""
    kind: str = ""
    layers: int = 0


MODELS: Final = {
    "smollm2-q4_1": Model("SmolLM2 135M Q4_1"),
    "llama-1.1b-q4_0": Model("1.1B Q4_0", "llama-1.1b", "Q4_0"),
    "llama-1.1b-q4_k_m": Model("1.1B Q4_K_M", "llama-1.1b", "Q4_K_M"),
    "llama-1.1b-q8_0": Model("1.1B Q8_0", "llama-1.1b", "Q8_0"),
    "llama-8b-8l-q4_k_m": Model("8B, 8 layers, Q4_K_M", "llama-8b", "Q4_K_M", 8),
}
"""By the names of their files."""


def make_model(name: str, smollm2: Path, folder: Path) -> Path:
    """Return a model's file, made of random weights where it is not there yet.

    The vocabulary is SmolLM2's: with the shape's own the head of a model of few layers would be a third of it.
    """
    model, path = MODELS[name], folder / f"{name}.gguf"
    if not model.shape:
        return smollm2
    if not path.exists():
        shape = SHAPES[model.shape]
        partial = path.with_suffix(".partial")
        write_shape(
            gguf.GGUFReader(smollm2),
            replace(shape, layers=model.layers or shape.layers, kind=model.kind, vocab=0),
            partial,
        )
        partial.rename(path)
    return path


def our_version() -> str:
    """Return the commit of this checkout, with `+` where it has changes."""
    command = ("git", "-C", str(_REPOSITORY), "describe", "--always", "--dirty=+", "--exclude=*")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_bundle(name: str, path: Path, folder: Path, version: str) -> Path:
    """Return our bundle of a model, compiled by this version; those of others are removed, for they are large."""
    goal = folder / f"{name}.{version}.rfb"
    if not goal.exists() or version.endswith("+"):
        for old in folder.glob(f"{name}.*.rfb"):
            shutil.rmtree(old)
        bundle_of(path, goal)
    return goal
