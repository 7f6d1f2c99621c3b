"""The requests of an engine that has a process of its own: each is taken once, told of, counted, and ended once."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence

from ..lifecycle import FINISHED, QUEUED, EngineMetrics, Observer, RequestEvent, count
from ..request_table import KEPT_FINISHED
from .pending import Pending, RemoteGeneration
from .wire import Event

log = logging.getLogger(__name__)


class Ledger:
    """What is known of them. Any thread may ask; `turn`, `take` and `fail` are those of the thread that reads."""

    def __init__(self, metrics: EngineMetrics, observer: Observer | None) -> None:
        """Args: what counts; who is told the turns of each request."""
        self._metrics = metrics
        self._observer = observer
        self._lock = threading.Lock()
        self._expected: dict[int, tuple[Pending, contextvars.Context]] = {}  # submitted, and not yet taken
        self._live: dict[int, Pending] = {}  # taken, and not yet both ended and counted
        self._known: OrderedDict[int, RemoteGeneration] = OrderedDict()

    @property
    def load(self) -> int:
        """Requests that have not ended."""
        return len(self._live) + len(self._expected)

    def find(self, request_id: int) -> RemoteGeneration | None:
        """A live or recently finished generation."""
        with self._lock:
            return self._known.get(request_id)

    def expect(self, requests: Sequence[Pending]) -> None:
        """These are about to be submitted by this thread: whoever observes them may look into its context."""
        context = contextvars.copy_context()
        with self._lock:
            self._expected.update((one.request_id, (one, context)) for one in requests)

    def forget(self, requests: Sequence[Pending]) -> None:
        """These were not taken, and will not be."""
        with self._lock:
            for one in requests:
                self._expected.pop(one.request_id, None)

    def took(self, requests: Sequence[Pending]) -> bool:
        """Whether the worker has taken all of these."""
        with self._lock:
            return not any(one.request_id in self._expected for one in requests)

    def turn(self, event: RequestEvent) -> None:
        """A turn in the life of a request; with the first, the worker has taken it."""
        context = None
        if event.kind == QUEUED:
            with self._lock:
                one, context = self._expected.pop(event.request_id)
                self._live[one.request_id] = one
                if isinstance(one, RemoteGeneration):
                    self._remember(one)
        else:
            one = self._live[event.request_id]
        count(self._metrics, one, event)
        if context is None:
            self._tell(event)
        else:
            context.run(self._tell, event)
        if event.kind == FINISHED:
            one.counted = True
            self._drop_if_ended(one)

    def _tell(self, event: RequestEvent) -> None:
        try:
            if self._observer is not None:
                self._observer(event)
        except Exception:  # whoever listens must not stop the engine
            log.exception("an observer of requests failed")

    def _remember(self, generation: RemoteGeneration) -> None:
        self._known[generation.request_id] = generation
        if len(self._known) > KEPT_FINISHED:
            oldest = next((one for one in self._known.values() if one.finish_reason is not None), None)
            if oldest is not None:
                del self._known[oldest.request_id]

    def take(self, event: Event) -> None:
        """An event of a request."""
        if isinstance(event, tuple):  # never the last
            self._live[event[0]].take(event)
        else:
            one = self._live[event.request_id]
            one.take(event)
            self._drop_if_ended(one)

    def fail(self, problem: str) -> None:
        """Nobody computes them any more: what has not ended fails, and what is not counted yet is."""
        with self._lock:
            self._expected.clear()
        for one in list(self._live.values()):
            if one.finish_reason is None:
                one.fail(problem)
            if one.counted:
                self._drop_if_ended(one)
            else:
                at, reason = time.monotonic(), one.finish_reason
                self.turn(RequestEvent(FINISHED, one.request_id, at, one.num_generated, reason))

    def _drop_if_ended(self, one: Pending) -> None:
        if one.counted and one.finish_reason is not None:
            del self._live[one.request_id]
