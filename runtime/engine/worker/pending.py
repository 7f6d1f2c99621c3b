"""Requests that a worker computes, as the server's threads see them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from ...device.batch import Float32
from ..embeddings import EmbeddingError, EmbeddingRequest
from ..failure import Failure
from ..generation import FINISH_FAILED, GenerationRequest, GenerationState, Inbox, TokenEvent, events_of
from ..logprobs import TokenLogprobs
from .wire import Embedded, Event, Generated

CancelRequest = Callable[[int], None]


class Pending:
    """What all requests have in common. One thread writes: the one that reads what the worker says."""

    def __init__(self, request_id: int, request: GenerationRequest | EmbeddingRequest, cancel: CancelRequest) -> None:
        self._request_id = request_id
        self._client = request.client
        self._cancel = cancel
        self.prompt_token_ids = request.prompt_token_ids
        self.cache_space = request.cache_space
        self.submitted_at = time.monotonic()
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.finish_reason: str | None = None
        self.counted = False  # whether its end is

    @property
    def request_id(self) -> int:
        """See `Generation`."""
        return self._request_id

    @property
    def client(self) -> str:
        """See `Generation`."""
        return self._client

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt."""
        return len(self.prompt_token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return 0

    def take(self, event: Event) -> None:
        """What the worker says of it.

        Raises:
            TypeError: that is said of requests of another kind.
        """
        raise NotImplementedError

    def fail(self, problem: str) -> None:
        """End it: the worker does not any more."""
        raise NotImplementedError

    def cancel(self) -> None:
        """See `Generation`."""
        if self.finish_reason is None:
            self._cancel(self._request_id)


class RemoteGeneration(Pending):
    """A `Generation` whose events come from a worker."""

    def __init__(
        self, request_id: int, request: GenerationRequest, cancel: CancelRequest, index: int, inbox: Inbox
    ) -> None:
        super().__init__(request_id, request, cancel)
        self._index = index
        self._inbox = inbox
        self._pieces: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._cached_tokens = 0
        self._error: Failure | None = None

    @property
    def inbox(self) -> Inbox:
        """See `Generation`."""
        return self._inbox

    @property
    def num_generated(self) -> int:
        """See `Pending`."""
        return len(self._tokens)

    def take(self, event: Event) -> None:
        """See `Pending`."""
        if isinstance(event, tuple):
            _, token, text = event
            self._tokens.append(token)
            self._pieces.append(text)
            self._inbox.put(TokenEvent(token, text, index=self._index))
        elif isinstance(event, Generated):
            self._cached_tokens = event.cached
            self._take(event.event)
        else:
            raise TypeError("the end of an embedding, of a generation")

    def _take(self, event: TokenEvent) -> None:
        if event.token is not None:
            self._tokens.append(event.token)
        self._pieces.append(event.text)
        if event.logprobs is not None:
            self._logprobs.append(event.logprobs)
        self._error, self.finish_reason = event.error, event.finish_reason
        self._inbox.put(event)

    def fail(self, problem: str) -> None:
        """See `Pending`."""
        self._take(TokenEvent(None, "", True, FINISH_FAILED, Failure(problem), index=self._index))

    def events(self, timeout: float | None = None) -> Iterator[TokenEvent | None]:
        """See `Generation`."""
        return events_of([self], timeout)

    def state(self) -> GenerationState:
        """See `Generation`."""
        reason = self.finish_reason
        return GenerationState(
            self._request_id,
            "".join(self._pieces),
            tuple(self._tokens),
            self.prompt_tokens,
            reason is not None,
            reason,
            self._error,
            tuple(self._logprobs),
            self._cached_tokens,
        )


class RemoteEmbedding(Pending):
    """A `PendingEmbedding` that a worker computes."""

    def __init__(self, request_id: int, request: EmbeddingRequest, cancel: CancelRequest) -> None:
        super().__init__(request_id, request, cancel)
        self._problem: str | None = None
        self._embedding: Float32 | None = None
        self._done = threading.Event()

    def take(self, event: Event) -> None:
        """See `Pending`."""
        if not isinstance(event, Embedded):
            raise TypeError("an event of a generation, of an embedding")
        if event.vector is not None:
            self._embedding = np.frombuffer(event.vector, np.float32)  # read-only
        self._problem, self.finish_reason = event.problem, event.reason
        self._done.set()

    def fail(self, problem: str) -> None:
        """See `Pending`."""
        self.take(Embedded(self._request_id, None, FINISH_FAILED, problem))

    def result(self, timeout: float | None = None) -> Float32 | None:
        """See `PendingEmbedding`."""
        if not self._done.wait(timeout):
            return None
        if self._embedding is None:
            raise EmbeddingError(self.finish_reason or FINISH_FAILED, self._problem)
        return self._embedding
