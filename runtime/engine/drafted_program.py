"""The program of a served model and that of its draft model, as one: they are loaded, lost and closed together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..device.batch import Batch, DeviceFacts, Float32, Int32, Program, close_program
from .drafts import DraftPolicy
from .scheduler import Chunk

if TYPE_CHECKING:
    from .draft_model import DraftModel


class DraftedProgram:
    """A `Program` with a draft model beside it, whose failures are not its own."""

    def __init__(self, program: Program, drafts: DraftModel, policy: DraftPolicy) -> None:
        """Take over both; what chooses is told what steps cost."""
        self.layout, self.num_blocks = program.layout, program.num_blocks
        self.num_state_slots = program.num_state_slots
        self._program = program
        self._drafts = drafts
        self._policy = policy
        self._decodes = False
        self._chunks: Sequence[Chunk] = ()

    def draft(self, chunks: list[Chunk]) -> None:
        """Give drafts to those chunks of the next step that have room for some."""
        self._drafts.fill(chunks)
        self._chunks = chunks
        self._decodes = all(chunk.samples and not chunk.sequence.prefilling for chunk in chunks)

    def step(self, batch: Batch) -> Int32:
        """See `Program.step`."""
        began = time.perf_counter()
        observes = self._drafts.observes(self._chunks)
        if observes:
            batch = replace(batch, output_rows=None)
        sampled = self._program.step(batch)
        if self._decodes:
            self._policy.costs.observe_step(len(batch.token_ids), time.perf_counter() - began)
        if observes:
            self._drafts.observe(self._program, self._chunks)
        return sampled

    def check(self) -> None:
        """See `Program.check`; a draft model whose files have changed costs drafts alone."""
        self._program.check()

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        """See `Program.logits`."""
        return self._program.logits(num_rows)

    def hidden(self, first: int, count: int) -> Float32:
        """See `Program.hidden`."""
        return self._program.hidden(first, count)

    def tapped(self, first: int, count: int) -> Float32:
        """See `Program.tapped`."""
        return self._program.tapped(first, count)

    def memory(self) -> tuple[int, int]:
        """See `Program.memory`."""
        return self._program.memory()

    def facts(self) -> DeviceFacts:
        """See `Program.facts`; of the served model."""
        return self._program.facts()

    def close(self) -> None:
        """See `Program.close`."""
        try:
            self._drafts.close()
        finally:
            close_program(self._program)
