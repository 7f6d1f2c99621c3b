"""Models with adapters that llama.cpp and we compute alike."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from rocmforge.tools.generate.adapters import layer_matrices, write_adapter
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.logits import VECTOR_IDS

ADAPTED: Final = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "granite", "phi3", "glm4", "starcoder2", "olmo2")
"""Architectures: fused tensors, products with a scale or a bias, norms behind products, and none of these."""
SCALES: Final = (1.0, -0.5)


def write_adapted(folder: Path, architecture: str) -> tuple[Path, list[Path]]:
    """Write a model, and two adapters: of all `layer_matrices`, and of every third of them."""
    model = write_architecture(folder / "model.gguf", architecture)
    names = layer_matrices(model)
    first = write_adapter(folder / "first.gguf", model, names, 4, 8.0, 1)
    return model, [first, write_adapter(folder / "second.gguf", model, names[::3], 3, 5.0, 2)]


def write_adapter_vectors(program: Path, goal: Path) -> Iterator[str]:
    """Write llama.cpp's logits of models with both adapters, at `SCALES`, for tests; yield a line a model."""
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ids.json").write_text(json.dumps({"ids": VECTOR_IDS, "prefixes": [len(VECTOR_IDS)]}))
        for architecture in ADAPTED:
            model, adapters = write_adapted(folder, architecture)
            out = folder / "out.json"
            pairs = [text for path, scale in zip(adapters, SCALES, strict=True) for text in (path, str(scale))]
            command = [program, model, folder / "ids.json", out, *pairs]
            run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
            if run.returncode:
                yield f"{architecture}: llama.cpp does not take it: {' '.join(run.stderr.split())[-160:]}"
                continue
            vectors[architecture] = np.array(json.loads(out.read_text())["logits"][str(len(VECTOR_IDS))], np.float32)
    np.savez_compressed(goal, allow_pickle=False, **vectors)
    yield f"{len(vectors)} models"
