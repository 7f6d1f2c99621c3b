"""Tokens a second: those of the steps of the last seconds, by the time between them."""

from __future__ import annotations

import pytest

from rocmforge.runtime.engine import rate
from rocmforge.runtime.engine.rate import WINDOW_SECONDS, Rate


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rate, "time", clock)
    return clock


def test_tokens_by_the_time_in_which_they_came(clock: Clock) -> None:
    measured = Rate()
    assert measured.value() == 0
    for seconds, tokens in ((0.0, 100), (0.5, 4), (0.5, 6), (1.0, 10)):
        clock.now += seconds
        measured.add(tokens)
    assert measured.value() == (4 + 6 + 10) / 2.0  # when the first step began is not known
    clock.now += 1.0
    assert measured.value() == 10.0


def test_what_is_long_ago_does_not_count(clock: Clock) -> None:
    measured = Rate()
    for _ in range(3):
        measured.add(7)
        clock.now += 1.0
    assert measured.value() == 7.0
    clock.now += WINDOW_SECONDS - 2.0
    assert measured.value() == 7.0  # of two steps
    clock.now += 1.0
    assert measured.value() == 0  # one alone tells no rate


def test_steps_at_one_moment(clock: Clock) -> None:
    measured = Rate()
    measured.add(1)
    measured.add(3)
    assert measured.value() == pytest.approx(3e6)
