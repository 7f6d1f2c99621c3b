"""What the benchmarks of servers reckon with."""

from __future__ import annotations

import os
import time

import pytest

from rocmforge.tools.bench import quiet
from rocmforge.tools.bench.overhead import Run
from rocmforge.tools.bench.server import Round, percentile, report


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(1, 0.95, 0), (20, 0.95, 18), (32, 0.95, 30), (100, 0.95, 94), (100, 1.0, 99)]
)
def test_percentile_is_the_smallest_that_the_share_does_not_exceed(count: int, share: float, expected: int) -> None:
    assert percentile(tuple(float(index) for index in reversed(range(count))), share) == expected


def test_the_report_takes_ratios_within_a_round(capsys: pytest.CaptureFixture[str]) -> None:
    # Ratios 2, 3, 4 and 0.5, 0.25, 0.1, though the machine was ten times as fast in the last round.
    found = [
        [Round(20, (1.0,)), Round(10, (2.0,))],
        [Round(30, (1.0,)), Round(10, (4.0,))],
        [Round(400, (0.1,)), Round(100, (1.0,))],
    ]
    report(found)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "median ratio: tokens/s 3.00 (2.00 to 4.00), p95 to the first token 0.25 (0.10 to 0.50)"


def test_seconds_of_a_further_token_leave_out_the_first() -> None:
    run = Run((0.5,), 1.5, 11)
    assert run.per_token == pytest.approx(0.1)
    assert run.rate == pytest.approx(11 / 1.5)


def test_the_share_of_others_leaves_out_ones_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([quiet.Reading(10.0, 100.0, 7.0), quiet.Reading(12.0, 103.0, 8.0)])
    monkeypatch.setattr(quiet, "read", lambda pids: next(readings))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with quiet.Others([1]) as others:
        pass
    # 3 seconds of processor in 2 seconds of 2 processors, 1 of them ours.
    assert others.share == pytest.approx((3 - 1) / (2 * 2))


def test_a_reading_has_ones_own_seconds() -> None:
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    reading = quiet.read([os.getpid()])
    # User and system time are each cut to a tick (10 ms); threads that still run are counted a tick late.
    assert reading.own == pytest.approx(time.process_time(), abs=0.05)
    assert reading.busy >= reading.own
