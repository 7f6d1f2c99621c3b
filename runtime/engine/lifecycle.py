"""The life of each request, told from one place: to its own clock, to the metrics, and to whoever listens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from ...artifacts.dataclass import dataclass
from .drafts import LOOKUP
from .generation import FINISH_FAILED
from .sequence import ActiveSequence

log = logging.getLogger(__name__)

QUEUED: Final = "queued"
ADMITTED: Final = "admitted"  # it has KV blocks, and its prompt is computed in the next steps; again after `PREEMPTED`
PREFIX_HIT: Final = "prefix_hit"  # `tokens` of it lay in the cache
PREFILLED: Final = "prefilled"  # all `tokens` that it had when admitted are computed
FIRST_TOKEN: Final = "first_token"
PREEMPTED: Final = "preempted"  # its blocks went to others, its `tokens` stay; it stands at the head of the queue
FINISHED: Final = "finished"  # for `reason`, with `tokens` generated


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """A turn in a request's life. `at`: seconds of `time.monotonic`."""

    kind: str
    request_id: int
    at: float
    tokens: int = 0
    reason: str | None = None


Observer = Callable[[RequestEvent], None]


class EngineMetrics(Protocol):
    """What the engine counts."""

    def request_started(self) -> None:
        """A request was queued."""

    def request_finished(self, reason: str) -> None:
        """A request ended: length, stop, eos, cancelled or failed."""

    def tokens_generated(self, count: int) -> None:
        """So many tokens were generated."""

    def observe_prefill(self, seconds: float) -> None:
        """From admission to the first token."""

    def observe_decode(self, seconds: float) -> None:
        """From the first token to the last."""

    def observe_total(self, seconds: float) -> None:
        """From submission to the end."""

    def observe_ttft(self, seconds: float) -> None:
        """From submission to the first token."""

    def observe_step(self, seconds: float, sequences: int, tokens: int) -> None:
        """A step of the device computed so many tokens of so many sequences."""

    def prefix_hit(self, tokens: int) -> None:
        """So many tokens lay in the cache already, and were not computed."""

    def preempted(self) -> None:
        """A request gave its KV blocks to others."""

    def drafts_judged(self, drafts: int, accepted: int, source: str = LOOKUP) -> None:
        """So many of a request's drafts, of one of `drafts.SOURCES`, were accepted."""


class NoMetrics:
    """Counts nothing: whoever uses a model in a program of his own reads no counts. As `EngineMetrics` by `cast`."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _count_nothing


def _count_nothing(*_: object) -> None:
    pass


class Clock(Protocol):
    """When a request was submitted, first admitted, and had its first token: seconds of `time.monotonic`."""

    submitted_at: float
    admitted_at: float | None
    first_token_at: float | None


def count(metrics: EngineMetrics, clock: Clock, event: RequestEvent) -> None:
    """Count a turn of the request that has this clock, and note the time in it."""
    if event.kind == QUEUED:
        metrics.request_started()
    elif event.kind == ADMITTED and clock.admitted_at is None:
        clock.admitted_at = event.at
    elif event.kind == PREFIX_HIT:
        metrics.prefix_hit(event.tokens)
    elif event.kind == PREEMPTED:
        metrics.preempted()
    elif event.kind == FIRST_TOKEN:
        clock.first_token_at = event.at
        metrics.observe_ttft(event.at - clock.submitted_at)
        metrics.observe_prefill(event.at - (clock.admitted_at or event.at))
    elif event.kind == FINISHED:
        if clock.first_token_at is not None:
            metrics.observe_decode(event.at - clock.first_token_at)
        metrics.observe_total(event.at - clock.submitted_at)
        metrics.request_finished(event.reason or FINISH_FAILED)


class Lifecycle:
    """Tells metrics and an observer. Called under the engine's lock: what listens must be quick, and not call back."""

    def __init__(self, metrics: EngineMetrics, observer: Observer | None = None) -> None:
        """Args: what counts; who is told each event."""
        self._metrics = metrics
        self._observer = observer

    def tell(self, kind: str, sequence: ActiveSequence, tokens: int = 0, reason: str | None = None) -> None:
        """A request has come to one of the turns above."""
        event = RequestEvent(kind, sequence.request_id, time.monotonic(), tokens, reason)
        count(self._metrics, sequence, event)
        if self._observer is not None:
            try:
                self._observer(event)
            except Exception:  # whoever listens must not stop the engine
                log.exception("an observer of requests failed")
