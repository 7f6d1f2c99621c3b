"""Workers that do as a test says, in place of processes."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.runtime.engine.generation import EngineStats, TokenEvent
from rocmforge.runtime.engine.lifecycle import FINISHED, QUEUED, RequestEvent
from rocmforge.runtime.engine.worker import keeper as keeper_module
from rocmforge.runtime.engine.worker.channel import Channel
from rocmforge.runtime.engine.worker.remote import RemoteEngine
from rocmforge.runtime.engine.worker.wire import Answer, Generated, Ready, Start, Submit
from rocmforge.tests.support.engine_harness import SECONDS, CountingMetrics, request

START = Start("/a/model.rfb", "sha256:5", "hip", 2)
READY = Ready("hip:0000:03:00.0", ((5, 6),), 128, 1000, 16, 4)
STATS = EngineStats(True, 1, 2, 3, 4, 5, 6.5, True, 7, 8)


class Worker:
    """One end of a line, and what stands for a process at the other."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.socket, self._theirs = socket.socketpair()
        self.bell = os.eventfd(0)
        self._own_bell = os.dup(self.bell)
        self.line = Channel(self._theirs, ring=self._own_bell)
        self._theirs.settimeout(SECONDS)
        self.how = "was killed by SIGKILL"
        self.kills = 0
        self.waits: list[float | str] = []

    # For the engine.

    def kill(self) -> None:
        self.kills += 1
        self.leave()

    def end(self, seconds: float) -> str:
        self.waits.append(seconds)
        return self.how

    def wait_until_gone(self) -> None:
        self.waits.append("gone")
        os.close(self.bell)

    # For tests.

    def leave(self) -> None:
        """Close this end, whatever was said."""
        with contextlib.suppress(OSError):
            self._theirs.shutdown(socket.SHUT_RDWR)

    def heard(self) -> object:
        """The next message, which comes alone."""
        frame = self.line.receive()
        assert frame is not None
        (message,) = frame
        return message

    def says(self, *messages: object) -> None:
        self.line.send(*messages)

    def takes(self, count: int = 1) -> Submit:
        """The next message, so many requests: taken."""
        submit = self.heard()
        assert isinstance(submit, Submit)
        assert len(submit.ids) == count
        self.says(*(RequestEvent(QUEUED, number, 1e9) for number in submit.ids), Answer(submit.call))
        return submit

    def ends(self, number: int, reason: str = "length") -> None:
        """A request, at once."""
        event = TokenEvent(None, "", True, reason)
        self.says(RequestEvent(FINISHED, number, 2e9, 0, reason), Generated(number, event, 0))

    def dispose(self) -> None:
        self.leave()
        self.line.close()
        os.close(self._own_bell)


class Stage:
    """An engine, its workers, and a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: list[Worker] = []
        self.next: queue.SimpleQueue[Worker | RocmforgeError] = queue.SimpleQueue()
        self.now = 1000.0
        self.looks = 0  # at the clock
        self.metrics = CountingMetrics()
        self.told: list[RequestEvent] = []
        monkeypatch.setattr(keeper_module, "time", SimpleNamespace(monotonic=self._look))
        monkeypatch.setattr(keeper_module, "RESTART_SECONDS", (0.0,))
        monkeypatch.setattr(keeper_module, "ASK_SECONDS", 3600.0)
        monkeypatch.setattr(keeper_module, "WorkerProcess", self._make)
        self.first = self.worker()
        self.engine = RemoteEngine(START, self.metrics, observer=self.told.append, first=cast(Any, self.first))

    def _look(self) -> float:
        self.looks += 1
        return self.now

    def worker(self) -> Worker:
        made = Worker(100 + len(self.workers))
        self.workers.append(made)
        return made

    def _make(self) -> Worker:
        found = self.next.get(timeout=SECONDS)
        if isinstance(found, RocmforgeError):
            raise found
        return found

    def served(self) -> Worker:
        """The first worker, as it serves."""
        self.engine.start()
        assert self.first.heard() == START
        self.first.says(READY)
        self.engine.wait()
        return self.first

    def asks(self, act: Callable[[], object]) -> queue.SimpleQueue[Any]:
        """Do what waits for an answer; what comes of it."""
        found: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                found.put(act())
            except BaseException as error:
                found.put(error)

        threading.Thread(target=ask, daemon=True).start()
        return found

    def submitted(self, worker: Worker, count: int = 1) -> list[Any]:
        answer = self.asks(lambda: self.engine.submit_all([request()] * count))
        worker.takes(count)
        return cast(list[Any], answer.get(timeout=SECONDS))

    def close(self) -> None:
        for worker in self.workers:
            worker.leave()
        self.next.put(RocmforgeError("the test is over"))
        self.engine.stop(0)
        for worker in self.workers:
            worker.dispose()
