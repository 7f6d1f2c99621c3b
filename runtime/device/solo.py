"""Batches of one sequence that has a program to itself, for golden records, comparisons and measurements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.layout import Layout
from .batch import Batch, RowSampling


class Solo:
    """A sequence in blocks 0, 1 and so on, whose state goes from one to the other of the slots 0 and 1.

    The step that it begins with leaves it in slot 0, from where another of these goes on too.
    """

    def __init__(self, layout: Layout) -> None:
        """Args: of the program."""
        self._layout = layout
        self._slot = 0

    def batch(
        self,
        token_ids: Sequence[int],
        start: int,
        num_blocks: int | None = None,
        logits_rows: Sequence[int] | None = None,
        sampling: RowSampling | None = None,
        *,
        all_outputs: bool = True,
    ) -> Batch:
        """Return the step of tokens that go on from the step before.

        Args:
            token_ids: of the step.
            start: position of the first; 0: the sequence begins anew.
            num_blocks: of the block table; None: as many as hold what there is.
            logits_rows: of which tokens logits are asked; None: of the last.
            sampling: of each row; None: the most likely token.
            all_outputs: more than logits may be read of the step; see `Batch.output_rows`.
        """
        count, read = len(token_ids), self._slot if start else -1
        blocks = -(-(start + count) // self._layout.kv.block_size) if num_blocks is None else num_blocks
        rows = [count - 1] if logits_rows is None else logits_rows
        state_from = state_to = None
        if self._layout.states:
            self._slot = 1 - self._slot if start else 0
            state_from, state_to = np.array([read], np.int32), np.full(count, -1, np.int32)
            state_to[-1] = self._slot
        return Batch(
            token_ids=np.array(token_ids, np.int32),
            positions=np.arange(start, start + count, dtype=np.int32),
            rows=np.zeros(count, np.int32),
            block_table=np.arange(blocks, dtype=np.int32)[None].copy(),
            logits_rows=np.array(rows, np.int32),
            sampling=[sampling or RowSampling()] * len(rows),
            state_from=state_from,
            state_to=state_to,
            output_rows=None if all_outputs else np.array(sorted(set(rows)), np.int32),
        )
