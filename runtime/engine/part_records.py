"""Golden records of a bundle's parts: what the block that drafts tokens, and the encoder of images, make of given rows.

A record is JSON: `prompt` and `greedy` of a block (its tokens, and those that are computed behind them, each beside the
block's own state of the one before), `picture` of an encoder (height and width in patches); `rows_sha256` of all rows
that come out, float32; and of some of them `rows`, their number and `top`. Rows given are those of `given_rows`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from ...artifacts.bundle import Bundle
from ...artifacts.checker import Checker
from ...artifacts.dataclass import dataclass
from ...artifacts.errors import BundleError
from ...artifacts.layout import Layout
from ...artifacts.manifest import MANIFEST_NAME
from ...artifacts.mapped_weights import MappedWeights
from ...artifacts.vision import VISION_PART, Vision, read_vision
from ..device.batch import Batch, Float32, Program
from ..device.golden import GOLDEN_BLOCKS, GREEDY_TOKENS, checked_prompt, compare_tops, records_of, top_of
from ..device.hidden import head_rows
from ..device.solo import Solo
from ..pictures.encode import picture_batch, table_of_places
from ..pictures.patches import Patches

MOST_ROWS: Final = 8  # of a picture, whose numbers a record has


class PartProbe(Protocol):
    """How a part is run for its records."""

    @property
    def blocks(self) -> int:
        """Of the KV cache, as many as any record takes."""

    def given(self, prompts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        """Return what records begin with, before anything has run; `prompts` are those of the model's own records."""

    def checked(self, path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a record of the bundle `path` begins with, safe to run.

        Raises:
            BundleError: it is not what this module writes.
        """

    def rows(self, program: Program, given: dict[str, Any]) -> Float32:
        """Run it; return float32[rows, vocab_size of the layout], the whole of what comes out."""


def probe_of(path: Path, name: str, facts: Mapping[str, object], layout: Layout, weights: MappedWeights) -> PartProbe:
    """Return how a part is run for its records.

    Args:
        path: of the bundle, for messages.
        name: of the part.
        facts: that its manifest has of it.
        layout: of the code that is run.
        weights: that it reads.

    Raises:
        BundleError: the manifest says of it what nobody can use.
    """
    if name != VISION_PART:
        return _Block(layout)
    vision = read_vision(Checker(path / MANIFEST_NAME), facts)
    table = table_of_places(path, layout, weights) if vision.positions != "none" else None
    return _Eyes(vision, table, layout)


def probe_in(bundle: Bundle, name: str) -> PartProbe:
    """Return how a part of an open bundle is run; see `probe_of`."""
    part = bundle.part(name)
    target = part.manifest.targets[0]
    facts, weights = bundle.manifest.parts[name].facts, part.map_weights(target.backend)
    return probe_of(bundle.path, name, facts, part.layout_of(target), weights)


def given_rows(count: int, width: int) -> Float32:
    """Return float32[count, width] that look random, of mean 0 and variance 1: equal on every machine."""
    number = np.arange(1, count * width + 1, dtype=np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # the last steps of MurmurHash3
        number = (number ^ number >> np.uint32(shift)) * np.uint32(factor)
    number ^= number >> np.uint32(16)
    even = (number >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return (even * np.float32(3**0.5)).reshape(count, width)


def record_part(probe: PartProbe, program: Program, given: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of a part: what each was given, and what came of it."""
    return [record_rows(one, probe.rows(program, one)) for one in given]


def record_rows(given: Mapping[str, Any], rows: Float32) -> dict[str, Any]:
    """Return the record of what was given, of which these rows came."""
    step = max(1, -(-len(rows) // MOST_ROWS))
    tops = [{"row": row, "top": top_of(rows[row])} for row in range(0, len(rows), step)]
    return {**given, "rows_sha256": hashlib.sha256(rows.tobytes()).hexdigest(), "rows": tops}


def compare_part(
    path: Path, expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], tolerance: float
) -> list[str]:
    """Return differences beyond `tolerance`, a line each; none where the device computes what it should.

    Raises:
        BundleError: the records of the bundle `path` are malformed.
    """
    problems = []
    with records_of(path):
        for index, (want, have) in enumerate(zip(expected, found, strict=True)):
            for row, other in zip(want["rows"], have["rows"], strict=True):
                if row["row"] != other["row"]:
                    raise ValueError(f"row {row['row']}")
                tops = compare_tops(row["top"], other["top"], tolerance)
                problems += [f"golden record {index}: row {row['row']}: number {problem}" for problem in tops]
    return problems


@dataclass(frozen=True, slots=True)
class _Block:
    """A block that drafts tokens: a prompt beside given states, then what it drafts beside its own."""

    layout: Layout
    blocks: int = GOLDEN_BLOCKS

    def given(self, prompts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        return [{"prompt": list(prompt)} for prompt in prompts]

    def checked(self, path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
        prompt, greedy = checked_prompt(path, record, self.layout), record.get("greedy")
        size, most = self.layout.vocab_size, min(GREEDY_TOKENS, self.layout.max_seq_len + 1 - len(prompt))
        if not isinstance(greedy, list) or not 1 <= len(greedy) <= most:
            raise BundleError(path, "golden.greedy", f"expected 1 to {most} token ids")
        if not all(type(token) is int and 0 <= token < size for token in greedy):
            raise BundleError(path, "golden.greedy", f"expected token ids from 0 to {size - 1}")
        return {"prompt": prompt, "greedy": greedy}

    def rows(self, program: Program, given: dict[str, Any]) -> Float32:
        """See `PartProbe`; tokens that are not given are the most likely ones, and are kept in `given`."""
        prompt: list[int] = given["prompt"]
        room = min(GREEDY_TOKENS, program.layout.max_seq_len + 1 - len(prompt))
        greedy: list[int] = given.setdefault("greedy", [])
        is_new, solo = not greedy, Solo(program.layout)
        states, tokens, start = given_rows(len(prompt), program.layout.input_width), prompt, 0
        rows: list[Float32] = []
        for step in range(room if is_new else len(greedy)):
            batch = solo.batch(tokens, start)
            program.step(replace(batch, input_rows=states, row_of=np.arange(len(tokens), dtype=np.int32)))
            rows.append(program.logits(1))
            if is_new:
                greedy.append(int(np.argmax(rows[-1])))
            states, start = head_rows(program, len(tokens) - 1, 1), start + len(tokens)
            tokens = [greedy[step]]
        return np.concatenate(rows)


@dataclass(frozen=True, slots=True)
class _Eyes:
    """An encoder of images: a small picture, of more than one window where there are windows."""

    vision: Vision
    table: Float32 | None
    layout: Layout

    @property
    def blocks(self) -> int:
        return -(-self.layout.max_batch_tokens // self.layout.kv.block_size)

    def given(self, prompts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
        merge, window = self.vision.merge, self.vision.window // self.vision.merge
        sizes = ((window + 1, window + 2) if window else (2, 3), (2, 3), (1, 2), (1, 1))
        found = ([rows * merge, columns * merge] for rows, columns in sizes)
        return [{"picture": next(size for size in found if self._fits(*size))}]

    def checked(self, path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
        size, merge = record.get("picture"), self.vision.merge
        sides = size if isinstance(size, list) and len(size) == 2 else [0]
        if not all(type(side) is int and side > 0 and side % merge == 0 for side in sides) or not self._fits(*sides):
            most = f"at most {self.vision.max_patches} patches, sides multiples of {merge}"
            raise BundleError(path, "golden.picture", f"expected height and width of a picture of {most}")
        return {"picture": sides}

    def _fits(self, height: int, width: int) -> bool:
        """Whether a picture can be encoded: in patches, and a side within a table of places where sides have one."""
        longest = self.vision.max_patches
        if self.table is not None and self.vision.positions == "axes":
            longest = len(self.table) // 2
        return height * width <= self.vision.max_patches and max(height, width) <= longest

    def rows(self, program: Program, given: dict[str, Any]) -> Float32:
        height, width = given["picture"]
        patches = Patches(given_rows(height * width, self.vision.patch_values), height, width)
        batch: Batch = picture_batch(self.vision, self.table, patches, program.layout.kv.block_size)
        program.step(batch)
        return program.logits(len(batch.logits_rows))
