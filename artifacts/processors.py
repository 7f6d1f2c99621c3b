"""The CPUs that this process may use: which are threads of one core, and how much of them it gets."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Set
from pathlib import Path
from typing import Final

from .control_groups import control_groups, system_text
from .dataclass import dataclass

_ROOT: Final = Path("/")
_MOST_CPUS: Final = 1 << 16
_RANGE: Final = re.compile(r"([0-9]{1,7})(?:-([0-9]{1,7}))?", re.ASCII)
_NAMES: Final = ("model name", "CPU implementer", "CPU part")  # of /proc/cpuinfo; ARM's have no other
_SIBLINGS: Final = ("core_cpus_list", "thread_siblings_list")  # the second: what Linux before 5.3 calls it


@dataclass(frozen=True, slots=True)
class Processors:
    """CPUs of a process.

    Attributes:
        cores: for each core, those of its CPUs that the process may use.
        quota: CPUs' worth of time that control groups let it have; None: all.
    """

    cores: tuple[tuple[int, ...], ...]
    quota: float | None = None

    @property
    def whole(self) -> int:
        """Return how many threads can compute at once with a core each."""
        return self._within_quota(len(self.cores))

    @property
    def most(self) -> int:
        """Return how many threads can compute at once, hyperthreads counted."""
        return self._within_quota(sum(map(len, self.cores)))

    def _within_quota(self, count: int) -> int:
        """A thread more than the quota would have all of them stopped for a part of each period; what is left of it is
        for threads that do not compute."""
        return count if self.quota is None else max(1, min(count, int(self.quota)))


def read_processors(allowed: Collection[int] | None = None, root: Path = _ROOT) -> Processors:
    """Return the CPUs of this process; where the system does not say what belongs together, each is a core of its own.

    Args:
        allowed: numbers of its CPUs; None: as the system says.
        root: of the system's files.
    """
    cores, placed = [], set[int]()
    allowed = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    for cpu in sorted(allowed):
        if cpu not in placed:
            core = (_siblings(root, cpu) & allowed | {cpu}) - placed
            placed |= core
            cores.append(tuple(sorted(core)))
    return Processors(tuple(cores), _quota(root))


def usable_cpus() -> int:
    """Return how many threads or processes of this process can compute at once."""
    return read_processors().most


def cpu_model(root: Path = _ROOT) -> str:
    """Return what the system calls the first CPU; empty where it has no name for it."""
    first = (system_text(root / "proc/cpuinfo") or "").partition("\n\n")[0]
    return " ".join(line.partition(":")[2].strip() for line in first.splitlines() if line.startswith(_NAMES))


def _siblings(root: Path, cpu: int) -> Set[int]:
    folder = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    text = next(filter(None, (system_text(folder / name) for name in _SIBLINGS)), "")
    return set().union(*map(_range, text.strip().split(",")))


def _range(text: str) -> Set[int]:
    """Numbers of `3` or `0-3`; none of what is neither."""
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        return set()
    first = int(found[1])
    last = int(found[2] or first)
    return set(range(first, last + 1)) if last - first < _MOST_CPUS else set()


def _quota(root: Path) -> float | None:
    """CPUs' worth of time of the tightest of the control groups that this process is in."""
    found = [quota for group in control_groups(root, "cpu") if (quota := _group_quota(group)) is not None]
    return min(found, default=None)


def _group_quota(folder: Path) -> float | None:
    """Quota by period: of `cpu.max`, or of the two files of control groups of version 1."""
    text = system_text(folder / "cpu.max")
    if text is None:
        text = " ".join(system_text(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    words = text.split()
    if len(words) != 2 or not all(word.isascii() and word.isdigit() for word in words) or not int(words[1]):
        return None  # `max`, -1, or no such file
    return int(words[0]) / int(words[1])
