"""Steps by which graphs are tried: any device can take them, and none is like the one before."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rocmforge.runtime.device.hip.self_test import self_test_batches
from rocmforge.tests.support.hip_bundle import LAYOUT


@pytest.mark.parametrize("blocks, sequences", [(1, 8), (2, 8), (3, 1), (20, 8)])
def test_steps_that_the_device_has_room_for(blocks: int, sequences: int) -> None:
    layout = dataclasses.replace(LAYOUT, max_sequences=sequences)
    batches = self_test_batches(layout, blocks)
    most = min(blocks, sequences, 2)
    assert [len(batch.token_ids) for batch in batches] == [*range(1, most + 1)] * 2
    for batch in batches:
        assert batch.block_table.shape == (len(batch.token_ids), 1)
        used = batch.block_table[:, 0].tolist()
        assert len(set(used)) == len(used)
        assert set(used) <= set(range(blocks))
        assert batch.token_ids.max() < layout.vocab_size
        assert batch.positions.max() < layout.kv.block_size
    for before, after in zip(batches[:most], batches[most:], strict=True):
        assert (before.token_ids != after.token_ids).all()
        assert (before.positions != after.positions).all()
        assert blocks == 1 or (before.block_table != after.block_table).all()


def test_the_same_steps_each_time() -> None:
    batches = self_test_batches(LAYOUT, 3)
    assert [batch.token_ids.tolist() for batch in batches] == [[47], [47, 45], [46], [46, 44]]
    assert [batch.positions.tolist() for batch in batches] == [[3], [3, 3], [5], [5, 5]]
    assert [batch.block_table.tolist() for batch in batches] == [[[0]], [[0], [1]], [[1]], [[1], [2]]]
    for batch in batches:
        count = len(batch.token_ids)
        assert batch.rows.tolist() == batch.logits_rows.tolist() == list(range(count))
        assert len(batch.sampling) == count
        arrays = batch.token_ids, batch.positions, batch.block_table, batch.rows, batch.logits_rows
        assert {array.dtype for array in arrays} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("block_size", "max_seq_len", "expected"), [(16, 128, (3, 5)), (16, 5, (3, 4)), (4, 128, (3, 3)), (8, 2, (1, 1))]
)
def test_positions_stay_in_the_page_and_in_the_context(
    block_size: int, max_seq_len: int, expected: tuple[int, int]
) -> None:
    kv = dataclasses.replace(LAYOUT.kv, block_size=block_size)
    layout = dataclasses.replace(LAYOUT, kv=kv, max_seq_len=max_seq_len, max_sequences=1)
    assert tuple(int(batch.positions[0]) for batch in self_test_batches(layout, 4)) == expected
