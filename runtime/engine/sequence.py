"""One request on its way through the engine: the one thing that changes while serving."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ...artifacts.errors import RocmforgeError
from ...artifacts.sampling import values_of, weighs_history
from ..device.batch import RowSampling, UInt32
from ..device.token_masks import PendingMask, TokenMasks
from ..text.tokenizer import StopMatcher, StreamDecoder, Tokenizer
from .draft_masks import DraftMasks
from .drafts import DraftHistory
from .failure import Failure, failure_of
from .generation import (
    FINISH_CANCELLED,
    FINISH_EOS,
    FINISH_FAILED,
    FINISH_LENGTH,
    FINISH_STOP,
    GenerationRequest,
    GenerationState,
    Inbox,
    TokenEvent,
    events_of,
)
from .kv_cache import add_block_keys, root_key
from .logprobs import TokenLogprobs
from .pictures import PromptPictures
from .prompt_lookup import PromptLookup
from .state_slots import HeldSlots


class ActiveSequence:
    """A request, its tokens and its blocks; also the `Generation` that the HTTP thread holds.

    The engine's thread writes; other threads read snapshots, wait for events and set `cancel_requested`.
    """

    def __init__(
        self,
        request_id: int,
        request: GenerationRequest,
        seed: int,
        tokenizer: Tokenizer,
        index: int = 0,
        inbox: Inbox | None = None,
        pictures: PromptPictures | None = None,
    ) -> None:
        self._request_id = request_id
        self._index = index
        self._inbox = inbox or Inbox()
        self.request = request
        self.pictures = pictures
        self.seed = seed
        self.token_ids = list(request.prompt_token_ids)
        self.num_computed = 0  # tokens whose keys and values lie in the cache
        self.most_computed = 0  # of these, before it was preempted
        self.blocks: list[int] = []
        self.slots = HeldSlots()  # of recurrent state, where the model has some
        self._root_key = root_key(request.cache_space, request.adapters)
        self.block_keys: list[bytes] = []  # of its first blocks, as far as they were asked for
        self.lookup: PromptLookup | None = None  # where drafts are made for it
        self.draft_history = DraftHistory()
        self.cached_tokens = 0  # of its prompt, that did not have to be computed
        self.prefilling = False  # admitted, and what it had then is not yet computed
        self.cancel_requested = False
        self.finish_reason: str | None = None
        self.error: Failure | None = None
        self.submitted_at = time.monotonic()
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        bias = request.sampling.logit_bias
        self._numbers = values_of(request.sampling)
        self._weighs_history = weighs_history(request.sampling)
        self._bias_tokens = np.array([token for token, _ in bias], np.int32) if bias else None
        self._biases = np.array([value for _, value in bias], np.float32) if bias else None
        # The first is computed here, by the thread that submits: where it fails, the request is refused.
        self._mask: UInt32 | PendingMask | None = request.constraint.mask() if request.constraint else None
        self._draft_masks: DraftMasks | None = None  # under a constraint, from its first token on
        self._logprobs: list[TokenLogprobs] = []
        self._scores: list[TokenLogprobs] = []  # of its prompt, until its first event
        self.num_scored = 0  # positions of its prompt whose logits were asked for, and seen
        self._decoder = StreamDecoder(tokenizer, kept=request.kept_tokens)
        self._stops = StopMatcher(request.stop)
        self._pieces: list[str] = []

    @property
    def request_id(self) -> int:
        """See `Generation`."""
        return self._request_id

    @property
    def client(self) -> str:
        """See `Generation`."""
        return self.request.client

    @property
    def inbox(self) -> Inbox:
        """See `Generation`."""
        return self._inbox

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn from what the model makes of it."""
        return self.request.max_tokens > 0

    @property
    def ends_with_prompt(self) -> bool:
        """Whether nothing is left to do once its prompt is computed."""
        return not self.samples

    @property
    def reuses_prefix(self) -> bool:
        """Whether what was computed for others need not be computed again: the cache has no logits."""
        return self.request.prompt_logprobs is None or self.num_scored >= self.num_prompt_tokens - 1

    def unscored(self, start: int, end: int) -> range:
        """Of the positions from `start` up to `end`, those whose logits have yet to score the prompt's next token."""
        if self.request.prompt_logprobs is None:
            return range(start, start)
        first = max(start, self.num_scored)
        return range(first, max(first, min(end, self.num_prompt_tokens - 1)))

    def take_scores(self, scores: Sequence[TokenLogprobs]) -> None:
        """Log-probabilities of the next tokens of its prompt."""
        self._scores += scores
        self.num_scored += len(scores)

    def keys_of_blocks(self, count: int, size: int) -> list[bytes]:
        """Keys of its first `count` blocks of `size` tokens, all of which are there, and perhaps of more."""
        rows_of = None if self.pictures is None else self.pictures.key
        return add_block_keys(self.block_keys, self._root_key, self.token_ids, size, count, rows_of)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed(self) -> int:
        """Tokens that a step has yet to compute; the next token follows from the last of them."""
        return len(self.token_ids) - self.num_computed

    @property
    def max_length(self) -> int:
        """Tokens that prompt and output can come to: what must fit into its blocks."""
        return self.num_prompt_tokens + self.request.max_tokens

    def overdue(self, now: float, queue_seconds: float) -> tuple[str, Failure] | None:
        """How and why it has to end at `now`: by its own time limit, or after `queue_seconds` without having begun."""
        waited, limit = now - self.submitted_at, self.request.deadline_seconds
        if limit is not None and waited >= limit:
            return FINISH_CANCELLED, Failure(f"the request's time limit of {limit:g} s has passed")
        if self.admitted_at is None and waited >= queue_seconds:
            return FINISH_FAILED, Failure(f"waited {queue_seconds:g} s in the queue")
        return None

    @property
    def finished(self) -> bool:
        """Whether the last event was emitted."""
        return self.finish_reason is not None

    @property
    def max_drafts(self) -> int:
        """Drafts of next tokens that can be of use."""
        return self.request.max_tokens - self.num_generated - 1

    def row_samplings(self, drafts: Sequence[int] = ()) -> list[RowSampling]:
        """How its next token is drawn, and after each of the drafts the one that follows if it is accepted."""
        seen = None
        if self._weighs_history:
            words = self.request.prompt_token_ids
            seen = Counter(dict.fromkeys(words if self.pictures is None else self.pictures.words(words), 0))
            seen.update(self.token_ids[self.num_prompt_tokens :])
        rows = [self._row_sampling(self.num_generated, seen, self._mask)]
        masks = [None] * len(drafts) if self._draft_masks is None else self._draft_masks.after(drafts)
        for index, (draft, mask) in enumerate(zip(drafts, masks, strict=True), self.num_generated + 1):
            if seen is not None:
                seen[draft] += 1
            rows.append(self._row_sampling(index, seen, mask))
        return rows

    def _row_sampling(self, counter: int, seen: Counter[int] | None, mask: UInt32 | PendingMask | None) -> RowSampling:
        seen_tokens = seen_counts = None
        if seen is not None:
            seen_tokens = np.fromiter(seen.keys(), np.int32, len(seen))
            seen_counts = np.fromiter(seen.values(), np.int32, len(seen))
        return RowSampling(
            **self._numbers,
            seed=self.seed,
            counter=counter,
            seen_tokens=seen_tokens,
            seen_counts=seen_counts,
            bias_tokens=self._bias_tokens,
            biases=self._biases,
            mask=mask,
            keep_logits=self.request.logprobs is not None,
        )

    def append(self, token: int, is_eos: bool, logprobs: TokenLogprobs | None = None) -> None:
        """Take the next token, emit its event, and finish where it is the last."""
        self.token_ids.append(token)
        if token in self.request.stop_token_ids:
            self._emit(token, self._rest(), FINISH_STOP, end_logprobs=logprobs)
            return
        if is_eos:
            self._emit(token, self._rest(), FINISH_EOS, end_logprobs=logprobs)
            return
        text, stopped = self._stops.push(self._decoder.push(token))
        complete = not stopped and self._advance_constraint(token)
        if self.error is not None:
            self._emit(token, text, FINISH_FAILED, logprobs)
        elif stopped:
            self._emit(token, text, FINISH_STOP, logprobs)
        elif complete or self.num_generated >= self.request.max_tokens:
            text += self._rest()
            self._emit(token, text, FINISH_STOP if complete or self._stops.stopped else FINISH_LENGTH, logprobs)
        else:
            self._emit(token, text, None, logprobs)

    def _advance_constraint(self, token: int) -> bool:
        """Whether the constraint has its whole text; sets `error` where it gives up."""
        constraint = self.request.constraint
        if self._draft_masks is not None:
            self._draft_masks.settle()
        try:
            return constraint is not None and constraint.take(token)
        except RocmforgeError as error:
            self.error = failure_of(error)
            return False

    def begin_mask(self, masks: TokenMasks) -> None:
        """Have it computed which tokens its constraint allows next, while the device works."""
        constraint = self.request.constraint
        if constraint is None:
            return
        if self._draft_masks is None:
            self._draft_masks = DraftMasks(masks, constraint)
        made = self._draft_masks.take(self.token_ids[-1])
        self._mask = masks.begin(constraint) if made is None else made

    def mask_error(self) -> Failure | None:
        """Why its last mask could not be computed, where it could not: then no token was drawn."""
        error = self._mask.error() if isinstance(self._mask, PendingMask) else None
        return None if error is None else failure_of(error)

    def finish(self, reason: str, error: Failure | None = None) -> None:
        """End without a new token: cancelled or failed; `error` says why."""
        self.error = error
        self._emit(None, self._rest(), reason)

    def _rest(self) -> str:
        """What was held back: half a character, the beginning of a stop string."""
        text, stopped = self._stops.push(self._decoder.flush())
        return text if stopped else text + self._stops.flush()

    def _emit(
        self,
        token: int | None,
        text: str,
        reason: str | None,
        logprobs: TokenLogprobs | None = None,
        end_logprobs: TokenLogprobs | None = None,
    ) -> None:
        self._pieces.append(text)
        if logprobs is not None:
            self._logprobs.append(logprobs)
        self.finish_reason = reason
        stop = self._stops.matched if reason == FINISH_STOP else None
        scores, self._scores = tuple(self._scores), []
        ended = reason is not None
        self._inbox.put(
            TokenEvent(token, text, ended, reason, self.error, logprobs, self._index, stop, scores, end_logprobs)
        )
        if ended:
            self._forget_constraint()

    def _forget_constraint(self) -> None:
        """Ended requests are known for a while, and a constraint may hold hundreds of kilobytes."""
        self._mask = self._draft_masks = None
        if self.request.constraint is not None:
            self.request = replace(self.request, constraint=None)

    def events(self, timeout: float | None = None) -> Iterator[TokenEvent | None]:
        """See `Generation`."""
        return events_of([self], timeout)

    def state(self) -> GenerationState:
        """See `Generation`."""
        reason = self.finish_reason
        return GenerationState(
            self._request_id,
            "".join(self._pieces),
            tuple(self.token_ids[self.num_prompt_tokens :]),
            self.num_prompt_tokens,
            reason is not None,
            reason,
            self.error,
            tuple(self._logprobs),
            min(self.cached_tokens, self.num_prompt_tokens),
        )

    def cancel(self) -> None:
        """See `Generation`."""
        self.cancel_requested = True


def seed_of(request: GenerationRequest) -> int:
    """The seed that it names, or one that is drawn for it."""
    seed = request.sampling.seed
    return secrets.randbits(64) if seed is None else seed
