"""llama.cpp's logits of the models of a folder, as `reflogits` gives them, and how they are read back."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rocmforge.compiler.models import decoder_rows, hrm, hybrid_rows, mixture_rows
from rocmforge.tools.generate.architecture_cases import CASES, write_case
from rocmforge.tools.generate.architecture_models import write_architecture

PREFIXES = (1, 13, 40)
TIMEOUT = 600  # seconds a model
VECTOR_IDS = [int(one) for one in np.random.default_rng(3).integers(0, 96, 40)]
"""Tokens of the models that our own generator writes."""


def write_logits(folder: Path, program: Path) -> Iterator[str]:
    """Run llama.cpp over all models of a folder; yield a line a model.

    Writes `logits.npz` ("NAME|n" all at once, "NAME|n|steps" one by one: float32[vocab_size] after n tokens) and
    `index.json` (the tokens, which are taken modulo a vocabulary's size, and why a model has no logits).
    """
    ids = [int(one) for one in np.random.default_rng(7).integers(0, 1 << 16, max(PREFIXES))]
    (folder / "ids.json").write_text(json.dumps({"ids": ids, "prefixes": PREFIXES}))
    logits: dict[str, npt.NDArray[np.float32]] = {}
    problems = {}
    for path in sorted((folder / "models").glob("*.gguf")):
        out = folder / "one.json"
        command = [program, path, folder / "ids.json", out]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False)
        if run.returncode:
            problems[path.stem] = " ".join(run.stderr.split())[-300:]
            yield f"{path.stem}: llama.cpp has none: {problems[path.stem]}"
            continue
        found = json.loads(out.read_text())
        for kind, ending in (("logits", ""), ("stepwise", "|steps")):
            for count, row in found[kind].items():
                numbers = [np.nan if one is None else one for one in row]
                logits[f"{path.stem}|{count}{ending}"] = np.array(numbers, np.float32)
        yield f"{path.stem}: done"
    np.savez_compressed(folder / "logits.npz", allow_pickle=False, **logits)
    (folder / "index.json").write_text(json.dumps({"ids": ids, "prefixes": PREFIXES, "problems": problems}, indent=1))


def write_vectors(program: Path, goal: Path) -> Iterator[str]:
    """Write llama.cpp's logits of the models that our own generator writes, where it takes them; yield a line a model.

    Writes "NAME": float32[vocab_size] after the tokens of `VECTOR_IDS`, for tests.
    """
    vectors: dict[str, npt.NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ids.json").write_text(json.dumps({"ids": VECTOR_IDS, "prefixes": [len(VECTOR_IDS)]}))
        families = (decoder_rows, mixture_rows, hybrid_rows, hrm)
        names = [row.name for family in families for row in family.ARCHITECTURES]
        writers = {name: partial(write_architecture, name=name) for name in names}
        writers |= {case: partial(write_case, name=case) for case in CASES}
        for model, write in writers.items():
            path, out = write(folder / "model.gguf"), folder / "out.json"
            command = [program, path, folder / "ids.json", out]
            run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
            if run.returncode:
                yield f"{model}: llama.cpp does not take it: {' '.join(run.stderr.split())[-160:]}"
                continue
            row = np.array(json.loads(out.read_text())["logits"][str(len(VECTOR_IDS))], np.float32)
            if row.any():
                vectors[model] = row
    np.savez_compressed(goal, allow_pickle=False, **vectors)
    yield f"{len(vectors)} models"


@dataclass(frozen=True, slots=True)
class Oracle:
    """The models of a folder and llama.cpp's logits of them.

    Attributes:
        ids: tokens, to be taken modulo a vocabulary's size.
        problems: why llama.cpp gives no logits of a model, by its name.
    """

    folder: Path
    ids: tuple[int, ...]
    problems: Mapping[str, str]
    rows: Mapping[str, npt.NDArray[np.float32]]

    @classmethod
    def read(cls, folder: Path) -> Oracle:
        """Return what `write_logits` wrote."""
        index = json.loads((folder / "index.json").read_text())
        with np.load(folder / "logits.npz") as rows:
            return cls(folder, tuple(index["ids"]), index["problems"], dict(rows))

    def models(self) -> tuple[Path, ...]:
        """Return the files of all models, by name."""
        return tuple(sorted((self.folder / "models").glob("*.gguf")))

    def logits(self, name: str, stepwise: bool = False) -> dict[int, npt.NDArray[np.float64]]:
        """Return llama.cpp's logits by the number of tokens; none where it has none that are finite."""
        ending = "|steps" if stepwise else ""
        found = {count: self.rows.get(f"{name}|{count}{ending}") for count in PREFIXES}
        return {
            count: row.astype(np.float64) for count, row in found.items() if row is not None and np.isfinite(row).all()
        }
