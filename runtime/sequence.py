"""One request on its way through the engine: the one thing that changes while serving."""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

from .batch import RowSampling
from .generation import FINISH_EOS, FINISH_LENGTH, FINISH_STOP, GenerationRequest, GenerationState, TokenEvent
from .tokenizer import StopMatcher, StreamDecoder, Tokenizer


class Sequence:
    """A request, its tokens and its blocks; also the `Generation` that the HTTP thread holds.

    The engine's thread writes; other threads read snapshots, wait for events and set `cancel_requested`.
    """

    def __init__(self, request_id: int, request: GenerationRequest, seed: int, tokenizer: Tokenizer) -> None:
        self._request_id = request_id
        self.request = request
        self.seed = seed
        self.token_ids = list(request.prompt_token_ids)
        self.num_computed = 0  # tokens whose keys and values lie in the cache
        self.blocks: list[int] = []
        self.cancel_requested = False
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.submitted_at = time.monotonic()
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopMatcher(request.stop)
        self._pieces: list[str] = []
        self._events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()

    @property
    def request_id(self) -> int:
        """See `Generation`."""
        return self._request_id

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def max_length(self) -> int:
        """Tokens that prompt and output can come to: what must fit into its blocks."""
        return self.num_prompt_tokens + self.request.max_tokens

    @property
    def finished(self) -> bool:
        """Whether the last event was sent."""
        return self.finish_reason is not None

    def row_sampling(self) -> RowSampling:
        """How its next token is drawn."""
        params = self.request.sampling
        seen_tokens = seen_counts = None
        if (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) != (1.0, 0.0, 0.0):
            seen = Counter(dict.fromkeys(self.request.prompt_token_ids, 0))
            seen.update(self.token_ids[self.num_prompt_tokens :])
            seen_tokens = np.fromiter(seen.keys(), np.int32, len(seen))
            seen_counts = np.fromiter(seen.values(), np.int32, len(seen))
        return RowSampling(
            params.temperature,
            params.top_k,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
            self.seed,
            self.num_generated,
            seen_tokens,
            seen_counts,
        )

    def append(self, token: int, is_eos: bool) -> None:
        """Take the next token, send its event, and finish where it is the last."""
        self.token_ids.append(token)
        text, stopped = ("", False) if is_eos else self._stops.push(self._decoder.push(token))
        if stopped:
            self._send(token, text, FINISH_STOP)
        elif is_eos:
            self._send(token, self._rest(), FINISH_EOS)
        elif self.num_generated >= self.request.max_tokens:
            text += self._rest()
            self._send(token, text, FINISH_STOP if self._stops.stopped else FINISH_LENGTH)
        else:
            self._send(token, text, None)

    def finish(self, reason: str, error: str | None = None) -> None:
        """End without a new token: cancelled or failed."""
        self.error = error
        self._send(None, self._rest(), reason)

    def _rest(self) -> str:
        """What was held back: half a character, the beginning of a stop string."""
        text, stopped = self._stops.push(self._decoder.flush())
        return text if stopped else text + self._stops.flush()

    def _send(self, token: int | None, text: str, reason: str | None) -> None:
        self._pieces.append(text)
        self.finish_reason = reason
        self._events.put(TokenEvent(token, text, reason is not None, reason, self.error))

    def events(self, timeout: float | None = None) -> Iterator[TokenEvent | None]:
        """See `Generation`."""
        while True:
            try:
                event = self._events.get(timeout=timeout)
            except queue.Empty:
                yield None
                continue
            yield event
            if event.finished:
                return

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
        )

    def cancel(self) -> None:
        """See `Generation`."""
        self.cancel_requested = True
