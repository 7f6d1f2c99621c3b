"""How far our logits of a model are from llama.cpp's, and whether the model would show an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.compiler.sources import open_source

from .changes import changed
from .meaning import Meaning
from .programs import bundle_of, last_logits, load

Logits = Mapping[int, npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one model.

    Attributes:
        problem: why it does not compile; "" where it does.
        meaning: normalised mean squared error of the graph's meaning, the largest of all prefixes, from llama.cpp's
            logits of all tokens at once, or from those token by token, where these are nearer; None: not computed.
        stepwise: these are nearer.
        programs: as `meaning`, of its program, by arch.
        own: of llama.cpp's logits token by token, from its own of all tokens at once.
        changes: by name of a change, how far the changed model's are, of the longest prefix.
    """

    problem: str = ""
    meaning: float | None = None
    stepwise: bool = False
    programs: Mapping[str, float] | None = None
    own: float | None = None
    changes: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, object]:
        """Return it as plain data."""
        return asdict(self)


def nmse(found: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    """Return the mean squared error over the mean square of what was expected."""
    return float(np.mean((found - expected) ** 2) / np.mean(expected**2))


def judge(
    path: Path, ids: Sequence[int], whole: Logits, stepwise: Logits, archs: Sequence[str], toolchain: str
) -> Verdict:
    """Return how far our logits of a model are from llama.cpp's.

    Args:
        path: of a GGUF file whose weights are floats.
        ids: tokens; those beyond the vocabulary are taken modulo its size.
        whole: llama.cpp's logits by the number of tokens of a prefix, computed all at once; empty where it gave none.
        stepwise: the same, computed one by one.
        archs: to compile for and run.
        toolchain: to compile with.
    """
    own = max((nmse(stepwise[count], whole[count]) for count in whole), default=None)
    longest = max(whole, default=0)
    try:
        source = open_source(path)
        meaning = Meaning.of(path, len(ids))
        taken = [token % meaning.config.vocab_size for token in ids]
        if not whole:
            return Verdict(own=own)
        nearest = min((whole, stepwise), key=lambda expected: _farthest(meaning.logits, taken, expected))
        shifts = {
            name: nmse(other.logits(taken[:longest]), nearest[longest])
            for name, other in changed(source, meaning, len(ids))
        }
        programs = _run(path, taken, nearest, archs, toolchain) if archs else None
    except RocmforgeError as error:
        return Verdict(problem=str(error).removeprefix(f"{path}: "), own=own)
    return Verdict("", _farthest(meaning.logits, taken, nearest), nearest is stepwise, programs, own, shifts)


def _run(path: Path, taken: Sequence[int], whole: Logits, archs: Sequence[str], toolchain: str) -> Mapping[str, float]:
    programs = {}
    with bundle_of(path, archs, toolchain) as bundle:
        for arch in archs:
            program = load(bundle, arch)
            programs[arch] = _farthest(partial(last_logits, program), taken, whole)
            program.close()
    return programs


def _farthest(
    logits: Callable[[Sequence[int]], npt.NDArray[np.float64]], ids: Sequence[int], expected: Logits
) -> float:
    return max(nmse(logits(ids[:count]), row) for count, row in expected.items())
