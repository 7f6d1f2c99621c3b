"""The clock of a request: which span each figure is of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rocmforge.runtime.engine import lifecycle, sequence
from rocmforge.runtime.engine.lifecycle import (
    ADMITTED,
    FINISHED,
    FIRST_TOKEN,
    PREEMPTED,
    QUEUED,
    Lifecycle,
    RequestEvent,
)
from rocmforge.tests.support.engine_harness import CountingMetrics, make_sequence


class Spans(CountingMetrics):
    """What was observed, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: dict[str, float] = {}

    def _observe(self, name: str, seconds: float) -> None:
        assert name not in self.spans
        self.spans[name] = seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    clock = [1000.0]
    for module in (lifecycle, sequence):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def test_each_span_is_of_its_own_two_turns(now: list[float]) -> None:
    metrics, events = Spans(), list[RequestEvent]()
    life, one = Lifecycle(metrics, events.append), make_sequence()
    turns = [(0.0, QUEUED), (2.0, ADMITTED), (3.0, PREEMPTED), (7.0, ADMITTED), (18.0, FIRST_TOKEN), (50.0, FINISHED)]
    for at, kind in turns:
        now[0] = 1000.0 + at
        life.tell(kind, one, 5, "length" if kind == FINISHED else None)
    # Prefill counts from the first admission: what was computed before it was preempted is computed again.
    assert metrics.spans == {"ttft": 18.0, "prefill": 16.0, "decode": 32.0, "total": 50.0}
    assert (metrics.started, metrics.preemptions, dict(metrics.finished)) == (1, 1, {"length": 1})
    assert [(event.at - 1000, event.kind) for event in events] == turns
    assert {(event.request_id, event.tokens) for event in events} == {(1, 5)}
    assert [event.reason for event in events] == [None] * 5 + ["length"]


def test_a_request_without_a_token_has_no_decode_time(now: list[float]) -> None:
    metrics = Spans()
    life, one = Lifecycle(metrics), make_sequence()
    life.tell(QUEUED, one)
    now[0] += 4
    life.tell(FINISHED, one, 0, None)
    assert metrics.spans == {"total": 4.0}
    assert dict(metrics.finished) == {"failed": 1}
