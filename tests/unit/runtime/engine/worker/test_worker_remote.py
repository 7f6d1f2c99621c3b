"""The server's side of a worker, which a test plays: what is asked of it, and what becomes of what it says."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rocmforge.artifacts.errors import BundleError, DeviceError, EngineBusyError, RequestError, RocmforgeError
from rocmforge.runtime.engine.embeddings import EmbeddingRequest
from rocmforge.runtime.engine.generation import DeviceStats, EngineStats, Failure, GenerationState, TokenEvent
from rocmforge.runtime.engine.lifecycle import FINISHED, QUEUED, RequestEvent
from rocmforge.runtime.engine.worker import remote as remote_module
from rocmforge.runtime.engine.worker.remote import RemoteEngine
from rocmforge.runtime.engine.worker.wire import (
    STARTING,
    Answer,
    AskStats,
    Cancel,
    Channel,
    Fault,
    Generated,
    Heartbeat,
    Logged,
    Lost,
    Ping,
    Ready,
    Start,
    StepDone,
    Stop,
    Submit,
)
from rocmforge.tests.support.engine_harness import SECONDS, CountingMetrics, ended, request, wait_until

START = Start("/a/model.rfb", "sha256:5", "hip", 2)
READY = Ready("hip:0000:03:00.0", (5, 6), 128, 1000, 16, 4)
STATS = EngineStats(True, 1, 2, 3, 4, 5, 6.5, True, 7, 8)
KILLED = "the device's process was killed by SIGKILL"


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
        monkeypatch.setattr(remote_module, "time", SimpleNamespace(monotonic=self._look))
        monkeypatch.setattr(remote_module, "RESTART_SECONDS", (0.0,))
        monkeypatch.setattr(remote_module, "ASK_SECONDS", 3600.0)
        monkeypatch.setattr(remote_module, "WorkerProcess", self._make)
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


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(monkeypatch)
    yield made
    made.close()


def failed(state: GenerationState, words: str) -> bool:
    return (state.finish_reason, state.error) == ("failed", Failure(words))


def test_before_it_serves(stage: Stage) -> None:
    engine = stage.engine
    assert (engine.serving, engine.pid, engine.restarts, engine.load) == (False, None, 0, 0)
    for asked in ("max_context", "vocab_size", "block_size", "max_sequences"):
        with pytest.raises(RuntimeError, match=r"^asked before `start`$"):
            getattr(engine, asked)
    problem = "the worker has not started yet"
    with pytest.raises(EngineBusyError, match=f"^the model is not available: {problem}$"):
        engine.submit(request())
    device = DeviceStats("hip", 0, False, problem, 0, 0, 0, 0, 0.0, 0, 0)
    expected = EngineStats(False, 0, 0, 0, 0, 0, 0.0, False, 0, 0, problem=problem, devices=(device,))
    assert engine.stats() == expected
    assert engine.find(1) is None
    engine.start()
    assert stage.first.heard() == START
    assert (engine.serving, engine.pid) == (False, 100)


def test_what_it_says_when_it_serves(stage: Stage) -> None:
    worker, engine = stage.served(), stage.engine
    assert (engine.max_context, engine.vocab_size, engine.block_size, engine.max_sequences) == (128, 1000, 16, 4)
    assert (engine.serving, engine.pid, engine.restarts, worker.kills) == (True, 100, 0, 0)
    answer = stage.asks(engine.stats)
    assert worker.heard() == AskStats(1)
    worker.says(Answer(1, STATS))
    device = DeviceStats("hip", 0, True, None, 1, 2, 3, 4, 6.5, 7, 8)
    assert answer.get(timeout=SECONDS) == dataclasses.replace(STATS, devices=(device,))


def test_requests_are_sent_together_and_each_has_its_events(stage: Stage) -> None:
    worker, engine = stage.served(), stage.engine
    asked = [request(5, client="me"), request(6)]
    answer = stage.asks(lambda: engine.submit_all(asked))
    assert worker.takes(2) == Submit(1, (1, 2), tuple(asked))
    one, two = answer.get(timeout=SECONDS)
    assert [(made.request_id, made.client, made.prompt_tokens) for made in (one, two)] == [(1, "me", 5), (2, "", 6)]
    assert (one.inbox is two.inbox, one.inbox.hurried, engine.load) == (True, False, 2)
    assert (engine.find(1), engine.find(2), engine.find(3)) == (one, two, None)
    worker.says((2, 65, "a"), (1, 66, "b"))
    assert [one.inbox.get(timeout=SECONDS) for _ in range(2)] == [
        TokenEvent(65, "a", index=1),
        TokenEvent(66, "b", index=0),
    ]
    two.cancel()
    assert worker.heard() == Cancel(2)
    for number, reason in ((1, "stop"), (2, "cancelled")):
        worker.ends(number, reason)
        assert one.inbox.get(timeout=SECONDS).finish_reason == reason
    wait_until(lambda: engine.load == 0)
    two.cancel()
    answer = stage.asks(lambda: engine.embed([EmbeddingRequest((3, 4), "last")]))
    assert worker.takes() == Submit(2, (3,), (EmbeddingRequest((3, 4), "last"),))
    assert answer.get(timeout=SECONDS)[0].request_id == 3
    assert engine.submit_all([]) == []
    assert engine.embed([]) == []
    assert (stage.metrics.started, stage.metrics.finished) == (3, {"stop": 1, "cancelled": 1})


def test_what_is_refused_is_forgotten(stage: Stage) -> None:
    worker, engine = stage.served(), stage.engine
    answer = stage.asks(lambda: engine.submit(request()))
    assert worker.heard() == Submit(1, (1,), (request(),))
    worker.says(Answer(1, fault=Fault("RequestError", "max_tokens: too many", "max_tokens")))
    error = answer.get(timeout=SECONDS)
    assert (type(error), str(error), error.parameter) == (RequestError, "max_tokens: too many", "max_tokens")
    assert (engine.load, engine.find(1), stage.metrics.started) == (0, None, 0)
    stage.submitted(worker)


def test_numbers_that_are_known_are_given_to_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.engine = RemoteEngine(START, stage.metrics, request_ids=iter([7, 7, 7, 9]), first=cast(Any, stage.first))
    worker = stage.served()
    assert [stage.submitted(worker)[0].request_id for _ in range(2)] == [7, 9]
    stage.close()


def test_what_a_step_counts_and_what_is_logged(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    worker = stage.served()
    one = stage.submitted(worker)[0]
    with caplog.at_level(logging.INFO):
        worker.says(
            # An end that is seen is counted: what is told of a step comes first, wherever it stands in the frame.
            Generated(1, TokenEvent(None, "", True, "length"), 0),
            StepDone("tokens_generated", (3,)),
            StepDone("drafts_judged", (4, 1)),
            StepDone("observe_step", (0.5, 2, 30)),
            Logged("rocmforge.some", logging.INFO, "100 % %s"),
            Logged("rocmforge.some", logging.DEBUG, "not wanted"),
            Heartbeat(),
            RequestEvent(FINISHED, 1, 2e9, 0, "length"),
        )
        assert one.inbox.get(timeout=SECONDS).finished
    metrics = stage.metrics
    assert (metrics.tokens, metrics.drafts, metrics.steps) == (3, [(4, 1)], [(2, 30)])
    assert (metrics.finished, stage.engine.load) == ({"length": 1}, 0)
    found = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert found == [("rocmforge.some", logging.INFO, "100 % %s")]
    assert worker.kills == 0


# Ends.


def test_the_next_worker_takes_the_place_of_a_lost_one(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    worker, engine = stage.served(), stage.engine
    [one] = stage.submitted(worker)
    refused = stage.asks(lambda: engine.submit(request()))
    assert isinstance(worker.heard(), Submit)
    taken = stage.asks(lambda: engine.submit(request()))
    submit = worker.heard()
    assert isinstance(submit, Submit)
    worker.says(RequestEvent(QUEUED, submit.ids[0], 1e9))
    stage.now = 1005.0
    with caplog.at_level(logging.INFO):
        worker.leave()
        error = refused.get(timeout=SECONDS)
        assert (type(error), str(error)) == (EngineBusyError, f"the model is not available: {KILLED}")
        assert failed(ended(one), KILLED)
        assert failed(ended(taken.get(timeout=SECONDS)), KILLED)
        wait_until(lambda: "gone" in worker.waits)
        assert worker.waits == [remote_module.EXIT_SECONDS, "gone"]
        assert (engine.pid, engine.serving, engine.load, engine.restarts) == (None, False, 0, 0)
        assert engine.find(one.request_id) is one
        with pytest.raises(EngineBusyError, match=f"^the model is not available: {KILLED}$"):
            engine.submit(request())
        stats = engine.stats()
        assert (stats.running, stats.device_available, stats.problem) == (False, False, KILLED)
        stage.now = 1007.5
        second = stage.worker()
        stage.next.put(second)
        assert second.heard() == dataclasses.replace(START, device="hip:0000:03:00.0", stamp=(5, 6))
        second.says(READY)
        wait_until(lambda: engine.serving)
    assert (engine.restarts, engine.pid) == (1, 101)
    [again] = stage.submitted(second)
    second.ends(again.request_id)
    assert ended(again).finish_reason == "length"
    assert stage.metrics.finished == {"failed": 2, "length": 1}
    assert [record.getMessage() for record in caplog.records] == [
        f"the device is lost, and 3 requests with it: {KILLED}",
        "the device is available again, after 2.5 s",
    ]
    answer = stage.asks(engine.stats)
    asked = second.heard()
    assert isinstance(asked, AskStats)
    second.says(Answer(asked.call, STATS))
    assert answer.get(timeout=SECONDS).devices[0].restarts == 1


def test_one_that_cannot_load_again_says_why(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.served().leave()
    second = stage.worker()
    stage.next.put(second)
    second.heard()
    second.says(Answer(STARTING, fault=Fault("BundleError", "model.rfb: torn")))
    second.leave()
    wait_until(lambda: stage.engine.stats().problem == "model.rfb: torn")
    stage.next.put(RocmforgeError("cannot start a process"))
    wait_until(lambda: stage.engine.stats().problem == "cannot start a process")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        f"the device is lost, and 0 requests with it: {KILLED}",
        "not available: model.rfb: torn",
        "not available: cannot start a process",
    ]
    third = stage.worker()
    stage.next.put(third)
    third.heard()
    third.says(READY)
    wait_until(lambda: stage.engine.serving)
    assert stage.engine.restarts == 1


def test_the_first_that_cannot_load_is_the_last(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    engine = stage.engine
    engine.start()
    assert stage.first.heard() == START
    stage.first.says(Answer(STARTING, fault=Fault("BundleError", "model.rfb: torn")))
    stage.first.leave()
    with pytest.raises(BundleError) as caught:
        engine.wait()
    assert str(caught.value) == "model.rfb: torn"
    assert stage.first.waits == [remote_module.EXIT_SECONDS, "gone"]
    with pytest.raises(EngineBusyError, match=r"^the server is stopping$"):
        engine.submit(request())
    assert (engine.pid, caplog.records) == (None, [])


def test_no_first_process_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.next.put(RocmforgeError("cannot start a process"))
    stage.engine = RemoteEngine(START, stage.metrics)
    stage.engine.start()
    with pytest.raises(RocmforgeError, match=r"^cannot start a process$"):
        stage.engine.wait()
    stage.close()


@pytest.mark.parametrize(
    ("say", "problem"),
    [
        (lambda worker: worker.says(Lost("the device is lost")), "the device is lost"),
        (
            lambda worker: worker.says((77, 65, "a")),
            "the device's process says what cannot be understood: KeyError(77)",
        ),
        (
            lambda worker: worker.says(Answer(77)),
            "the device's process says what cannot be understood: KeyError(77)",
        ),
        (lambda worker: worker._theirs.sendall(b"\4\0\0"), KILLED),
    ],
    ids=["lost", "unknown request", "unknown call", "half a frame"],
)
def test_a_worker_that_gives_up_or_talks_nonsense(stage: Stage, say: Callable[[Worker], None], problem: str) -> None:
    worker = stage.served()
    [one] = stage.submitted(worker)
    say(worker)
    if problem == KILLED:
        worker.leave()
    assert failed(ended(one), problem)
    assert worker.kills == (problem != KILLED)
    assert stage.engine.stats().problem == problem


def test_the_first_cause_is_the_one_that_is_told(stage: Stage) -> None:
    worker = stage.served()
    [one] = stage.submitted(worker)
    worker.says(Lost("first"), Lost("second"))
    assert failed(ended(one), "first")


def test_a_worker_that_takes_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "SILENCE_SECONDS", 0.1)
    stage = Stage(monkeypatch)
    worker, engine = stage.served(), stage.engine
    large = tuple(range(2000)) * 1000
    with pytest.raises(EngineBusyError) as caught:
        engine.submit(request(large))
    problem = "the device's process has taken no message for 0.1 s"
    assert str(caught.value) == f"the model is not available: {problem}"
    assert worker.kills == 1
    stage.close()


# Figures.


def test_figures_that_do_not_come_are_the_last_ones(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "STATS_SECONDS", 0.01)
    worker, engine = stage.served(), stage.engine
    assert (engine.stats().running, engine.stats().problem) == (False, None)  # there are none yet
    assert (engine.stats().device_available, engine.stats().devices[0].running) == (True, False)
    heard = [worker.heard() for _ in range(4)]
    assert heard == [AskStats(number) for number in range(1, 5)]
    worker.says(Answer(4, STATS))
    wait_until(lambda: engine.stats().active == STATS.active)
    assert engine.stats().queued == STATS.queued
    worker.says(Answer(1, fault=Fault("DeviceError", "it hangs")))


# A watchdog.


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(monkeypatch)
    monkeypatch.setattr(remote_module, "ASK_SECONDS", 0.001)
    monkeypatch.setattr(remote_module, "SILENCE_SECONDS", 8.0)
    yield made
    made.close()


def test_a_worker_is_asked_how_it_is_once_it_has_answered(watched: Stage) -> None:
    worker = watched.served()
    assert [worker.heard() for _ in range(4)] == [Ping(), AskStats(1), Ping(), Ping()]
    worker.says(Answer(1, STATS))
    while (heard := worker.heard()) == Ping():
        pass
    assert heard == AskStats(2)
    assert worker.kills == 0
    worker.says(Answer(2, dataclasses.replace(STATS, problem="a step hangs")))
    wait_until(lambda: worker.kills > 0)
    wait_until(lambda: watched.engine.stats().problem == "a step hangs")


def test_silence_is_measured_from_the_last_word(watched: Stage) -> None:
    worker = watched.served()
    watched.now += 8.0  # as long as it may be silent
    for _ in range(20):
        worker.heard()
    assert worker.kills == 0
    worker.says(Heartbeat(), StepDone("tokens_generated", (1,)))
    wait_until(lambda: watched.metrics.tokens == 1)
    watched.now += 8.0
    for _ in range(20):
        worker.heard()
    assert worker.kills == 0
    watched.now += 0.5
    wait_until(lambda: watched.engine.stats().problem == "the device's process has not answered for 8 s")
    assert worker.kills == 1


@pytest.mark.parametrize(("took", "limit"), [(1.0, 60), (6.0, 60), (7.0, 70)])
def test_a_worker_may_load_for_some_times_what_the_first_took(watched: Stage, took: float, limit: int) -> None:
    engine = watched.engine
    engine.start()
    assert watched.first.heard() == START
    watched.now += took
    watched.first.says(READY)
    engine.wait()
    watched.first.leave()
    second = watched.worker()
    watched.next.put(second)
    second.heard()
    watched.now += limit
    before = watched.looks
    wait_until(lambda: watched.looks > before + 5)
    assert second.kills == 0
    watched.now += 0.5
    wait_until(lambda: engine.stats().problem == f"the device's process does not serve after {limit} s")
    assert second.kills >= 1  # at each look until it has ended


# Stopping.


def test_stop_asks_and_waits(stage: Stage) -> None:
    worker, engine = stage.served(), stage.engine
    [one] = stage.submitted(worker)
    done = stage.asks(lambda: engine.stop(2.5))
    assert worker.heard() == Stop(2.5)
    with pytest.raises(EngineBusyError, match=r"^the server is stopping$"):
        engine.submit(request())
    worker.ends(one.request_id)
    worker.leave()
    assert done.get(timeout=SECONDS) is None
    assert (ended(one).finish_reason, worker.kills, engine.pid) == ("length", 0, None)
    assert not engine.stats().running


def test_a_worker_that_does_not_stop_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "CANCEL_SECONDS", 0.01)
    monkeypatch.setattr(remote_module, "STOP_SECONDS", 0.01)
    worker, engine = stage.served(), stage.engine
    [one] = stage.submitted(worker)
    engine.stop(0.01)
    wait_until(lambda: engine.pid is None)
    assert worker.kills == 1
    assert failed(ended(one), "the server is stopping")


def test_stopped_before_it_serves(stage: Stage) -> None:
    engine = stage.engine
    engine.start()
    assert stage.first.heard() == START
    engine.stop(100.0)
    assert (stage.first.kills, engine.pid) == (1, None)
    failure = stage.asks(engine.wait).get(timeout=SECONDS)
    assert (type(failure), str(failure)) == (DeviceError, KILLED)
