"""How workers end: lost, refused, silent or stopped."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator

import pytest

from rocmforge.artifacts.errors import BundleError, DeviceError, EngineBusyError, RocmforgeError
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import GenerationState
from rocmforge.runtime.engine.lifecycle import QUEUED, RequestEvent
from rocmforge.runtime.engine.worker import keeper as keeper_module
from rocmforge.runtime.engine.worker.remote import RemoteEngine
from rocmforge.runtime.engine.worker.wire import STARTING, Answer, AskStats, Lost, Stop, Submit
from rocmforge.tests.support.engine_harness import SECONDS, ended, request, wait_until
from rocmforge.tests.support.scripted_worker import READY, START, STATS, Stage, Worker

KILLED = "the device's process was killed by SIGKILL"


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(monkeypatch)
    yield made
    made.close()


def failed(state: GenerationState, words: str) -> bool:
    return (state.finish_reason, state.error) == ("failed", Failure(words))


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
        assert worker.waits == [keeper_module.EXIT_SECONDS, "gone"]
        assert (engine.pid, engine.serving, engine.load, engine.restarts) == (None, False, 0, 0)
        assert engine.find(one.request_id) is one
        with pytest.raises(EngineBusyError, match=f"^the model is not available: {KILLED}$"):
            engine.submit(request())
        stats = engine.stats()
        assert (stats.running, stats.device_available, stats.problem) == (False, False, KILLED)
        stage.now = 1007.5
        second = stage.worker()
        stage.next.put(second)
        assert second.heard() == dataclasses.replace(START, device="hip:0000:03:00.0", stamps=((5, 6),))
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
    second.says(Answer(STARTING, fault=Failure("model.rfb: torn", kind="BundleError")))
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
    stage.first.says(Answer(STARTING, fault=Failure("model.rfb: torn", kind="BundleError")))
    stage.first.leave()
    with pytest.raises(BundleError) as caught:
        engine.wait()
    assert str(caught.value) == "model.rfb: torn"
    assert stage.first.waits == [keeper_module.EXIT_SECONDS, "gone"]
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
    monkeypatch.setattr(keeper_module, "SILENCE_SECONDS", 0.1)
    stage = Stage(monkeypatch)
    worker, engine = stage.served(), stage.engine
    large = tuple(range(2000)) * 1000
    with pytest.raises(EngineBusyError) as caught:
        engine.submit(request(large))
    problem = "the device's process has taken no message for 0.1 s"
    assert str(caught.value) == f"the model is not available: {problem}"
    assert worker.kills == 1
    stage.close()


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
    monkeypatch.setattr(keeper_module, "CANCEL_SECONDS", 0.01)
    monkeypatch.setattr(keeper_module, "STOP_SECONDS", 0.01)
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
