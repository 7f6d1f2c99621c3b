"""Steps by which graphs are tried: any device can take them, and none is like the one before."""

from __future__ import annotations

import dataclasses

import pytest

from rocmforge.runtime.hip_self_test import self_test_batches

from .hip_bundle import LAYOUT


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
