"""Runs the prompts of golden records on code that is not yet in a bundle, and sees what roundings do to the logits."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ..artifacts.layout import Layout, TensorEntry
from ..artifacts.manifest_entries import PartFacts
from ..artifacts.mapped_weights import map_weights
from ..artifacts.processors import read_processors
from ..runtime.device.golden import GOLDEN_BLOCKS, prompt_logits, record_of
from ..runtime.device.host import HostProgram
from ..runtime.engine.part_records import probe_of, record_rows
from .mapped_pages import pages_given_back

Float32 = npt.NDArray[np.float32]

NUDGES: Final = tuple(np.float32(1 + 2.0**-bits) for bits in (20, 16, 12))
"""A few units in the last place, what no model should notice; and more, for one whose first layer rounds that away."""


def make_golden(
    layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]], part: PartFacts | None = None
) -> list[dict[str, object]]:
    """See `GoldenMaker`. Each record has its `noise`, the root mean square by which its logits differ once the first
    norm's weights are nudged: other activations are rounded to int8 the other way then, as on another device."""
    if part is not None:
        return _make_of_part(layout, weights, code, prompts, part)
    with _program(layout, weights, code, None) as program:
        records, exact = [], []
        for prompt in prompts:
            exact.append(prompt_logits(program, prompt))
            records.append(record_of(program, prompt, exact[-1]))

    def again(nudged: TensorEntry, nudge: np.float32) -> list[Float32]:
        with _program(layout, weights, code, nudged, nudge=nudge) as program:
            return [prompt_logits(program, prompt) for prompt in prompts]

    norms = (one for one in layout.tensors if one.packing == "f32" and one.name.endswith("norm@f32"))
    _add_noise(records, exact, next(norms, None), again)
    return records


def _add_noise(
    records: Sequence[dict[str, object]],
    exact: Sequence[Float32],
    nudged: TensorEntry | None,
    again: Callable[[TensorEntry, np.float32], Sequence[Float32]],
) -> None:
    """Add to each record what a nudge changes in its numbers: the smallest that changes any of some record.

    Args:
        records: get their `noise`; none without a tensor to nudge.
        exact: their numbers.
        nudged: the tensor.
        again: computes the numbers with that tensor nudged.
    """
    if nudged is None:
        return
    for nudge in NUDGES:
        for record, found, rows in zip(records, again(nudged, nudge), exact, strict=True):
            record["noise"] = _difference(found, rows)
        if any(record["noise"] for record in records):
            break


def _make_of_part(
    layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]], part: PartFacts
) -> list[dict[str, object]]:
    """As `make_golden`; each record has the `spread` of its rows too, the root mean square of their numbers."""
    name, facts = part
    with weights.open("rb") as file:
        probe = probe_of(weights.parent, name, facts, layout, map_weights(weights.parent, file.fileno()))
    given = probe.given(prompts)
    with _program(layout, weights, code, None, probe.blocks) as program:
        exact = [probe.rows(program, one) for one in given]
    records = [record_rows(one, rows) for one, rows in zip(given, exact, strict=True)]
    for record, rows in zip(records, exact, strict=True):
        record["spread"] = _difference(rows, np.zeros_like(rows))

    def again(nudged: TensorEntry, nudge: np.float32) -> list[Float32]:
        with _program(layout, weights, code, nudged, probe.blocks, nudge) as program:
            return [probe.rows(program, one) for one in given]

    norms = (one for one in layout.tensors if one.packing == "f32" and "norm" in one.name)
    _add_noise(records, exact, next(norms, None), again)
    return records


def _difference(one: Float32, other: Float32) -> float:
    """Return the root mean square of differences, the same to the bit on every machine; of tokens that no draw takes,
    whose logits are minus infinity in both, there are none."""
    drawn = ~np.isneginf(one)
    differences = one[drawn].astype(np.float64) - other[drawn]
    return math.sqrt(math.fsum((differences * differences).ravel().tolist()) / differences.size)


@contextlib.contextmanager
def _program(
    layout: Layout,
    weights: Path,
    code: bytes,
    nudged: TensorEntry | None,
    blocks: int = GOLDEN_BLOCKS,
    nudge: np.float32 = NUDGES[0],
) -> Iterator[HostProgram]:
    """The program on a file of weights, of which a tensor is nudged in this process alone."""
    descriptor = os.memfd_create("rocmforge-golden")
    os.write(descriptor, code)
    with weights.open("rb") as file:
        mapped = map_weights(weights.parent, file.fileno(), private=nudged is not None)
    kept = (0, 0)
    if nudged is not None:
        kept = (nudged.offset, nudged.offset + nudged.n_bytes)
        np.frombuffer(mapped, np.float32, nudged.n_bytes // 4, nudged.offset)[:] *= nudge
    program = HostProgram(layout, mapped, descriptor, "portable", blocks, read_processors().whole)
    try:
        with pages_given_back(mapped, kept=kept):
            yield program
    finally:
        program.close()
