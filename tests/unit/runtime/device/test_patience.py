"""A clock for what hangs, which stands while the process is stopped."""

from __future__ import annotations

import time

import pytest

from rocmforge.runtime.device.patience import Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the time is, to be changed."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_it_is_over_when_the_time_has_gone_by_under_its_eyes(clock: list[float]) -> None:
    patience = Patience(10)
    for _ in range(9):
        clock[0] += 1
        assert not patience.look()
    clock[0] += 1
    assert patience.look()
    patience.begin()
    assert not patience.look()


def test_F75_time_while_the_process_is_stopped_is_none_of_it(clock: list[float]) -> None:
    patience = Patience(120)
    for _ in range(3):
        clock[0] += 86_400
        assert not patience.look()  # five seconds of each
    for _ in range(104):
        clock[0] += 1
        assert not patience.look()
    clock[0] += 1
    assert patience.look()


def test_F75_even_a_short_patience_bears_a_stop(clock: list[float]) -> None:
    patience = Patience(1)
    clock[0] += 600
    assert not patience.look()
