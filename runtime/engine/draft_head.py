"""A block that the served model brings, which drafts its next tokens: multi-token prediction.

It is a draft model but for what it reads: beside each token the hidden state of the one before it. Of tokens that the
served model computed that is the served model's; behind the last it is the block's own, one draft after another. What
followed from states of its own is computed again from the served model's, once that has judged the drafts.

An EAGLE 3 head is such a block too. What it reads are hidden states of three of the model's layers, and no zeros stand
before a text: it was trained to begin with the second token, beside what the model has of the first.

A state that nobody has is taken for zeros: the one before the first token, and those of tokens that were found in the
cache. Drafts are the worse for it, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import numpy as np

from ..device.batch import Batch, Float32, Program
from ..device.hidden import head_rows
from .draft_model import DraftModel, Part, Shadow
from .scheduler import Chunk
from .sequence import ActiveSequence

log = logging.getLogger(__name__)

_MOST_STATES: Final = 1024  # of a sequence that were not yet read; the first of more are given up


class DraftHead(DraftModel):
    """A served model's own block, on its device. One thread's, which runs the served model's steps too."""

    @property
    def _skipped(self) -> int:
        """Tokens at the beginning of a text that it does not read."""
        return 0 if self._program.layout.tap is None else 1

    def observes(self, chunks: Sequence[Chunk]) -> bool:
        """See `DraftModel`."""
        return not self._policy.paused and any(chunk.sequence.max_drafts > 0 for chunk in chunks)

    def observe(self, program: Program, chunks: Sequence[Chunk]) -> None:
        """See `DraftModel`; keeps what the block will read. Raises nothing, as `fill`."""
        try:
            read = program.tapped if self._skipped else program.hidden
            rows = read(0, sum(chunk.num_tokens for chunk in chunks))
        except Exception as error:  # whatever it does, requests are served without
            self._failed(error)
            return
        first = 0
        for chunk in chunks:
            if chunk.sequence.max_drafts > 0:
                self._keep(self._known(chunk.sequence), chunk.start, rows[first : first + chunk.num_tokens])
            first += chunk.num_tokens

    def _shadow(self, sequence: ActiveSequence) -> Shadow:
        """See `DraftModel`; what followed from guesses is computed again."""
        self._known(sequence).guesses = []
        shadow = super()._shadow(sequence)
        shadow.num_computed = max(shadow.num_computed, 0)  # where it reads nothing of a text of one token
        return shadow

    def _known(self, sequence: ActiveSequence) -> Shadow:
        if sequence not in self._shadows:
            read = cast(ActiveSequence, LaterTokens(sequence)) if self._skipped else sequence
            self._shadows[sequence] = Shadow(read)
        return self._shadows[sequence]

    def _batch(self, parts: Sequence[Part]) -> Batch:
        """See `DraftModel`; beside each token the state of the one before it."""
        found: list[Float32] = []
        row_of: list[int] = []
        for part in parts:
            states = part.shadow.states
            before = part.start + self._skipped - 1
            own = [part.state] if part.drafts else [states.get(before + n) for n in range(len(part.token_ids))]
            for state in own:
                row_of.append(-1 if state is None else len(found))
                found += [] if state is None else [self._widened(state)]
        batch = replace(super()._batch(parts), output_rows=None)  # `_read` reads hidden states
        if not found:
            return batch
        return replace(batch, input_rows=np.stack(found), row_of=np.array(row_of, np.int32))

    def _widened(self, state: Float32) -> Float32:
        """A row as the block takes it: behind the served model's states there are columns for its own."""
        missing = self._program.layout.input_width - len(state)
        return np.pad(state, (0, missing)) if missing else state

    def _read(self, parts: Sequence[Part]) -> None:
        """See `DraftModel`: the states after the tokens that others are drafted behind."""
        ends = np.cumsum([len(part.token_ids) for part in parts]).tolist()
        if ends[-1] == len(parts):
            rows = list(head_rows(self._program, 0, len(parts)))
        else:
            rows = [head_rows(self._program, end - 1, 1)[0] for end in ends]
        for part, row in zip(parts, rows, strict=True):
            part.state = row

    def _computed(self, part: Part) -> None:
        """See `DraftModel`; states that were read are let go."""
        super()._computed(part)
        shadow = part.shadow
        for position in [one for one in shadow.states if one < shadow.num_computed + self._skipped - 1]:
            del shadow.states[position]

    def _keep(self, shadow: Shadow, start: int, rows: Float32) -> None:
        """Keep the states after tokens from position `start` on, of those that the block has yet to read."""
        if shadow.unusable:
            return
        for position, row in enumerate(rows, start):
            if position >= shadow.num_computed + self._skipped - 1:
                shadow.states[position] = row
        if len(shadow.states) > _MOST_STATES:
            for position in sorted(shadow.states)[:-_MOST_STATES]:
                del shadow.states[position]


class LaterTokens:
    """A sequence without its first token; all else is the sequence's own."""

    __slots__ = ("_sequence", "_tokens")

    def __init__(self, sequence: ActiveSequence) -> None:
        self._sequence = sequence
        self._tokens: list[int] = []

    @property
    def token_ids(self) -> list[int]:
        """Those after the first, of which there are ever more."""
        self._tokens += self._sequence.token_ids[len(self._tokens) + 1 :]
        return self._tokens

    def __getattr__(self, name: str) -> object:
        return getattr(self._sequence, name)
