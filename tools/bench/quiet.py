"""How much of the machine others use while something is measured."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
PROBE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """Processor time up to `at`, all in seconds: of the whole machine, and of the processes that belong together."""

    at: float
    busy: float  # what the host took from this machine (steal) included
    own: float


def _process_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def read(pids: Sequence[int]) -> Reading:
    """Processor time of the machine, and of `pids` together."""
    line = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line)
    busy = (user + nice + system + irq + softirq + steal) / _TICKS
    return Reading(time.perf_counter(), busy, sum(_process_seconds(pid) for pid in pids))


def _ended_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Others:
    """Measures `share`: of the machine's processors, what others than `pids` used meanwhile. A context manager."""

    def __init__(self, pids: Sequence[int], *, children: bool = False) -> None:
        """Args:
        pids: processes that belong to the measurement, this one not included of itself.
        children: those of this process that end meanwhile belong to it too.
        """
        self._pids = pids
        self._children = children
        self.share = 0.0

    def __enter__(self) -> Others:
        self._began, self._ended = read(self._pids), _ended_seconds()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended, began = read(self._pids), self._began
        others = (ended.busy - began.busy) - (ended.own - began.own)
        if self._children:
            others -= _ended_seconds() - self._ended
        self.share = max(0.0, others / (ended.at - began.at) / (os.cpu_count() or 1))


def wait_until_quiet(share: float, patience: float) -> bool:
    """Whether others used at most `share` of the machine for a moment, within `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with Others([os.getpid()]) as others:
            time.sleep(PROBE_SECONDS)
        if others.share <= share:
            return True
    return False
