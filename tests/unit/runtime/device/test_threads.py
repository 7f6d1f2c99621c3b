"""How many threads: chosen by what the machine has, tried where hyperthreads may help, and remembered."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.processors import Processors
from rocmforge.runtime.device import threads
from rocmforge.runtime.device.batch import Batch, Int32
from rocmforge.runtime.device.threads import SpeedMemory, ThreadChoice, choose_threads, try_more
from rocmforge.tests.support.hip_bundle import LAYOUT
from rocmforge.tests.support.systems import leave_home

PLAIN = Processors(((0,), (1,)))
PAIRS = Processors(((0, 4), (1, 5), (2, 6), (3, 7)))


class Clock:
    """Time that passes where it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedProgram:
    """Takes some time a launch with 4 threads, another share of it with others, and fails with too many."""

    def __init__(self, clock: Clock, share: float, most: int = 8, launch_seconds: float = 0.001) -> None:
        self.layout, self.num_blocks, self.threads = dataclasses.replace(LAYOUT, max_batch_tokens=64), 8, 4
        self.steps: list[tuple[int, int, int | None]] = []
        self._clock, self._share, self._most, self._launch_seconds = clock, share, most, launch_seconds

    def set_threads(self, count: int) -> None:
        if count > self._most:
            raise DeviceError(f"host: {count} threads are unavailable")
        self.threads = count

    def step(self, batch: Batch, seconds: list[float] | None = None, end: int | None = None) -> Int32:
        assert end is not None
        self.steps.append((self.threads, len(batch.token_ids), end))
        self._clock.now += self._launch_seconds * end * (1 if self.threads == 4 else self._share)
        return np.zeros(1, np.int32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "perf_counter", made)
    return made


@pytest.mark.parametrize(
    ("processors", "count", "why"),
    [
        (PLAIN, 2, "2 threads: one for each of 2 cores"),
        (Processors(((3,),)), 1, "1 thread: one core"),
        (Processors(((0,), (1,), (2,)), 2.5), 2, "2 threads: control groups allow the time of 2.5 of 3 CPUs"),
        (Processors(PAIRS.cores, 2.0), 2, "2 threads: control groups allow the time of 2 of 8 CPUs"),
    ],
)
def test_without_more_hyperthreads_nothing_is_tried(
    tmp_path: Path, processors: Processors, count: int, why: str
) -> None:
    choice = choose_threads(processors, SpeedMemory(processors, "v4", tmp_path))
    assert (choice.count, choice.more, str(choice)) == (count, 0, why)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("share", "count", "why"),
    [
        (0.8, 8, "8 threads: also on hyperthreads of 4 cores, where they were faster"),
        (0.97, 4, "4 threads: one for each of 4 cores; on all 8 CPUs they were not faster"),
        (1.4, 4, "4 threads: one for each of 4 cores; on all 8 CPUs they were not faster"),
    ],
)
def test_hyperthreads_are_tried_once(clock: Clock, tmp_path: Path, share: float, count: int, why: str) -> None:
    memory, program = SpeedMemory(PAIRS, "v4", tmp_path), TimedProgram(clock, share)
    choice = choose_threads(PAIRS, memory)
    assert choice == ThreadChoice(4, "one for each of 4 cores", 8)
    found = try_more(program, choice, PAIRS, memory)
    assert (found.count, found.more, program.threads) == (count, 0, count)
    assert str(found) == f"{why} ({share:.2f} of the time)"
    assert {(number, tokens) for number, tokens, _ in program.steps} == {(4, 1), (8, 1), (4, 16), (8, 16)}
    again = choose_threads(PAIRS, SpeedMemory(PAIRS, "v4", tmp_path))
    assert (again.count, again.more, str(again)) == (count, 0, f"{why} on this machine")


def test_each_is_timed_by_its_least(clock: Clock, tmp_path: Path) -> None:
    """Whoever else uses the machine during one of the rounds does not decide."""

    class Disturbed(TimedProgram):
        def step(self, batch: Batch, seconds: list[float] | None = None, end: int | None = None) -> Int32:
            if self.threads == 8 and len([one for one in self.steps if one[0] == 8]) < 3:
                clock.now += 0.004
            return super().step(batch, seconds, end)

    program = Disturbed(clock, 0.5)
    assert try_more(program, ThreadChoice(4, "", 8), PAIRS, SpeedMemory(PAIRS, "", tmp_path)).count == 8


@pytest.mark.parametrize("launch_seconds", [0.001, 0.1])
def test_nothing_is_learnt_on_a_busy_machine(clock: Clock, tmp_path: Path, launch_seconds: float) -> None:
    memory = SpeedMemory(PAIRS, "v4", tmp_path)
    program = TimedProgram(clock, 20.0, launch_seconds=launch_seconds)
    found = try_more(program, choose_threads(PAIRS, memory), PAIRS, memory)
    assert str(found) == "4 threads: one for each of 4 cores; the machine is too busy to try 8"
    assert (program.threads, memory.read()) == (4, None)


@pytest.mark.parametrize("launch_seconds", [0.0001, 0.005, 0.5])
def test_models_of_all_sizes_are_tried(clock: Clock, tmp_path: Path, launch_seconds: float) -> None:
    """Also where one launch takes most of the time that others' trials may take in all, or more."""
    memory = SpeedMemory(PAIRS, "v4", tmp_path)
    program = TimedProgram(clock, 0.8, launch_seconds=launch_seconds)
    assert try_more(program, choose_threads(PAIRS, memory), PAIRS, memory).count == 8
    assert memory.read() == 8
    assert clock.now < max(threads.MOST_SECONDS, 20 * launch_seconds)


def test_nothing_is_learnt_of_a_small_model(clock: Clock, tmp_path: Path) -> None:
    """Not even where it is disturbed once while it is tried: all its launches take but some microseconds."""

    class Disturbed(TimedProgram):
        def step(self, batch: Batch, seconds: list[float] | None = None, end: int | None = None) -> Int32:
            clock.now += 0.002 * (len(self.steps) in (0, 2))
            return super().step(batch, seconds, end)

    memory, program = SpeedMemory(PAIRS, "v4", tmp_path), Disturbed(clock, 0.5, launch_seconds=1e-6)
    found = try_more(program, choose_threads(PAIRS, memory), PAIRS, memory)
    assert str(found) == "4 threads: one for each of 4 cores; the model is too small to tell whether 8 are faster"
    assert (program.threads, memory.read()) == (4, None)


def test_more_threads_that_are_not_to_be_had(clock: Clock, tmp_path: Path) -> None:
    memory, program = SpeedMemory(PAIRS, "v4", tmp_path), TimedProgram(clock, 0.5, most=7)
    found = try_more(program, choose_threads(PAIRS, memory), PAIRS, memory)
    assert str(found) == "4 threads: more are not to be had: host: 8 threads are unavailable"
    assert program.threads == 4
    assert memory.read() is None


@pytest.mark.parametrize(
    "other",
    [
        SpeedMemory(PAIRS, "v3", Path("x")),
        SpeedMemory(Processors(PAIRS.cores, 6.0), "v4", Path("x")),
        SpeedMemory(Processors(PAIRS.cores[1:]), "v4", Path("x")),
    ],
)
def test_what_is_remembered_is_of_one_machine(tmp_path: Path, other: SpeedMemory) -> None:
    memory = SpeedMemory(PAIRS, "v4", tmp_path)
    memory.write(8)
    assert memory.read() == 8
    assert other._path not in (None, SpeedMemory(PAIRS, "v4", Path("x"))._path)


def test_another_cpu_is_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SpeedMemory(PAIRS, "v4", tmp_path).write(8)
    monkeypatch.setattr(threads, "cpu_model", lambda: "another")
    assert SpeedMemory(PAIRS, "v4", tmp_path).read() is None


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"\xff",
        b"[8]",
        b"{}",
        b'{"threads": 5}',
        b'{"threads": true}',
        b'{"threads": "8"}',
        b"[" * 1024,
        b"8",
    ],
)
def test_what_is_damaged_is_tried_again(tmp_path: Path, damaged: bytes) -> None:
    memory = SpeedMemory(PAIRS, "v4", tmp_path)
    memory.write(8)
    [file] = tmp_path.iterdir()
    file.write_bytes(damaged)
    assert choose_threads(PAIRS, memory).more == 8
    memory.write(4)
    assert choose_threads(PAIRS, memory).count == 4


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = SpeedMemory(PAIRS, "v4", tmp_path / "file" / "threads")
    memory.write(8)
    assert memory.read() is None


def test_the_folder_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    SpeedMemory(PAIRS, "v4").write(8)
    assert len(list((tmp_path / "rocmforge" / "threads").iterdir())) == 1


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_home(monkeypatch)
    memory = SpeedMemory(PAIRS, "v4")
    memory.write(8)
    assert memory.read() is None
    assert choose_threads(PAIRS, memory) == ThreadChoice(4, "one for each of 4 cores", 8)


def _write_many(folder: Path, count: int) -> None:
    for _ in range(200):
        SpeedMemory(PAIRS, "v4", folder).write(count)


@pytest.mark.slow
def test_many_write_at_once(tmp_path: Path) -> None:
    memory = SpeedMemory(PAIRS, "v4", tmp_path)
    memory.write(4)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(tmp_path, count)) for count in (4, 8)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert memory.read() in (4, 8)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(list(tmp_path.iterdir())) == 1
