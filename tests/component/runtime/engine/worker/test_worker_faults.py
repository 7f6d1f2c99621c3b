"""Workers that die, hang or talk nonsense: each request ends once, and the next one is answered by the next worker."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import DeviceError, EngineBusyError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.engine.embeddings import EmbeddingError, EmbeddingRequest, PendingEmbedding
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.engine.lifecycle import FINISHED, QUEUED, RequestEvent
from rocmforge.runtime.engine.worker import keeper as keeper_module
from rocmforge.runtime.engine.worker import spawn
from rocmforge.runtime.engine.worker.pending import RemoteGeneration
from rocmforge.runtime.engine.worker.remote import RemoteEngine
from rocmforge.runtime.engine.worker.router import RoutedEngine
from rocmforge.tests.support import faulty_worker
from rocmforge.tests.support.engine_harness import SECONDS, CountingMetrics, ended, request, wait_until
from rocmforge.tests.support.programs import compiled
from rocmforge.tests.support.workers import start_of, working
from rocmforge.tools.bench.server_process import held_by
from rocmforge.tools.generate.fixtures import write_model

LONG = 200


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "RESTART_SECONDS", (0.0,))
    monkeypatch.setattr(keeper_module, "ASK_SECONDS", 0.1)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], object]:
    """Have the next worker, or the first one, be faulty."""
    file = tmp_path / "fault"
    monkeypatch.setattr(spawn, "MODULE", faulty_worker.__name__)
    monkeypatch.setenv(faulty_worker.VARIABLE, str(file))
    return file.write_text


class Judge:
    """Counts what becomes of each request: in its events, in the metrics, and in what observers are told."""

    def __init__(self) -> None:
        self.metrics = CountingMetrics()
        self.told: list[RequestEvent] = []
        self.outcomes: Counter[str] = Counter()

    def judge(self, state: GenerationState) -> GenerationState:
        """Note an outcome; `ended` has held events and state against each other."""
        self.outcomes[str(state.finish_reason)] += 1
        assert (state.finish_reason == "failed") == (state.error is not None)
        return state

    def agree(self) -> None:
        """All three must tell the same."""
        assert self.metrics.finished == self.outcomes
        assert self.metrics.started == sum(self.outcomes.values())
        queued = Counter(one.request_id for one in self.told if one.kind == QUEUED)
        finished = Counter(one.request_id for one in self.told if one.kind == FINISHED)
        assert queued == finished
        assert set(queued.values()) <= {1}
        reasons = Counter(one.reason for one in self.told if one.kind == FINISHED)
        assert reasons == self.outcomes


def long_request(seed: int = 0) -> GenerationRequest:
    return request(5, LONG, sampling=SamplingParams(1.0, seed=seed), ignore_eos=True)


def last_of_many(engine: RemoteEngine) -> RemoteGeneration:
    """Of requests that keep the engine busy for seconds, however late the test is let run; the first has a token."""
    made = [engine.submit(long_request(n)) for n in range(60)]
    made[0].inbox.get(timeout=SECONDS)
    return made[-1]


def submit_when_ready(engine: RemoteEngine | RoutedEngine, one: GenerationRequest) -> GenerationState:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return ended(engine.submit(one))
        except EngineBusyError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


FAULTS = {
    "F120-abort": ("abort:20", "was killed by SIGABRT: Memory access fault by GPU node-1"),
    "F120-segv": ("segv:20", "was killed by SIGSEGV"),
    "F120-exit": ("exit:20", "ended with exit code 9"),
    "F120-in-the-first-step": ("abort", "was killed by SIGABRT"),
    "F121-a-step-that-hangs": ("hang:20", "the device did not finish its step within 0.5 s"),
    "F121-hangs-with-the-interpreters-lock": ("hang with the lock:20", "has not answered for 2 s"),
    "F121-stopped": ("stop:20", "has not answered for 2 s"),
    "F122-nonsense": ("nonsense:20", "says what cannot be understood"),
    "F122-half-a-frame": ("half a frame:20", "ended with exit code 0"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_its_requests_once_and_the_next_is_answered(
    bundle: Bundle, fault: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, words = FAULTS[name]
    monkeypatch.setattr(keeper_module, "SILENCE_SECONDS", 2.0)
    fault(kind)
    judge = Judge()
    start = start_of(bundle, limits=EngineLimits(step_seconds=0.5))
    with working(start, judge.metrics, observer=judge.told.append) as engine:
        first = engine.pid
        try:
            lost = engine.submit_all([long_request(n) for n in range(2 * engine.max_sequences)])
        except EngineBusyError:
            if name != "F120-in-the-first-step":  # that step may be faster than the answer that they were taken
                raise
            assert submit_when_ready(engine, request()).finish_reason == "length"
            return
        embeddings: Sequence[PendingEmbedding] = ()
        with contextlib.suppress(EngineBusyError):  # it may be lost by now
            embeddings = engine.embed([EmbeddingRequest(tuple(range(3, 9)), "mean")])
        finished: list[int] = []
        while len(finished) < len(lost):
            event = lost[0].inbox.get(timeout=SECONDS)
            finished += [event.index] if event.finished else []
        assert sorted(finished) == list(range(len(lost)))
        states = [judge.judge(generation.state()) for generation in lost]
        assert {state.finish_reason for state in states} == {"failed"}
        assert all(words in str(state.error) for state in states), [str(state.error) for state in states]
        for one in embeddings:
            with pytest.raises(EmbeddingError, match=re.escape(words)):
                one.result(SECONDS)
            judge.outcomes["failed"] += 1
        assert judge.judge(submit_when_ready(engine, request())).finish_reason == "length"
        assert engine.pid != first
        stats = engine.stats()
        assert (stats.running, stats.problem, stats.devices[0].restarts) == (True, None, 1)
        assert engine.find(lost[0].request_id) is lost[0]
        judge.agree()
    assert not Path(f"/proc/{first}").exists()


def test_F120_what_was_said_before_the_end_counts(bundle: Bundle) -> None:
    """Events that lie in the socket when the worker dies are not lost."""
    with working(start_of(bundle)) as engine:
        one = engine.submit(request(3, 4))
        for event in iter(lambda: one.inbox.get(timeout=SECONDS), None):
            if event.finished:
                break
        os.kill(engine.pid or 0, signal.SIGKILL)
        wait_until(lambda: engine.stats().devices[0].restarts == 1)
        assert one.state().finish_reason == "length"


def test_F120_while_there_is_no_worker(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "RESTART_SECONDS", (3600.0,))
    with working(start_of(bundle)) as engine:
        pid = engine.pid
        os.kill(pid or 0, signal.SIGKILL)
        wait_until(lambda: not engine.stats().running)
        stats = engine.stats()
        assert (stats.device_available, stats.problem) == (False, "the device's process was killed by SIGKILL")
        with pytest.raises(EngineBusyError, match="the model is not available: the device's process was killed"):
            engine.submit(request())
        assert not Path(f"/proc/{pid}").exists()


def test_F123_pauses_grow_and_begin_anew(
    bundle: Bundle, fault: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(keeper_module, "RESTART_SECONDS", (0.0, 0.01, 0.02, 0.04))
    with working(start_of(bundle)) as engine:
        wait_for, started = engine._keeper._changed.wait_for, spawn.WorkerProcess.__init__
        starts: list[float] = []

        def noted(condition: Callable[[], bool], timeout: float | None = None) -> bool:
            if threading.current_thread().name == "worker":
                pauses.append(timeout or 0.0)
            return wait_for(condition, timeout)

        def start(process: spawn.WorkerProcess) -> None:
            starts.append(time.monotonic())
            started(process)

        monkeypatch.setattr(engine._keeper._changed, "wait_for", noted)
        monkeypatch.setattr(spawn.WorkerProcess, "__init__", start)
        fault("cannot load")
        with caplog.at_level(logging.INFO):
            os.kill(engine.pid or 0, signal.SIGKILL)
            wait_until(lambda: len(pauses) >= 6)
            assert "ended with exit code 3: no such card" in str(engine.stats().problem)
            Path(os.environ[faulty_worker.VARIABLE]).unlink()
            wait_until(lambda: engine.stats().running)
        assert pauses[:6] == [0.0, 0.01, 0.02, 0.04, 0.04, 0.04]
        assert re.search(r"the device is available again, after \d+\.\d s", caplog.text)
        assert ended(engine.submit(request())).finish_reason == "length"
        count = len(pauses)
        monkeypatch.setattr(keeper_module, "STEADY_SECONDS", 0.0)
        os.kill(engine.pid or 0, signal.SIGKILL)
        wait_until(lambda: len(pauses) > count)
        assert pauses[count] == 0.0


def test_F123_a_worker_that_never_starts(bundle: Bundle, fault: Callable[[str], object]) -> None:
    fault("cannot load")
    engine = RemoteEngine(start_of(bundle), CountingMetrics())
    engine.start()
    with pytest.raises(DeviceError, match="ended with exit code 3: no such card"):
        engine.wait()
    engine.stop(0)


def test_F123_a_worker_that_hangs_while_it_loads_is_replaced(
    bundle: Bundle, fault: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper_module, "LOAD_SECONDS", 1.0)
    with working(start_of(bundle)) as engine:
        engine._keeper._load_seconds = 0.3  # the limit is ten times that
        fault("deaf")
        os.kill(engine.pid or 0, signal.SIGKILL)
        assert submit_when_ready(engine, request()).finish_reason == "length"
        assert "the device's process does not serve after 3 s" in caplog.text
        assert engine.restarts == 1


def test_F124_stop_in_every_state(bundle: Bundle, fault: Callable[[str], object]) -> None:
    engine = RemoteEngine(start_of(bundle), CountingMetrics())
    engine.start()  # and nobody has waited for it
    engine.stop(0)
    assert engine.pid is None
    with working(start_of(bundle)) as engine:
        pid, one = engine.pid, last_of_many(engine)
        engine.stop(0)
        while not (event := one.inbox.get(timeout=SECONDS)).finished:
            pass
        assert event.finish_reason == "cancelled"
        with pytest.raises(EngineBusyError, match="the server is stopping"):
            engine.submit(request())
        assert not engine.stats().running
    assert not Path(f"/proc/{pid}").exists()
    fault("stop:2")
    with working(start_of(bundle)) as engine:
        pid, one = engine.pid, engine.submit(long_request())
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T")
        began = time.monotonic()
        engine.stop(0)
        assert time.monotonic() - began < 15
        assert str(ended(one).error) == "the server is stopping"
    assert not Path(f"/proc/{pid}").exists()


def test_F124_requests_in_flight_may_end_before_it_stops(bundle: Bundle) -> None:
    with working(start_of(bundle)) as engine:
        one = engine.submit(long_request())
        one.inbox.get(timeout=SECONDS)
        engine.stop(SECONDS)
        assert (one.state().finish_reason, len(one.state().tokens)) == ("length", LONG)


PARENT = """
import sys, time
from rocmforge.runtime.engine.worker import spawn
spawn.MODULE = {module!r}
worker = spawn.WorkerProcess()
print(worker.pid, flush=True)
{then}
"""


@pytest.mark.parametrize("deaf", [False, True], ids=["F125-it-listens", "F125-it-does-not"])
@pytest.mark.parametrize(
    "then", ["time.sleep(3600)", "import os; os._exit(0)", "import os; os.abort()"], ids=["killed", "exits", "aborts"]
)
def test_no_worker_outlives_its_server(fault: Callable[[str], object], then: str, deaf: bool) -> None:
    if deaf:
        fault("deaf")
    code = PARENT.format(module=faulty_worker.__name__, then=then)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    if deaf and "sleep" in then:
        wait_until(lambda: not Path(os.environ[faulty_worker.VARIABLE]).exists())
    parent.kill()
    parent.communicate(timeout=SECONDS)
    wait_until(lambda: not is_alive(pid))


def test_F125_a_server_that_ends_before_its_worker_can_say_so() -> None:
    """The system would end the worker with its server, but for one that has gone already."""
    code = "from rocmforge.runtime.engine.worker.spawn import begin; begin(0, 1, 'no.such.module')"
    assert subprocess.run([sys.executable, "-c", code], timeout=SECONDS, check=False).returncode == 1


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Iterator[Bundle]:
    with open_bundle(Path(shutil.copytree(bundle.path, tmp_path / "copy.rfb"))) as opened:
        yield opened


def test_F126_torn_weights_cost_a_worker(copied: Bundle) -> None:
    weights = copied.path / "weights.bin"
    sound = weights.read_bytes()
    with working(start_of(copied)) as engine:
        greedy = request(sampling=SamplingParams(0.0))
        expected = ended(engine.submit(greedy))
        waiting = last_of_many(engine)
        os.truncate(weights, 1000)
        assert "weights.bin: expected" in str(ended(waiting).error)
        wait_until(lambda: "weights.bin: expected" in str(engine.stats().problem))
        wrong = bytearray(sound)
        wrong[len(wrong) // 2] ^= 1
        weights.write_bytes(wrong)  # as long as it was: all of it must be read to see it
        wait_until(lambda: "weights.bin: expected sha256" in str(engine.stats().problem))
        weights.write_bytes(sound)
        assert submit_when_ready(engine, greedy).tokens == expected.tokens


def test_F126_another_bundle_in_its_place_is_not_served(
    copied: Bundle, small_other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with working(start_of(copied)) as engine:
        shutil.rmtree(copied.path)
        shutil.copytree(small_other, copied.path)
        assert ended(engine.submit(request())).finish_reason == "length"  # the old one is mapped
        os.kill(engine.pid or 0, signal.SIGKILL)
        wait_until(lambda: "digest: expected sha256:" in str(engine.stats().problem))
        assert not engine.stats().running


@pytest.fixture(scope="session")
def small_other(tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache) -> Path:
    """The bundle of another generated model."""
    path = write_model(tmp_path_factory.mktemp("other") / "other.gguf", context_length=128)
    with compiled(path, build_cache) as opened:
        return opened.path


# Again and again.


def survive_kills(bundle: Bundle, kills: int) -> None:
    """kill -9 of the worker in random moments under load; memory and descriptors come back."""
    judge, chooser = Judge(), random.Random(7)
    requests = [request(5 + n, 10 + 7 * n, sampling=SamplingParams(1.0, seed=n), ignore_eos=True) for n in range(8)]
    lock, stopping = threading.Lock(), threading.Event()
    recovered: list[float] = []
    with working(start_of(bundle), judge.metrics, observer=judge.told.append) as engine:
        expected = [judge.judge(ended(engine.submit(one))).tokens for one in requests]
        gc.collect()  # what earlier tests left is no part of it
        before = held_by(os.getpid())

        def load(number: int) -> None:
            while not stopping.is_set():
                try:
                    state = ended(engine.submit(requests[number]))
                except EngineBusyError:
                    time.sleep(0.002)
                    continue
                with lock:
                    judge.judge(state)
                assert state.tokens == expected[number][: len(state.tokens)]
                assert (state.finish_reason == "length") == (state.tokens == expected[number])
                if state.error is not None:
                    assert "was killed by SIGKILL" in str(state.error)

        threads = [threading.Thread(target=load, args=(number,)) for number in range(len(requests))]
        for thread in threads:
            thread.start()
        for _ in range(kills):
            time.sleep(chooser.uniform(0, 0.5))
            pid = engine.pid
            if pid is None:
                continue
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            wait_until(lambda lost=pid: engine.pid not in (None, lost) and engine.serving)  # type: ignore[misc]
            recovered.append(time.monotonic() - killed)
        stopping.set()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        assert judge.judge(submit_when_ready(engine, requests[0])).tokens == expected[0]
        wait_until(lambda: engine.load == 0)
        after = held_by(os.getpid())
        assert (after.descriptors, after.threads) == (before.descriptors, before.threads)
        assert after.anonymous - before.anonymous < 50
        stats = engine.stats()
        assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)
    judge.agree()
    assert judge.outcomes["failed"] > 0
    print(f"serves again after {sorted(recovered)[len(recovered) // 2]:.2f} s (median), {max(recovered):.2f} (longest)")


def test_F120_killed_in_random_moments(bundle: Bundle) -> None:
    survive_kills(bundle, 5)


@pytest.mark.nightly
def test_F120_killed_in_fifty_random_moments(bundle: Bundle) -> None:
    survive_kills(bundle, 50)


# Several devices.


def test_F127_one_of_two_devices_is_lost(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "RESTART_SECONDS", (3600.0,))
    first, second = (RemoteEngine(start_of(bundle), CountingMetrics()) for _ in range(2))
    both = RoutedEngine([first, second])
    both.start()
    both.wait()
    try:
        greedy = request(sampling=SamplingParams(0.0))
        expected = ended(both.submit(greedy)).tokens
        os.kill(first.pid or 0, signal.SIGKILL)
        wait_until(lambda: not first.serving)
        stats = both.stats()
        assert (stats.running, stats.problem) == (True, None)
        assert [(one.running, one.problem) for one in stats.devices] == [
            (False, "the device's process was killed by SIGKILL"),
            (True, None),
        ]
        assert [ended(both.submit(greedy)).tokens for _ in range(3)] == [expected] * 3
        os.kill(second.pid or 0, signal.SIGKILL)
        wait_until(lambda: not second.serving)
        assert not both.stats().running
        with pytest.raises(EngineBusyError, match="killed by SIGKILL"):
            both.submit(request())
    finally:
        both.stop(0)


def test_requests_go_where_their_prefix_is(bundle: Bundle) -> None:
    size = bundle.layout.kv.block_size
    ids = itertools.count(1)
    engines = [RemoteEngine(start_of(bundle), CountingMetrics(), request_ids=ids) for _ in range(2)]
    both = RoutedEngine(engines)
    both.start()
    both.wait()
    try:
        where = []
        prompts = [tuple(range(3 + n, 3 + n + 4 * size)) for n in range(2)]
        blockers = engines[0].submit_all([long_request(n) for n in range(20)])  # so that the second is the less loaded
        state = ended(both.submit(request(prompts[0], 2)))
        where.append([engine.find(state.request_id) is not None for engine in engines])
        for one in blockers:
            one.cancel()
        for one in blockers:
            wait_until(lambda one=one: one.state().finished)  # type: ignore[misc]
        for prompt in (prompts[0], prompts[1], (*prompts[0], 5, 6, 7)):
            state = ended(both.submit(request(prompt, 2)))
            where.append([engine.find(state.request_id) is not None for engine in engines])
            if prompt is not prompts[1]:
                assert state.cached_tokens >= 3 * size
        assert where == [[False, True], [False, True], [True, False], [False, True]]
        state = ended(both.submit(request(prompts[0], 2, cache_space="another")))
        assert state.cached_tokens == 0
        blockers = engines[1].submit_all([long_request(n) for n in range(4 * engines[1].max_sequences)])
        state = ended(both.submit(request(prompts[0], 2)))  # it has the prefix, and no room
        assert engines[0].find(state.request_id) is not None
        for one in blockers:
            one.cancel()
        assert both.stats().pages_total == 2 * engines[0].stats().pages_total
    finally:
        both.stop(0)
