"""What stands between a caller and the engine: events on their way, failures in words, counts of several engines."""

from __future__ import annotations

import queue
from dataclasses import replace

import pytest

from rocmforge.runtime.engine.generation import DeviceStats, EngineStats, Inbox, TokenEvent, add_stats

ONE, TWO, THREE = (TokenEvent(number, letter) for number, letter in enumerate("abc"))


def test_events_wait_or_are_handed_on() -> None:
    inbox, taken = Inbox(), list[TokenEvent]()
    assert inbox.hurried
    assert not Inbox(hurried=False).hurried
    inbox.put(ONE)
    inbox.put(TWO)
    assert inbox.get(timeout=0) == ONE
    inbox.hand_on(taken.append)
    assert taken == [TWO]
    inbox.put(THREE)
    assert taken == [TWO, THREE]
    inbox.close()
    inbox.put(ONE)
    assert taken == [TWO, THREE]
    with pytest.raises(queue.Empty):
        inbox.get(timeout=0)


DEVICES = [DeviceStats(name, 0, True, None, 0, 0, 0, 0, 0.0, 0, 0) for name in "ab"]
A = EngineStats(True, 1, 2, 3, 4, 5, 0.5, True, 10, 100, 6, 7, 8, 9, 10, None, "HIP 6.4", "on", 11, (DEVICES[0],))
B = EngineStats(
    *(True, 100, 200, 300, 400, 500, 50.0, True, 20, 90, 600, 700, 800, 900, 1000),
    None,
    "HIP 7.2",
    "on",
    1100,
    (DEVICES[1],),
)
SUM = EngineStats(
    *(True, 101, 202, 303, 404, 505, 50.5, True, 10, 100, 606, 707, 808, 909, 1010),
    None,
    "HIP 6.4",
    "on",
    1111,
    tuple(DEVICES),
)


def test_counts_of_several_engines() -> None:
    """Memory and runtime are those of the device that has most of it; what is wrong with one is said of all."""
    assert add_stats([A]) is A
    assert add_stats([A, B]) == SUM
    assert add_stats([B, A]) == replace(SUM, devices=tuple(DEVICES[::-1]))
    larger = replace(B, memory_total_bytes=101)
    expected = replace(SUM, memory_free_bytes=20, memory_total_bytes=101, runtime="HIP 7.2")
    assert add_stats([A, larger]) == expected
    wrong = replace(B, running=False, device_available=False, problem="lost", graphs="off: stale")
    assert add_stats([A, wrong]) == replace(
        SUM, running=False, device_available=False, problem="lost", graphs="off: stale"
    )
    assert add_stats([replace(A, problem="first"), wrong]).problem == "first"
    assert add_stats([replace(A, graphs=""), replace(B, graphs="on")]).graphs == ""
