"""What a server has asked its worker and is to be answered, and what the worker says of requests."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Sequence
from dataclasses import field
from typing import cast

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import EngineBusyError, RocmforgeError
from ..failure import error_of
from ..generation import EngineStats
from ..lifecycle import EngineMetrics, Observer, RequestEvent
from .ledger import Ledger
from .pending import Pending
from .wire import STARTING, Answer, Embedded, Event, Generated, Logged, StepDone


@dataclass(slots=True)
class Call:
    """A message that is to be answered, and the requests that it submits."""

    requests: Sequence[Pending] = ()
    answered: threading.Event = field(default_factory=threading.Event)
    stats: EngineStats | None = None
    error: RocmforgeError | None = None

    def answer(self, stats: EngineStats | None, error: RocmforgeError | None) -> None:
        """Wake whoever waits for it."""
        self.stats, self.error = stats, error
        self.answered.set()


class Calls:
    """Calls that are open, and the requests that they submitted. `take` and `fail` are those of the thread that reads.

    Attributes:
        ledger: of the requests.
        last_stats: that a worker gave.
    """

    def __init__(self, metrics: EngineMetrics, observer: Observer | None) -> None:
        """Args: what counts; who is told the turns of each request."""
        self.ledger = Ledger(metrics, observer)
        self.last_stats: EngineStats | None = None
        self._metrics = metrics
        self._lock = threading.Lock()  # of those that are open
        self._open: dict[int, Call] = {}
        self._numbers = itertools.count(1)

    def begin(self, call: Call) -> int:
        """A call is about to be sent, under the number that this returns."""
        with self._lock:
            number = next(self._numbers)
            self._open[number] = call
        self.ledger.expect(call.requests)
        return number

    def drop(self, number: int, call: Call) -> None:
        """It was not sent, and nobody will answer it."""
        with self._lock:
            self._open.pop(number, None)
        self.ledger.forget(call.requests)

    def take(self, frame: tuple[object, ...]) -> list[object]:
        """All that a frame says of calls and requests; returns what it says of the worker itself.

        First what is counted, so that whoever sees a request end finds it counted.
        """
        events: list[Event] = []
        others: list[object] = []
        for message in frame:
            if type(message) is tuple:  # most are: plain tokens
                events.append(cast(Event, message))
            elif isinstance(message, RequestEvent):
                self.ledger.turn(message)
            elif isinstance(message, StepDone):
                getattr(self._metrics, message.name)(*message.arguments)
            elif isinstance(message, Answer) and message.call != STARTING:
                self._answer(message)
            elif isinstance(message, Logged):
                logger = logging.getLogger(message.logger)
                if logger.isEnabledFor(message.level):
                    logger.log(message.level, "%s", message.message)
            elif isinstance(message, (Generated, Embedded)):
                events.append(message)
            else:
                others.append(message)
        for event in events:
            self.ledger.take(event)
        return others

    def _answer(self, answer: Answer) -> None:
        error = None if answer.fault is None else error_of(answer.fault)
        with self._lock:
            call = self._open.pop(answer.call)
        if error is not None:
            self.ledger.forget(call.requests)
        if answer.stats is not None:
            self.last_stats = answer.stats
        call.answer(answer.stats, error)

    def fail(self, problem: str) -> None:
        """There is no worker any more: what it had not ended has failed, each request once."""
        with self._lock:
            calls, self._open = self._open, {}
        for call in calls.values():
            taken = call.requests and self.ledger.took(call.requests)  # then their ends say the rest
            call.answer(None, None if taken else EngineBusyError(f"the model is not available: {problem}"))
        self.ledger.fail(problem)
