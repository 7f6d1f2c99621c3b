"""Runs the prompts of golden records on code that is not yet in a bundle, and sees what roundings do to the logits."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ..artifacts.layout import Layout, TensorEntry
from ..artifacts.mapped_weights import map_weights
from ..runtime.device.golden import GOLDEN_BLOCKS, prompt_logits, record_of
from ..runtime.device.host import HostProgram
from .mapped_pages import pages_given_back

NUDGE: Final = np.float32(1 + 2.0**-20)  # a few units in the last place: what no model should notice


def make_golden(
    layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]]
) -> list[dict[str, object]]:
    """See `GoldenMaker`. Each record has its `noise`, the root mean square by which its logits differ once the first
    norm's weights are nudged: other activations are rounded to int8 the other way then, as on another device."""
    with _program(layout, weights, code, None) as program:
        records, exact = [], []
        for prompt in prompts:
            exact.append(prompt_logits(program, prompt))
            records.append(record_of(program, prompt, exact[-1]))
    nudged = next((one for one in layout.tensors if one.packing == "f32" and one.name.endswith("norm@f32")), None)
    if nudged is None:
        return records
    with _program(layout, weights, code, nudged) as program:
        for record, prompt, logits in zip(records, prompts, exact, strict=True):
            record["noise"] = _difference(prompt_logits(program, prompt), logits)
    return records


def _difference(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Return the root mean square of differences, the same to the bit on every machine."""
    differences = one.astype(np.float64) - other
    return math.sqrt(math.fsum((differences * differences).tolist()) / differences.size)


@contextlib.contextmanager
def _program(layout: Layout, weights: Path, code: bytes, nudged: TensorEntry | None) -> Iterator[HostProgram]:
    """The program on a file of weights, of which a tensor is nudged in this process alone."""
    descriptor = os.memfd_create("rocmforge-golden")
    os.write(descriptor, code)
    with weights.open("rb") as file:
        mapped = map_weights(weights.parent, file.fileno(), private=nudged is not None)
    kept = (0, 0)
    if nudged is not None:
        kept = (nudged.offset, nudged.offset + nudged.n_bytes)
        np.frombuffer(mapped, np.float32, nudged.n_bytes // 4, nudged.offset)[:] *= NUDGE
    program = HostProgram(layout, mapped, descriptor, "portable", GOLDEN_BLOCKS, len(os.sched_getaffinity(0)))
    try:
        with pages_given_back(mapped, kept=kept):
            yield program
    finally:
        program.close()
