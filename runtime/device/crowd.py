"""Batches of several sequences of equal length that have a program to themselves, for measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.layout import Layout
from .batch import Batch, RowSampling


def crowd_batch(layout: Layout, token_ids: Sequence[int], position: int) -> Batch:
    """Return a step of one token for each of S sequences, all at one position.

    Sequence i has the blocks from i * P on, where P blocks hold `position` + 1 tokens; of state it reads slot 2 * i, or
    begins where the position is 0, and writes slot 2 * i + 1. What lies there counts for nothing: it takes as long.
    """
    count = len(token_ids)
    width = position // layout.kv.block_size + 1
    rows = np.arange(count, dtype=np.int32)
    state_from = state_to = None
    if layout.states:
        state_from, state_to = (2 * rows if position else np.full(count, -1, np.int32)), 2 * rows + 1
    return Batch(
        token_ids=np.array(token_ids, np.int32),
        positions=np.full(count, position, np.int32),
        rows=rows,
        block_table=np.arange(count * width, dtype=np.int32).reshape(count, width),
        logits_rows=rows,
        sampling=[RowSampling()] * count,
        state_from=state_from,
        state_to=state_to,
    )
