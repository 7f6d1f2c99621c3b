"""The clock of an answer: which span each duration is of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rocmforge.runtime.engine.generation import TokenEvent
from rocmforge.runtime.http.core import answer_clock
from rocmforge.runtime.http.core.answer_clock import AnswerClock, Durations


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time in nanoseconds, to be set."""
    clock = [10**12]
    monkeypatch.setattr(answer_clock, "time", SimpleNamespace(monotonic_ns=lambda: clock[0]))
    return clock


def event(token: int | None) -> TokenEvent:
    return TokenEvent(token, "x", token is None)


def test_each_duration_is_of_its_own_span(now: list[int]) -> None:
    clock = AnswerClock(began=10**12)
    now[0] += 300
    clock.loaded()
    now[0] += 5000
    clock.take(event(3))
    now[0] += 70_000
    for token in (4, 5, None):
        clock.take(event(token))
    assert clock.tokens == 3
    assert clock.durations() == Durations(total=75_300, load=300, prompt=5000, generation=70_000)


def test_none_is_zero(now: list[int]) -> None:
    assert AnswerClock(began=10**12).durations() == Durations(1, 1, 1, 1)


def test_without_a_token_all_of_it_is_the_prompt(now: list[int]) -> None:
    clock = AnswerClock(began=10**12)
    now[0] += 900
    assert clock.durations() == Durations(900, 1, 900, 1)
