"""What was measured, kept in a file that later runs, on other machines too, add to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

OURS: Final = "rocmforge"
QUIET_SHARE: Final = 0.1
"""Samples beside which others used more of the machine are kept, and not counted."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of a part of a row: ours and each peer's, one after another.

    Attributes:
        machine: its kind.
        version: of ours.
        model: one of `MODELS`.
        part: one of `PARTS`.
        threads: of all programs.
        at: date and time, UTC.
        others: share of the machine that others used meanwhile.
        token_bytes, token_operations: as `token_work` has them.
        peaks: by threads, what `Peaks` has, just before.
        figures: by what and by program.
    """

    machine: str
    version: str
    model: str
    part: str
    threads: int
    at: str
    others: float
    token_bytes: int
    token_operations: int
    peaks: Mapping[str, Mapping[str, float | None]]
    figures: Mapping[str, Mapping[str, float]]


def read_samples(path: Path) -> list[Sample]:
    """Return what the file holds, none where there is no file."""
    return [Sample(**one) for one in json.loads(path.read_text("utf-8"))] if path.exists() else []


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write the file anew, a line a sample, whole or not at all."""
    lines = ",\n".join(json.dumps(rounded(asdict(sample))) for sample in samples)
    partial = path.with_suffix(".partial")
    partial.write_text(f"[\n{lines}\n]\n", "utf-8")
    partial.replace(path)


def rounded(value: object) -> object:
    """Return the same with floats of four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


@dataclass(frozen=True, slots=True)
class Cell:
    """Medians of a figure, and what follows from them.

    Attributes:
        what: is measured.
        medians: by program, ours first.
        ratio: of ours to the better peer's (the least where seconds are measured); NaN: there is none.
        share: of what the machine gives; None: no limit is known.
        rounds: that count.
    """

    what: str
    medians: Mapping[str, float]
    ratio: float
    share: float | None
    rounds: int


def counted(samples: Sequence[Sample]) -> list[Sample]:
    """Return those of a quiet machine, of each part of a model those of the version that was measured last."""
    quiet = [one for one in samples if one.others <= QUIET_SHARE]
    newest = {(one.machine, one.threads, one.model, one.part): one.version for one in sorted(quiet, key=lambda s: s.at)}
    return [one for one in quiet if newest[one.machine, one.threads, one.model, one.part] == one.version]


def cells(samples: Sequence[Sample]) -> list[Cell]:
    """Return the cells of one model on one machine."""
    found = []
    for what in dict.fromkeys(name for one in samples for name in one.figures):
        having = [one for one in samples if OURS in one.figures.get(what, {})]
        programs = dict.fromkeys((OURS, *(name for one in having for name in one.figures[what])))
        medians = {
            name: statistics.median(values)
            for name in programs
            if (values := [one.figures[what][name] for one in having if name in one.figures[what]])
        }
        if having:
            better = min if what.endswith(", s") else max
            best = better((value for name, value in medians.items() if name != OURS), default=math.nan)
            share = median_share(what, having)
            found.append(Cell(what, medians, medians[OURS] / best, share, len(having)))
    return found


def median_share(what: str, samples: Sequence[Sample]) -> float | None:
    """Return the share of the limit that ours took, each sample by the peaks beside it: of the memory's reads where one
    sequence decodes, of the multiplications in int8 (with AMX where there is one) in a prompt."""
    shares = []
    for one in samples:
        peaks, ours = one.peaks[str(one.threads)], one.figures[what][OURS]
        if what.startswith("decode after") and (read := peaks["read"]):
            shares.append(ours * one.token_bytes / read / 1e9)
        elif what.startswith("prefill") and (peak := peaks["amx"] or peaks["int8"]):
            shares.append(ours * one.token_operations / peak / 1e9)
    return statistics.median(shares) if shares else None
