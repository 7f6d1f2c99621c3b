"""How long the parts of an answer took, for APIs that tell their clients."""

from __future__ import annotations

import time
from dataclasses import field

from ....artifacts.dataclass import dataclass
from ...engine.generation import TokenEvent


@dataclass(slots=True)
class AnswerClock:
    """Nanoseconds of the monotonic clock; made when the request came.

    Attributes:
        began: when the request came.
        ready: when its model was loaded; None: it is not yet.
        first: when its first token came; None: it has not.
        tokens: that have come.
    """

    began: int = field(default_factory=time.monotonic_ns)
    ready: int | None = None
    first: int | None = None
    tokens: int = 0

    def loaded(self) -> None:
        """The model is there."""
        self.ready = time.monotonic_ns()

    def take(self, event: TokenEvent) -> None:
        """An event has come."""
        if self.first is None:
            self.first = time.monotonic_ns()
        self.tokens += event.token is not None

    def durations(self) -> Durations:
        """Up to now. All are at least 1, as clients divide by them."""
        now = time.monotonic_ns()
        ready = self.began if self.ready is None else self.ready
        first = now if self.first is None else self.first
        return Durations(
            max(now - self.began, 1), max(ready - self.began, 1), max(first - ready, 1), max(now - first, 1)
        )


@dataclass(frozen=True, slots=True)
class Durations:
    """Nanoseconds: of all, of loading the model, of waiting and reading the prompt, of the tokens after the first."""

    total: int
    load: int
    prompt: int
    generation: int
