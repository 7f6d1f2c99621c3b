"""llama.cpp's logits of blocks that draft tokens, and ours as graphs mean them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from rocmforge.compiler.draft_head import draft_source
from rocmforge.compiler.read_config import read_config
from rocmforge.compiler.sources import open_source
from rocmforge.tools.generate.draft_models import DRAFTING, write_drafting

from .logits import VECTOR_IDS
from .meaning import Meaning

IDS: Final = tuple(VECTOR_IDS[:12])
DEEP: Final = 4
"""Tokens that are drafted one behind the other."""
Float64 = npt.NDArray[np.float64]


def write_draft_vectors(program: Path, goal: Path) -> Iterator[str]:
    """Write what llama.cpp's blocks make of our own small models, for tests; yield a line a model.

    Of "NAME", and of "NAME|own" where embedding and output matrix are its own: "|logits", float32[tokens + drafts,
    vocab_size], after `IDS` and after each draft, and "|drafts", int32[drafts].
    """
    return write_vectors_of(
        program, goal, DRAFTING, lambda folder, name, own: [write_drafting(folder / "model.gguf", name, own)]
    )


def write_vectors_of(
    program: Path, goal: Path, names: Iterable[str], write: Callable[[Path, str, bool], Iterable[Path]]
) -> Iterator[str]:
    """Write to `goal` what llama.cpp's `program` makes of the files that `write` makes of each name, with an embedding
    and output matrix of their own and without; yield a line a model. Logits of no number are -inf."""
    vectors: dict[str, npt.NDArray[np.generic]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ids, out = Path(folder) / "ids.json", Path(folder) / "out.json"
        ids.write_text(json.dumps({"ids": IDS, "drafts": DEEP}))
        for name in names:
            for own in (False, True):
                command = [program, *write(Path(folder), name, own), ids, out]
                run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
                if run.returncode:
                    yield f"{name}: llama.cpp does not take it: {' '.join(run.stderr.split())[-160:]}"
                    continue
                found, key = json.loads(out.read_text()), f"{name}|own" if own else name
                rows = [*found["logits"], *found["draft_logits"]]
                numbers = [[-np.inf if one is None else one for one in row] for row in rows]
                vectors[f"{key}|logits"] = np.array(numbers, np.float32)
                vectors[f"{key}|drafts"] = np.array(found["drafts"], np.int32)
    np.savez_compressed(goal, allow_pickle=False, **vectors)
    yield f"{len(vectors) // 2} models"


@dataclass(frozen=True, slots=True)
class Drafting:
    """A model and its block, as their graphs mean them."""

    model: Meaning
    block: Meaning

    @classmethod
    def of(cls, path: Path, positions: int) -> Drafting:
        """Read a model that has such a block."""
        source = open_source(path)
        block = draft_source(source, read_config(source))
        assert block is not None
        config = read_config(block, drafting=True)
        return cls(Meaning.of(path, positions), Meaning.with_config(block, config, positions))

    def logits(self, token_ids: Sequence[int], drafts: Sequence[int]) -> Float64:
        """Return float64[tokens + drafts, vocab_size] of the block: beside each token the hidden state of the one
        before it, of the model, and of the block itself for drafts."""
        before = self.model.value("final_normed", token_ids)
        rows = np.concatenate([np.zeros((1, before.shape[1])), before[:-1]])
        ids = list(token_ids)
        for draft in drafts:
            rows = np.concatenate([rows, self.block.value("final_normed", ids, rows)[-1:]])
            ids.append(draft)
        return self.block.value("", ids, rows)
