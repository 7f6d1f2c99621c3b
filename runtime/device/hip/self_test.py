"""Steps by which graphs are tried when a program is loaded."""

from __future__ import annotations

from typing import Final

import numpy as np

from ....artifacts.layout import Layout
from ..batch import Batch, RowSampling

_SEQUENCES: Final = (1, 2)
_POSITIONS: Final = (3, 5)


def self_test_batches(layout: Layout, num_blocks: int) -> list[Batch]:
    """Decode steps of one sequence and of two in turn, each twice with other tokens, positions and blocks: what a
    replay keeps of the one before shows. What they leave in the KV cache changes nothing where they are run again."""
    counts = [n for n in _SEQUENCES if n <= min(layout.max_sequences, layout.max_batch_tokens, num_blocks)]
    return [_decode(layout, num_blocks, count, turn) for turn in range(len(_POSITIONS)) for count in counts]


def _decode(layout: Layout, num_blocks: int, count: int, turn: int) -> Batch:
    sequences = np.arange(count, dtype=np.int32)
    last = min(layout.max_seq_len, layout.kv.block_size) - 1
    state_from = state_to = None
    if layout.states:  # the slots of one sequence: that of the second turn goes on from where the step before ended
        goes_on = turn > 0 and count == 1
        state_from = np.full(count, 0 if goes_on else -1, np.int32)
        state_to = (sequences + int(goes_on)).astype(np.int32)
    return Batch(
        token_ids=((7919 * (1 + turn + 2 * sequences)) % layout.vocab_size).astype(np.int32),
        positions=np.full(count, min(_POSITIONS[turn], last), np.int32),
        rows=sequences,
        block_table=((sequences[:, None] + turn) % num_blocks).astype(np.int32),
        logits_rows=sequences,
        sampling=[RowSampling()] * count,
        state_from=state_from,
        state_to=state_to,
    )
