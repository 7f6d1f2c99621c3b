"""Golden records: how they are made, replayed and compared."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout import Layout
from rocmforge.runtime.device.batch import Batch, Program
from rocmforge.runtime.device.golden import compare_golden, compare_records, record_golden
from rocmforge.tests.support.hip_bundle import LAYOUT

VOCAB = LAYOUT.vocab_size
PATH = Path("model.rfb")


class Counting:
    """A program that says after a token that the next number is the likeliest; keeps what it was given."""

    def __init__(self, layout: Layout = LAYOUT, num_blocks: int = 4, spoiled: float | None = None) -> None:
        self.layout, self.num_blocks, self._spoiled = layout, num_blocks, spoiled
        self.batches: list[Batch] = []
        self.asked: list[int] = []

    def step(self, batch: Batch) -> None:
        self.batches.append(batch)

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        self.asked.append(num_rows)
        rows = np.tile((0.0 - np.arange(VOCAB) / 4).astype(np.float32), (num_rows, 1))
        rows[0, (self.batches[-1].token_ids[-1] + 1) % VOCAB] = 2.5
        if self._spoiled is not None:
            rows[0, VOCAB - 1] = self._spoiled
        return rows


def program(**fields: Any) -> tuple[Counting, Program]:
    made = Counting(**fields)
    return made, cast(Program, made)


def shapes(made: Counting) -> list[tuple[list[int], list[int], list[int]]]:
    """Tokens, positions and blocks of each step, of which all else is the same."""
    found = []
    for batch in made.batches:
        assert batch.rows.tolist() == [0] * len(batch.token_ids)
        assert batch.logits_rows.tolist() == [len(batch.token_ids) - 1]
        assert len(batch.sampling) == 1
        arrays = batch.token_ids, batch.positions, batch.rows, batch.block_table, batch.logits_rows
        assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
        assert batch.block_table.flags.c_contiguous
        assert len(batch.block_table) == 1
        found.append((batch.token_ids.tolist(), batch.positions.tolist(), batch.block_table[0].tolist()))
    return found


def test_a_record_is_the_last_logits_and_the_tokens_that_follow() -> None:
    made, one = program()
    first, second = record_golden(one, [[5, 9, 3], list(range(15))])
    assert shapes(made) == [
        ([5, 9, 3], [0, 1, 2], [0]),
        ([4], [3], [0]),
        ([5], [4], [0]),
        ([6], [5], [0]),
        (list(range(15)), list(range(15)), [0]),
        ([15], [15], [0]),
        ([16], [16], [0, 1]),
        ([17], [17], [0, 1]),
    ]
    assert made.asked == [1] * 8
    top = [[4, 2.5], [0, 0.0], [1, -0.25], [2, -0.5], [3, -0.75], [5, -1.25], [6, -1.5], [7, -1.75]]
    logits = (0.0 - np.arange(VOCAB) / 4).astype(np.float32)
    logits[4] = 2.5
    digest = hashlib.sha256(logits.tobytes()).hexdigest()
    assert first == {"prompt": [5, 9, 3], "logits_sha256": digest, "top": top, "greedy": [4, 5, 6, 7]}
    assert second["greedy"] == [15, 16, 17, 18]


@pytest.mark.parametrize(("context", "greedy"), [(7, 4), (6, 4), (5, 3), (4, 2), (3, 1)])
def test_a_record_ends_with_the_context(context: int, greedy: int) -> None:
    """The token behind the last position may be drawn; nothing follows it."""
    made, one = program(layout=dataclasses.replace(LAYOUT, max_seq_len=context))
    (record,) = record_golden(one, [[1, 2, 3]])
    assert record["greedy"] == [4, 5, 6, 7][:greedy]
    assert len(made.batches) == greedy


def spoiled_top(value: float) -> Sequence[object]:
    _, one = program(spoiled=value)
    (record,) = record_golden(one, [[1, 2, 3]])
    return cast(Sequence[object], record["top"])


def test_what_stands_first_in_a_record() -> None:
    """NaN before all; equal ones by token."""
    token, value = cast(tuple[int, float], spoiled_top(math.nan)[0])
    assert (token, math.isnan(value)) == (VOCAB - 1, True)
    assert spoiled_top(math.inf)[:2] == [[VOCAB - 1, math.inf], [4, 2.5]]
    assert spoiled_top(2.5)[:2] == [[4, 2.5], [VOCAB - 1, 2.5]]
    tied = cast(list[list[float]], spoiled_top(-1.75))
    assert (len(tied), tied[-1]) == (8, [7, -1.75])


def record(prompt: list[int], *top: tuple[int, float]) -> dict[str, Any]:
    return {"prompt": prompt, "top": [list(pair) for pair in top]}


def test_differences_are_told_a_line_each() -> None:
    found = [record([], (3, 5.0), (7, 4.0)), record([], (1, 1.0))]
    for same in ([(3, 5.5), (7, 3.5)], [(9, 4.5), (3, 4.5)], [(8, -9.0)]):
        assert compare_golden([record([], *same), record([], (1, 1.0))], found, 0.5) == [], same
    expected = [record([], (3, 5.75), (9, 4.75), (7, math.nan), (8, math.nan)), record([], (1, 0.25))]
    assert compare_golden(expected, found, 0.5) == [
        "golden record 0: token 3: expected 5.7500, found 5.0000",
        "golden record 0: token 9: expected 4.7500, found less than the top",
        "golden record 0: token 7: expected nan, found 4.0000",
        "golden record 0: token 8: expected nan, found less than the top",
        "golden record 1: token 1: expected 0.2500, found 1.0000",
    ]
    cases: list[list[dict[str, Any]]] = [[{}] * 2, [{"top": 5}] * 2, [expected[0]], [{"top": [["x", 1.0]]}] * 2]
    cases += [[record([])] * 2, [record([], (3, 10**400))] * 2, [{"top": {}}] * 2]
    for malformed in cases:
        with pytest.raises(BundleError, match=r"^model.rfb: golden: expected records as rocmforge writes them$"):
            compare_records(PATH, malformed, found, 0.5)
    assert len(compare_records(PATH, expected, found, 0.5)) == 5
