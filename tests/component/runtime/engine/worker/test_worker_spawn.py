"""The process of a worker: what it is given, what it writes, and how its end is told."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.runtime.engine.worker import spawn
from rocmforge.runtime.engine.worker.spawn import WorkerProcess
from rocmforge.tests.support import tiny_worker
from rocmforge.tests.support.engine_harness import SECONDS


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    monkeypatch.setattr(spawn, "MODULE", tiny_worker.__name__)
    monkeypatch.setenv("ROCMFORGE_API_KEY", "secret")
    monkeypatch.setenv("ROCMFORGE_API_KEYS", "/secret")
    monkeypatch.setenv("ROCMFORGE_OTHER", "not secret")
    before = set(os.listdir("/proc/self/fd"))
    made = WorkerProcess()
    yield made
    made.kill()
    made.end(SECONDS)
    made.wait_until_gone()
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not Path(f"/proc/{made.pid}").exists()


def test_what_it_is_given(process: WorkerProcess) -> None:
    """No terminal, no keys, no signals of the server's group."""
    process.socket.sendall(b"facts")
    ignored, group, keys, typed, here = eval(process.socket.recv(10_000))
    assert os.eventfd_read(process.bell) == 5
    assert (ignored, group, typed, here) == ([1, 2, 10, 12, 15], True, "", False)
    assert "ROCMFORGE_OTHER" in keys
    assert not {"ROCMFORGE_API_KEY", "ROCMFORGE_API_KEYS"} & set(keys)
    process.socket.sendall(b"x")
    assert process.end(SECONDS) == "ended with exit code 0"


@pytest.mark.parametrize(
    ("what", "how"),
    [
        ("exit:7", "ended with exit code 7"),
        (f"signal:{signal.SIGABRT}", "was killed by SIGABRT"),
        (f"signal:{signal.SIGRTMIN + 3}", f"was killed by signal {signal.SIGRTMIN + 3}"),
        ("write:one\ntwo \n\n\xff three\n \n", "ended with exit code 0: one; \ufffd three"),
    ],
)
def test_how_it_ended(process: WorkerProcess, what: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    process.socket.sendall(what.encode())
    assert process.end(SECONDS) == how
    if what.startswith("write:one\n"):
        lines = [f"worker {process.pid}: {line}" for line in ("one", "two", "\ufffd three")]
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (logging.WARNING, line) for line in lines
        ]


def test_its_end_is_seen_whatever_it_had_started(process: WorkerProcess) -> None:
    process.socket.settimeout(SECONDS)
    process.socket.sendall(b"child:3600")
    child = int(process.socket.recv(100))
    try:
        assert process.socket.recv(100) == b""
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_was_written_long_before_is_not_the_cause(process: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines at a stretch belong together; a line after a pause begins anew."""
    times = iter([100.0, 101.0, 102.5, 103.5])
    monkeypatch.setattr(spawn, "time", SimpleNamespace(monotonic=lambda: next(times, 104.0)))
    process.socket.sendall(b"write:a\nb\nc\nd\n")
    process._output.join(SECONDS)
    monkeypatch.undo()
    assert process.end(SECONDS) == "ended with exit code 0: c; d"


def test_one_that_does_not_end_is_killed(process: WorkerProcess) -> None:
    process.socket.sendall(b"hang")
    assert process.socket.recv(10) == b"hangs"
    assert process.end(0.01) == "was killed by SIGKILL"


def test_one_that_cannot_be_killed(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []

    def wait(seconds: float | None = None) -> int:
        waits.append(seconds or -1.0)
        raise subprocess.TimeoutExpired("worker", seconds or 0.0)

    with monkeypatch.context() as patch:
        patch.setattr(process._process, "wait", wait)
        assert process.end(0.5) == "hangs, and cannot be killed"
    assert waits == [0.5, spawn.KILL_SECONDS]
    assert [record.getMessage() for record in caplog.records] == [
        f"worker {process.pid}: killed, and not gone: its driver holds it"
    ]


def test_no_room_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def none(command: list[str], **options: Any) -> None:
        asked.append(options)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", none)
    before = set(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with pytest.raises(RocmforgeError) as caught:
        WorkerProcess()
    assert str(caught.value) == "cannot start a process for the engine: Resource temporarily unavailable"
    assert (set(os.listdir("/proc/self/fd")), threading.active_count()) == (before, threads)
    assert asked[0]["process_group"] == 0


@pytest.mark.parametrize("left", range(7))
def test_F70_no_descriptors_for_a_process(left: int) -> None:
    """However many there still are, none is lost, and what starts workers can tell and try again."""
    before = set(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(soft) if str(number) not in before]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[left], hard))
    try:
        with pytest.raises(RocmforgeError, match=r"^cannot start a process for the engine: Too many open files$"):
            WorkerProcess()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert set(os.listdir("/proc/self/fd")) <= before


def test_no_thread_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(RocmforgeError) as caught:
        WorkerProcess()
    assert str(caught.value) == "cannot start a thread for the engine's process: can't start new thread"
    assert set(os.listdir("/proc/self/fd")) <= before
