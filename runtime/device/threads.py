"""How many threads share the work of the CPU: one for each core, and for each hyperthread only where that is faster.

Which is faster is tried with the first model that is loaded where a core has several CPUs, and remembered by machine.
Where threads run is left to the system: programs beside each other that bind theirs would choose the same CPUs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import secrets
import time
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

from ...artifacts.cache_dir import default_cache_dir
from ...artifacts.dataclass import dataclass
from ...artifacts.errors import DeviceError, UsageError
from ...artifacts.layout import Layout
from ...artifacts.processors import Processors, cpu_model
from .batch import Batch, Int32
from .solo import Solo

log = logging.getLogger(__name__)

_VERSION: Final = 2  # of what a trial is; a new one forgets what was found by the old
_MOST_BYTES: Final = 1024
_ROUNDS: Final = 2
_WORTH: Final = 0.95
"""Share of the time that hyperthreads must not exceed: they wait for more at each barrier, and leave nothing idle."""
PROMPT_TOKENS: Final = 16
MOST_SECONDS: Final = 0.03
MOST_TIMES: Final = 3
"""Where that takes longer: so many times what all rounds would take by themselves."""
TOKEN_SECONDS, PROMPT_SECONDS = 0.001, 0.0005  # at least; a single token reads 50 MB and more in that


class Timed(Protocol):
    """A program whose threads can be changed, and of which the first launches can be run alone."""

    layout: Layout
    num_blocks: int
    threads: int

    def set_threads(self, count: int) -> None:
        """See `HostProgram`."""

    def step(self, batch: Batch, seconds: list[float] | None = None, end: int | None = None) -> Int32:
        """See `HostProgram`."""


@dataclass(frozen=True, slots=True)
class ThreadChoice:
    """How many threads, and why.

    Attributes:
        count: of threads.
        why: in words.
        more: that may be faster, which is not known yet; 0: none.
    """

    count: int
    why: str
    more: int = 0

    def __str__(self) -> str:
        return f"{self.count} {'thread' if self.count == 1 else 'threads'}: {self.why}"


class SpeedMemory:
    """What was faster on machines like this one, a file each. What cannot be read or written is done without."""

    def __init__(self, processors: Processors, level: str, folder: Path | None = None) -> None:
        """Args: of the process; ISA level of the code; where files lie, None: below the caches of this user, if any."""
        self._processors, self._level, self._folder = processors, level, folder
        self._known = (processors.whole, processors.most)

    @cached_property
    def _path(self) -> Path | None:
        """The file of this machine; None: there is no folder for it. Looked for where something is to be tried."""
        try:
            folder = default_cache_dir() / "threads" if self._folder is None else self._folder
        except UsageError as error:
            log.debug("host: which threads are faster is not kept: %s", error)
            return None
        machine = (_VERSION, cpu_model(), self._processors.cores, self._processors.most, self._level)
        return folder / f"{hashlib.sha256(json.dumps(machine).encode()).hexdigest()}.json"

    def read(self) -> int | None:
        """Return the number of threads that was faster; None where it is not known."""
        if self._path is None:
            return None
        try:
            with self._path.open("rb") as file:
                found = json.loads(file.read(_MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return None
        count = found.get("threads") if isinstance(found, dict) else None
        return count if type(count) is int and count in self._known else None

    def write(self, count: int) -> None:
        """Keep it; one rename, so that whoever reads or writes meanwhile sees a whole file."""
        if self._path is None:
            return
        partial = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps({"threads": count}), "ascii")
            os.replace(partial, self._path)
        except OSError as error:
            log.debug("host: which threads are faster is not kept: %s", error)
            with contextlib.suppress(OSError):
                partial.unlink()


def choose_threads(processors: Processors, memory: SpeedMemory) -> ThreadChoice:
    """Return how many threads to begin with, and whether more are to be tried."""
    cores, cpus = len(processors.cores), sum(map(len, processors.cores))
    whole, most = processors.whole, processors.most
    if most == whole:
        if most < cpus:
            return ThreadChoice(most, f"control groups allow the time of {processors.quota:g} of {cpus} CPUs")
        return ThreadChoice(whole, f"one for each of {cores} cores" if cores > 1 else "one core")
    known = memory.read()
    if known is None:
        return ThreadChoice(whole, f"one for each of {cores} cores", most)
    return ThreadChoice(known, _reason(known, processors) + " on this machine")


def _reason(count: int, processors: Processors) -> str:
    cpus = sum(map(len, processors.cores))
    if count == processors.whole:
        return f"one for each of {len(processors.cores)} cores; on all {cpus} CPUs they were not faster"
    return f"also on hyperthreads of {len(processors.cores)} cores, where they were faster"


def try_more(program: Timed, choice: ThreadChoice, processors: Processors, memory: SpeedMemory) -> ThreadChoice:
    """Try the program with more threads, and leave it with as many as are faster, which is remembered.

    It has to have computed something: the first to touch a page waits for it. What it holds of the KV cache's first
    blocks, of state and of the last step is lost.
    """
    try:
        trial = _try(program, choice)
        count = choice.more if trial.share < _WORTH else choice.count
        program.set_threads(count)
    except DeviceError as error:  # more threads are not to be had: those that are there go on
        return ThreadChoice(program.threads, f"more are not to be had: {error}")
    if trial.problem:
        return ThreadChoice(count, f"{choice.why}; {trial.problem}")
    memory.write(count)
    return ThreadChoice(count, f"{_reason(count, processors)} ({trial.share:.2f} of the time)")


@dataclass(frozen=True, slots=True)
class _Trial:
    """What came of trying more threads.

    Attributes:
        share: time with more threads by time without; infinite where it is not known.
        problem: why it is not.
    """

    share: float = math.inf
    problem: str = ""


def _try(program: Timed, choice: ThreadChoice) -> _Trial:
    """Try more threads on single tokens and on prompts: the geometric mean of both. It is not known where barriers are
    most of what a small model takes, or all takes so long that others must be using the CPUs.
    """
    began = time.perf_counter()
    most = min(PROMPT_TOKENS, program.layout.max_batch_tokens, program.num_blocks * program.layout.kv.block_size)
    tokens = [index % program.layout.vocab_size for index in range(most)]
    works, alone = [], 0.0
    for ids, enough in ((tokens[:1], TOKEN_SECONDS), (tokens, PROMPT_SECONDS)):
        batch = Solo(program.layout).batch(ids, 0)
        end, seconds = _long_enough(program, batch, enough)
        if seconds < enough:
            return _Trial(problem=f"the model is too small to tell whether {choice.more} are faster")
        works.append((batch, end))
        alone += seconds
    limit = max(MOST_SECONDS, MOST_TIMES * 2 * _ROUNDS * alone)
    least: dict[tuple[int, int], float] = {}
    for count in (choice.count, choice.more) * _ROUNDS:
        program.set_threads(count)
        program.step(works[0][0], end=1)  # wakes the new threads for the first time
        for index, work in enumerate(works):
            least[count, index] = min(_seconds(program, *work), least.get((count, index), math.inf))
        if time.perf_counter() - began > limit:
            return _Trial(problem=f"the machine is too busy to try {choice.more}")
    one, many = (least[choice.more, index] / least[choice.count, index] for index in range(len(works)))
    return _Trial(math.sqrt(one * many))


def _long_enough(program: Timed, batch: Batch, enough: float) -> tuple[int, float]:
    """Return how many launches take so long, or all, and how long: the least of some, so that no small model looks long
    because it was disturbed."""
    end, total = 1, len(program.layout.launches)
    while True:
        seconds = min(_seconds(program, batch, end) for _ in range(_ROUNDS))
        if seconds >= enough or end >= total:
            return end, seconds
        end = min(2 * end, total)


def _seconds(program: Timed, batch: Batch, end: int) -> float:
    began = time.perf_counter()
    program.step(batch, end=end)
    return time.perf_counter() - began
