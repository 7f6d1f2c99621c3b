"""Who may generate now: fewer requests than threads, none once the server stops, and no prompt that is too long."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Self

from ....artifacts.errors import EngineBusyError
from ...engine.generation import GenerationRequest
from .errors import ContextLengthError


class Slot:
    """The right to occupy a thread with one generation; released once, however often asked."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._held = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give it back. Called by the one thread that serves the request."""
        if self._held:
            self._held = False
            self._admission.leave()


class Admission:
    """Counts the generations in progress, and refuses those beyond its capacity."""

    def __init__(self, capacity: int, max_prompt_tokens: int | None = None) -> None:
        """Admit up to `capacity` generations at once, of prompts of up to `max_prompt_tokens`."""
        self._capacity = capacity
        self._max_prompt_tokens = max_prompt_tokens
        self._lock = threading.Lock()
        self._active = 0
        self._closed = False
        self._aborted = False

    def enter(self) -> Slot:
        """Take a slot.

        Raises:
            EngineBusyError: all are taken, or the server is stopping.
        """
        with self._lock:
            if self._closed:
                raise EngineBusyError("the server is stopping")
            if self._active >= self._capacity:
                raise EngineBusyError(f"{self._active} requests are being served, the most at a time")
            self._active += 1
        return Slot(self)

    def check(self, requests: Iterable[GenerationRequest]) -> None:
        """Check the length of prompts.

        Raises:
            ContextLengthError: one is too long.
        """
        limit = self._max_prompt_tokens
        longest = max((len(request.prompt_token_ids) for request in requests), default=0)
        if limit is not None and longest > limit:
            text = f"expected at most {limit} tokens (the server's limit), found {longest}"
            raise ContextLengthError("prompt", text, longest, limit)

    def leave(self) -> None:
        """Count one generation less."""
        with self._lock:
            self._active -= 1

    def close(self) -> None:
        """Admit none any more; those in progress go on."""
        self._closed = True

    def abort(self) -> None:
        """Have those in progress cancelled, each by the thread that serves it."""
        self._closed = True
        self._aborted = True

    @property
    def active(self) -> int:
        """Generations in progress."""
        return self._active

    @property
    def closed(self) -> bool:
        """Whether the server is stopping."""
        return self._closed

    @property
    def aborted(self) -> bool:
        """Whether generations in progress must end now."""
        return self._aborted
