"""The server's side of a worker, which a test plays: what is asked of it, and what becomes of what it says."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest

from rocmforge.artifacts.errors import EngineBusyError, RequestError
from rocmforge.runtime.engine.embeddings import EmbeddingRequest
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import DeviceStats, EngineStats, TokenEvent
from rocmforge.runtime.engine.lifecycle import FINISHED, RequestEvent
from rocmforge.runtime.engine.worker import keeper as keeper_module
from rocmforge.runtime.engine.worker import remote as remote_module
from rocmforge.runtime.engine.worker.remote import RemoteEngine
from rocmforge.runtime.engine.worker.wire import (
    Answer,
    AskStats,
    Cancel,
    Generated,
    Heartbeat,
    Logged,
    Ping,
    StepDone,
    Submit,
)
from rocmforge.tests.support.engine_harness import SECONDS, request, wait_until
from rocmforge.tests.support.scripted_worker import READY, START, STATS, Stage


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(monkeypatch)
    yield made
    made.close()


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
    worker.says(Answer(1, fault=Failure("max_tokens: too many", "max_tokens", "RequestError")))
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
    worker.says(Answer(1, fault=Failure("it hangs", kind="DeviceError")))


# A watchdog.


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(monkeypatch)
    monkeypatch.setattr(keeper_module, "ASK_SECONDS", 0.001)
    monkeypatch.setattr(keeper_module, "SILENCE_SECONDS", 8.0)
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


@pytest.mark.slow
def test_a_server_that_was_stopped_for_long_asks_before_it_ends_its_worker(
    watched: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "ASK_SECONDS", 0.3)
    worker = watched.served()
    assert [worker.heard() for _ in range(2)] == [Ping(), AskStats(1)]
    for _ in range(3):
        watched.now += 1000.0  # neither has run meanwhile
        for _ in range(2):
            assert worker.heard() == Ping()
            worker.says(Heartbeat())
    assert (worker.kills, watched.engine.serving) == (0, True)


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
    assert worker.kills >= 1  # at each look until it has ended


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
