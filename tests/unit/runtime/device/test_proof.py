"""A program just loaded replays a golden record, alone or within its first step."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.errors import BundleError, DeviceError
from rocmforge.artifacts.layout import Layout
from rocmforge.runtime.device.batch import Batch, Program, RowSampling
from rocmforge.runtime.device.proof import Proof, check_shortest, shortest_proof, with_last_sequence
from rocmforge.tests.support.hip_bundle import LAYOUT

VOCAB = LAYOUT.vocab_size
PATH = Path("model.rfb")
BLOCK = LAYOUT.kv.block_size
RECORD = {"prompt": [6, 7], "top": [[8, 2.5], [0, 0.0]]}


class Counting:
    """After a token the next number is the likeliest; keeps what it was given."""

    def __init__(self, num_blocks: int = 8, spoiled: float | None = None, **fields: Any) -> None:
        self.layout: Layout = dataclasses.replace(LAYOUT, **fields)
        self.num_blocks, self._spoiled = num_blocks, spoiled
        self.batches: list[Batch] = []

    def step(self, batch: Batch) -> npt.NDArray[np.int32]:
        self.batches.append(batch)
        return ((batch.token_ids[batch.logits_rows] + 1) % VOCAB).astype(np.int32)

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        batch = self.batches[-1]
        rows = np.tile((0.0 - np.arange(VOCAB) / 4).astype(np.float32), (num_rows, 1))
        rows[np.arange(num_rows), (batch.token_ids[batch.logits_rows] + 1) % VOCAB] = 2.5
        if self._spoiled is not None:
            rows[-1, VOCAB - 1] = self._spoiled
        return rows


def program(**fields: Any) -> tuple[Counting, Program]:
    made = Counting(**fields)
    return made, cast(Program, made)


def proof_of(record: dict[str, Any] = RECORD) -> Proof:
    found = shortest_proof(program()[1], PATH, [record], 0.0)
    assert found is not None
    return found


def record(prompt: list[int], *top: tuple[int, float]) -> dict[str, Any]:
    return {"prompt": prompt, "top": [list(pair) for pair in top]}


def batch(blocks: list[list[int]], **fields: Any) -> Batch:
    """Of sequences that begin, each with three tokens and so many blocks; logits are asked of the last of each."""
    count, width = len(blocks), max(map(len, blocks))
    return Batch(
        token_ids=np.arange(3 * count, dtype=np.int32),
        positions=np.tile(np.arange(3, dtype=np.int32), count),
        rows=np.repeat(np.arange(count, dtype=np.int32), 3),
        block_table=np.array([[*row, *[0] * (width - len(row))] for row in blocks], np.int32),
        logits_rows=np.arange(2, 3 * count, 3, dtype=np.int32),
        sampling=[RowSampling(temperature=1.0, seed=index) for index in range(count)],
        **fields,
    )


def test_the_shortest_record_is_replayed() -> None:
    made, one = program()
    wrong, right = record([1, 2, 3], (0, 99.0)), record([6, 7], (8, 2.5), (0, 0.25))
    check_shortest(one, PATH, [wrong, right, record([9, 9], (0, 99.0))], 0.25)
    (alone,) = made.batches
    assert (alone.token_ids.tolist(), alone.positions.tolist(), alone.block_table.tolist()) == ([6, 7], [0, 1], [[0]])
    with pytest.raises(BundleError) as caught:
        check_shortest(one, PATH, [wrong, right], 0.125)
    problem = "golden record 0: token 0: expected 0.2500, found 0.0000: weights, code or device are spoiled"
    assert str(caught.value) == f"model.rfb: golden: {problem}; rfc verify says more"
    check_shortest(one, PATH, [], 0.0)
    with pytest.raises(BundleError, match=r"golden: expected records as rocmforge writes them$"):
        check_shortest(one, PATH, [{"prompt": [1]}], 0.0)


@pytest.mark.parametrize(("num_blocks", "steps"), [(0, 0), (1, 0), (2, 1)])
def test_a_record_that_the_cache_has_no_room_for_is_left_out(num_blocks: int, steps: int) -> None:
    made, one = program(num_blocks=num_blocks)
    check_shortest(one, PATH, [record([1] * 17, (2, 2.5))], 0.0)
    assert len(made.batches) == steps
    made, one = program(num_blocks=1)
    check_shortest(one, PATH, [record([1] * 16, (2, 2.5))], 0.0)
    assert len(made.batches) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_F76_a_device_of_numbers_that_are_none_is_refused(value: float) -> None:
    _, one = program(spoiled=value)
    with pytest.raises(BundleError, match="golden: expected finite logits, found NaN or infinity: weights, code"):
        check_shortest(one, PATH, [record([1], (2, 2.5))], 100.0)
    with pytest.raises(BundleError, match="golden: expected finite logits, found NaN or infinity: weights, code"):
        Proof(PATH, record([1], (2, 2.5)), [1], 100.0).step_with(one, batch([[0]]))


def test_a_record_is_replayed_in_the_first_step() -> None:
    """As one sequence more, behind the others, in blocks that none of them has; nothing of theirs changes."""
    made, one = program()
    asked = batch([[5], [1, 0]], output_rows=np.array([2, 5], np.int32), adapter_scales=np.ones((2, 3), np.float32))
    assert proof_of().step_with(one, asked).tolist() == [3, 6]
    (both,) = made.batches
    assert both.token_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert both.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert both.rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert both.block_table.tolist() == [[5, 0], [1, 0], [2, 0]]
    assert both.logits_rows.tolist() == [2, 5, 7]
    assert both.sampling == [*asked.sampling, RowSampling()]
    assert both.output_rows is not None
    assert both.output_rows.tolist() == [2, 5, 7]
    assert both.adapter_scales is not None
    assert both.adapter_scales.tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]
    arrays = (both.token_ids, both.positions, both.rows, both.block_table, both.logits_rows, both.output_rows)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    assert both.adapter_scales.dtype == np.float32


def test_a_long_record_has_several_blocks() -> None:
    made, one = program()
    prompt = [index % VOCAB for index in range(BLOCK + 1)]
    record = {"prompt": prompt, "top": [[(prompt[-1] + 1) % VOCAB, 2.5]]}
    assert proof_of(record).step_with(one, batch([[1]])).tolist() == [3]
    (both,) = made.batches
    assert both.block_table.tolist() == [[1, 0], [0, 2]]
    assert both.output_rows is None
    assert both.adapter_scales is None


@pytest.mark.parametrize(
    "fields",
    [
        {"num_blocks": 2},
        {"max_batch_tokens": 7},
        {"max_sequences": 2},
    ],
    ids=["no block", "no room in a step", "no sequence"],
)
def test_without_room_it_is_replayed_before(fields: dict[str, Any]) -> None:
    made, one = program(**fields)
    asked = batch([[0], [1]])
    assert proof_of().step_with(one, asked).tolist() == [3, 6]
    before, after = made.batches
    assert before.token_ids.tolist() == [6, 7]
    assert after is asked


@pytest.mark.parametrize("fields", [{"num_blocks": 3}, {"max_batch_tokens": 8}, {"max_sequences": 3}])
def test_there_is_just_room(fields: dict[str, Any]) -> None:
    made, one = program(**fields)
    assert proof_of().step_with(one, batch([[0], [1]])).tolist() == [3, 6]
    assert [len(step.token_ids) for step in made.batches] == [8]


def test_rows_of_logits_are_bounded() -> None:
    """As many as there may be sequences, of however few."""
    scored = dataclasses.replace(batch([[0]]), logits_rows=np.arange(3, dtype=np.int32), sampling=[RowSampling()] * 3)
    assert with_last_sequence(scored, [1], program(max_sequences=3)[1]) is None
    assert with_last_sequence(scored, [1], program(max_sequences=4)[1]) is not None


@pytest.mark.parametrize("field", ["state_to", "input_rows", "rope_positions"])
def test_what_a_sequence_needs_its_own_of(field: str) -> None:
    assert with_last_sequence(batch([[0]], **{field: np.zeros((1, 3), np.int32)}), [1], program()[1]) is None
    assert with_last_sequence(batch([[0]]), [1], program()[1]) is not None


def test_another_answer_is_no_result() -> None:
    _, one = program()
    wrong = proof_of({"prompt": [6, 7], "top": [[8, 2.25]]})
    for _ in range(2):
        with pytest.raises(BundleError, match=r"token 8: expected 2\.2500, found 2\.5000: weights, code"):
            wrong.step_with(one, batch([[0]]))


def test_a_device_that_fails_is_not_blamed_on_the_bundle() -> None:
    class Lost(Counting):
        def step(self, batch: Batch) -> npt.NDArray[np.int32]:
            raise DeviceError("lost")

    with pytest.raises(DeviceError):
        proof_of().step_with(cast(Program, Lost()), batch([[0]]))
