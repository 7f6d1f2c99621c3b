"""The requests of an engine, from queue to end, and what the tokens of a step make of them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Final

from ..device.token_masks import TokenMasks
from .failure import Failure
from .generation import FINISH_CANCELLED, FINISH_FAILED, FINISH_LENGTH
from .lifecycle import FINISHED, FIRST_TOKEN, QUEUED, EngineMetrics, Lifecycle
from .logprobs import TokenLogprobs
from .scheduler import Chunk, Scheduler
from .sequence import ActiveSequence
from .step import StepOutput

KEPT_FINISHED = 1024  # finished requests that /status still knows
_NOT_FINITE: Final = Failure("the model's logits are not finite numbers (NaN or infinity)")


class RequestTable:
    """Those that wait and run, and those that ended lately. Not thread-safe: the engine's lock guards it."""

    def __init__(
        self,
        scheduler: Scheduler,
        life: Lifecycle,
        metrics: EngineMetrics,
        masks: TokenMasks,
        eos_token_ids: Collection[int],
    ) -> None:
        """Args: who computes when; who is told of it; what counts; where masks are made; tokens that end a text."""
        self.scheduler = scheduler
        self.masks = masks
        self._life = life
        self._metrics = metrics
        self._eos_token_ids = eos_token_ids
        self._known: OrderedDict[int, ActiveSequence] = OrderedDict()

    def queue(self, sequences: Iterable[ActiveSequence]) -> None:
        """Have them wait for their turn."""
        for sequence in sequences:
            self.scheduler.waiting.push(sequence)
            self._life.tell(QUEUED, sequence, sequence.num_prompt_tokens)

    def remember(self, sequence: ActiveSequence) -> None:
        """Have `find` find it until long after its end."""
        self._known[sequence.request_id] = sequence
        if len(self._known) > KEPT_FINISHED:
            oldest = next((s for s in self._known.values() if s.finished), None)
            if oldest is not None:
                del self._known[oldest.request_id]

    def find(self, request_id: int) -> ActiveSequence | None:
        """A request that is remembered, or None."""
        return self._known.get(request_id)

    def live(self) -> list[ActiveSequence]:
        """All that have not ended."""
        return [*self.scheduler.running, *self.scheduler.waiting]

    def drop_ended(self, queue_seconds: float) -> None:
        """End those that were cancelled, and those whose time is over; `queue_seconds` is the longest wait."""
        now = time.monotonic()
        for sequence in self.live():
            if sequence.cancel_requested:
                self.finish(sequence, FINISH_CANCELLED)
            elif (overdue := sequence.overdue(now, queue_seconds)) is not None:
                self.finish(sequence, *overdue)

    def finish(self, sequence: ActiveSequence, reason: str, error: Failure | None = None) -> None:
        """End one without a new token."""
        sequence.finish(reason, error)
        self._release(sequence)

    def _release(self, sequence: ActiveSequence) -> None:
        reason = sequence.finish_reason or FINISH_FAILED
        self.scheduler.release(sequence, trusted=reason != FINISH_FAILED)
        self._life.tell(FINISHED, sequence, sequence.num_generated, reason)

    def take(self, chunks: list[Chunk], output: StepOutput) -> int:
        """Give each request what a step of these chunks came to; returns how many tokens were generated."""
        drawn = zip(output.tokens, output.logprobs, strict=True)
        for chunk in chunks:
            self.scheduler.computed(chunk)
        taken = sum(self._take_rows(chunk, list(islice(drawn, chunk.num_logits))) for chunk in chunks)
        if next(drawn, None) is not None:
            raise ValueError("the device drew more tokens than were asked for")
        for chunk, embedding, states in output.hidden:
            embedding.take(chunk, states)
            if embedding.finished:
                self._release(embedding)
        return taken

    def _take_rows(self, chunk: Chunk, rows: list[tuple[int, TokenLogprobs | None]]) -> int:
        """Take what rows of logits came to: scores of the prompt, then tokens; returns how many tokens."""
        if len(rows) < chunk.num_logits:
            raise ValueError("the device drew fewer tokens than were asked for")
        sequence, scored = chunk.sequence, rows[: len(chunk.scored)]
        if any(token < 0 for token, _ in scored):
            self.finish(sequence, FINISH_FAILED, _NOT_FINITE)
            return 0
        sequence.take_scores([score for _, score in scored if score is not None])
        taken = self._take_tokens(chunk, rows[len(scored) :])
        if chunk.completes and sequence.ends_with_prompt:
            self.finish(sequence, FINISH_LENGTH)
        return taken

    def _take_tokens(self, chunk: Chunk, drawn: list[tuple[int, TokenLogprobs | None]]) -> int:
        """Take the next token, and those after drafts that are accepted; returns how many that were."""
        sequence, before = chunk.sequence, chunk.sequence.num_generated
        accepted = 0
        for index, (token, logprob) in enumerate(drawn):
            self._take_token(sequence, token, logprob)
            if sequence.finished or chunk.drafts[index : index + 1] != (token,):
                break
            accepted += 1
        if chunk.drafts and not sequence.finished:
            self.scheduler.drafts_judged(chunk, accepted)
            self._metrics.drafts_judged(len(chunk.drafts), accepted, chunk.drafted_by)
        return sequence.num_generated - before

    def _take_token(self, sequence: ActiveSequence, token: int, logprobs: TokenLogprobs | None) -> None:
        if sequence.first_token_at is None:
            self._life.tell(FIRST_TOKEN, sequence)
        if token < 0:
            self.finish(sequence, FINISH_FAILED, sequence.mask_error() or _NOT_FINITE)
            return
        sequence.append(token, token in self._eos_token_ids and not sequence.request.ignore_eos, logprobs)
        if sequence.finished:
            self._release(sequence)
        else:
            sequence.begin_mask(self.masks)
