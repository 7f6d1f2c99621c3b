"""Steps that fail, hang or give nonsense, devices that are lost, and time that runs out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import BundleError, DeviceError, EngineBusyError
from rocmforge.runtime.device.batch import Batch, Program, UInt32
from rocmforge.runtime.engine import recovery as recovery_module
from rocmforge.runtime.engine.engine import Engine, EngineLimits
from rocmforge.runtime.engine.generation import Constraint
from rocmforge.runtime.engine.lifecycle import RequestEvent
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import (
    SECONDS,
    CountingMetrics,
    ScriptedProgram,
    ended,
    load,
    request,
    serving,
    wait_until,
)
from rocmforge.tests.support.faulty_program import survive_failures
from rocmforge.tests.support.tokenizers import TINY


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts at a new program, and looks of the watchdog, follow each other at once."""
    monkeypatch.setattr(recovery_module, "REBUILD_SECONDS", (0.02,))
    monkeypatch.setattr(recovery_module, "LOOK_SECONDS", 0.02)


# Time.


def test_a_time_limit_ends_a_request_within_a_step() -> None:
    program = ScriptedProgram(gated=True)
    with serving(program) as engine:
        limited, other = engine.submit(request(3, 100, deadline_seconds=0.1)), engine.submit(request(3, 3))
        program.wait_for_step()
        time.sleep(0.11)
        program.let(1)
        state = ended(limited)
        assert (state.finish_reason, str(state.error)) == ("cancelled", "the request's time limit of 0.1 s has passed")
        assert len(state.tokens) <= 1
        program.open()
        assert ended(other).finish_reason == "length"
        assert engine.stats().pages_used == 0


def test_a_time_limit_counts_in_the_queue_too() -> None:
    program = ScriptedProgram(num_blocks=1, gated=True)
    with serving(program) as engine:
        running = engine.submit(request())
        program.wait_for_step()
        waiting = engine.submit(request(deadline_seconds=0.05))
        time.sleep(0.06)
        program.let(1)
        assert ended(waiting).finish_reason == "cancelled"
        program.open()
        assert ended(running).finish_reason == "length"


def test_the_queue_is_not_waited_in_for_ever() -> None:
    program = ScriptedProgram(num_blocks=1, gated=True)
    with serving(program, limits=EngineLimits(queue_seconds=0.05)) as engine:
        running = engine.submit(request())
        program.wait_for_step()
        waiting = engine.submit(request())
        time.sleep(0.06)
        program.let(1)
        state = ended(waiting)
        assert (state.finish_reason, str(state.error)) == ("failed", "waited 0.05 s in the queue")
        program.open()
        assert ended(running).finish_reason == "length"  # it has begun: its time is its own


def test_clients_are_served_in_turn() -> None:
    events: list[RequestEvent] = []
    program = ScriptedProgram(num_blocks=1, gated=True)
    with serving(program, observer=events.append) as engine:
        many = [engine.submit(request(client="many")) for _ in range(5)]
        program.wait_for_step()
        one = engine.submit(request(client="one"))
        program.open()
        for generation in (*many, one):
            ended(generation)
    order = [event.request_id for event in events if event.kind == "admitted"]
    assert order.index(one.request_id) <= 2


def test_an_observer_that_fails_stops_nothing() -> None:
    def observe(event: RequestEvent) -> None:
        raise ZeroDivisionError

    with serving(ScriptedProgram(), observer=observe) as engine:
        assert ended(engine.submit(request())).finish_reason == "length"


# A device that is lost.


def failing_once(error: Exception) -> Callable[[Batch], list[int]]:
    errors = [error]

    def script(batch: Batch) -> list[int]:
        if errors:
            raise errors.pop()
        return [2 + ord("x")] * len(batch.logits_rows)

    return script


def test_F77_a_lost_device_is_set_up_again() -> None:
    lost = ScriptedProgram(failing_once(DeviceError("hipErrorNoDevice: gone")), gated=True)
    fresh, attempts = ScriptedProgram(), 0
    allowed = threading.Event()

    def make() -> Program:
        nonlocal attempts
        attempts += 1
        assert lost.closed == 1  # its memory is free before more is taken
        if not allowed.is_set():
            raise DeviceError("still gone")
        return fresh

    with serving(lost, make_program=make) as engine:
        failing = [engine.submit(request(20 + n)) for n in range(3)]
        lost.wait_for_step()
        queued = [engine.submit(request()) for _ in range(9)]
        cancelled = engine.submit(request())
        late = engine.submit(request(deadline_seconds=0.15))
        lost.open()
        # The first step had room for one prompt and a part of the next; the third was not in it.
        assert "hipErrorNoDevice" in str(ended(failing[0]).error)
        wait_until(lambda: attempts >= 2)
        stats = engine.stats()
        assert (stats.running, stats.device_available, stats.memory_total_bytes) == (False, False, 0)
        with pytest.raises(EngineBusyError, match="hipErrorNoDevice: gone"):
            engine.submit(request())
        cancelled.cancel()
        assert ended(cancelled).finish_reason == "cancelled"
        assert ended(late).finish_reason == "cancelled"
        allowed.set()
        assert [ended(generation).finish_reason for generation in queued] == ["length"] * 9
        stats = engine.stats()
        assert (stats.running, stats.device_available, stats.memory_total_bytes) == (True, True, 2)
        assert ended(engine.submit(request())).finish_reason == "length"
        assert stats.pages_used == 0
    assert (lost.closed, fresh.closed) == (1, 1)


def test_requests_that_no_longer_fit_say_so() -> None:
    lost = ScriptedProgram(failing_once(DeviceError("gone")), gated=True)
    with serving(lost, make_program=lambda: ScriptedProgram(num_blocks=2)) as engine:
        first = engine.submit(request())
        lost.wait_for_step()
        large, small = engine.submit(request(30, 10)), engine.submit(request(20, 10))
        lost.open()
        assert ended(first).finish_reason == "failed"
        assert str(ended(large).error) == "needs 3 KV blocks, the cache has 2"
        assert ended(small).finish_reason == "length"


def test_a_request_that_no_longer_fits_when_its_mask_is_made_is_refused() -> None:
    """The device is lost, and there again with less memory, between the request's check and its place in the queue."""
    lost = ScriptedProgram(failing_once(DeviceError("gone")), gated=True)
    with serving(lost, make_program=lambda: ScriptedProgram(num_blocks=2)) as engine:

        class SlowConstraint:
            def mask(self) -> UInt32:
                assert ended(engine.submit(request())).finish_reason == "failed"
                wait_until(lambda: engine.stats().pages_total == 2)
                return np.full(-(-engine.vocab_size // 32), 2**32 - 1, np.uint32)

        lost.open()
        with pytest.raises(EngineBusyError, match=r"^needs 3 KV blocks, the cache has 2$"):
            engine.submit(request(30, 10, constraint=cast(Constraint, SlowConstraint())))
        assert ended(engine.submit(request(20, 10))).finish_reason == "length"


def test_stop_while_there_is_no_device() -> None:
    def make() -> Program:
        raise DeviceError("still gone")

    lost = ScriptedProgram(failing_once(DeviceError("gone")), gated=True)
    engine = Engine(lost, TINY, 256, CountingMetrics(), make_program=make)
    engine.start()
    first = engine.submit(request())
    lost.wait_for_step()
    second = engine.submit(request())
    lost.open()
    assert ended(first).finish_reason == "failed"
    engine.stop(SECONDS)
    state = ended(second)
    assert (state.finish_reason, str(state.error)) == ("failed", "gone")
    assert lost.closed == 1


def test_F75_a_step_that_hangs_fails_and_another_program_goes_on() -> None:
    hung, fresh = ScriptedProgram(gated=True), ScriptedProgram()
    with serving(hung, limits=EngineLimits(step_seconds=0.1), make_program=lambda: fresh) as engine:
        victim = engine.submit(request())
        hung.wait_for_step()
        waiting = engine.submit(request())
        state = ended(victim)
        assert (state.finish_reason, str(state.error)) == ("failed", "the device did not finish its step within 0.1 s")
        assert ended(waiting).finish_reason == "length"
        assert (engine.stats().running, engine.stats().pages_used) == (True, 0)
        assert hung.closed == 0  # it may still be at work
        hung.open()
        wait_until(lambda: hung.closed == 1)
        assert victim.state() == state  # its late token is nobody's
        assert engine.stats().device_available
        assert ended(engine.submit(request())).finish_reason == "length"
    assert (len(hung.batches), fresh.closed) == (1, 1)


def test_F75_a_step_during_which_the_process_was_stopped_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, clock = [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + stopped[0])
    program = ScriptedProgram(gated=True)
    with serving(program, limits=EngineLimits(step_seconds=600)) as engine:
        slow = engine.submit(request())
        program.wait_for_step()
        stopped[0] += 3600
        time.sleep(0.1)  # the watchdog looks again and again
        program.open()
        assert ended(slow).finish_reason == "length"
        assert engine.stats().device_available


def test_F75_a_late_error_of_a_step_that_hung_fails_nobody_else() -> None:
    hung, fresh = ScriptedProgram(failing_once(DeviceError("too late")), gated=True), ScriptedProgram(gated=True)
    programs = iter([fresh])
    with serving(hung, limits=EngineLimits(step_seconds=0.1), make_program=lambda: next(programs)) as engine:
        victim = engine.submit(request())
        hung.wait_for_step()
        state = ended(victim)
        wait_until(lambda: engine.stats().device_available)
        hung.open()
        wait_until(lambda: hung.closed == 1)
        other = engine.submit(request())
        fresh.wait_for_step()
        fresh.open()
        assert ended(other).finish_reason == "length"
        assert victim.state() == state
        assert engine.stats().device_available


def test_F75_without_another_program_the_engine_waits_for_this_one() -> None:
    hung = ScriptedProgram(gated=True)
    with serving(hung, limits=EngineLimits(step_seconds=0.1)) as engine:
        victim = engine.submit(request())
        hung.wait_for_step()
        waiting, cancelled = engine.submit(request()), engine.submit(request())
        assert ended(victim).finish_reason == "failed"
        assert (engine.stats().running, engine.stats().device_available) == (False, False)
        with pytest.raises(EngineBusyError, match="did not finish its step"):
            engine.submit(request())
        cancelled.cancel()
        assert ended(cancelled).finish_reason == "cancelled"
        failed = victim.state()
        hung.open()
        assert ended(waiting).finish_reason == "length"
        assert (engine.stats().running, engine.stats().pages_used) == (True, 0)
        assert victim.state() == failed


# A bundle that is torn.

TORN = BundleError("m.rfb", "weights.bin", "expected 9 bytes, found 3")


def test_F79_a_torn_bundle_fails_all_and_comes_back_when_it_is_whole() -> None:
    torn, fresh, whole = ScriptedProgram(gated=True, num_blocks=2), ScriptedProgram(), threading.Event()

    def script(_: Batch) -> list[int]:
        raise TORN

    torn._script = script

    def make() -> Program:
        if not whole.is_set():
            raise TORN
        return fresh

    with serving(torn, make_program=make) as engine:
        running = engine.submit(request(20, 10))
        torn.wait_for_step()
        waiting = [engine.submit(request(20, 10)) for _ in range(3)]
        torn.let(1)
        for generation in (running, *waiting):
            state = ended(generation)
            assert (state.finish_reason, str(state.error)) == ("failed", str(TORN))
        stats = engine.stats()
        assert (stats.running, stats.problem, stats.pages_used) == (False, str(TORN), 0)
        with pytest.raises(EngineBusyError, match=r"weights\.bin: expected 9 bytes, found 3"):
            engine.submit(request())
        whole.set()
        wait_until(lambda: engine.stats().running)
        assert engine.stats().problem is None
        assert ended(engine.submit(request())).finish_reason == "length"
    assert (torn.closed, fresh.closed) == (1, 1)


def test_F79_a_bundle_torn_while_nobody_asks_is_noticed() -> None:
    torn, fresh = ScriptedProgram(), ScriptedProgram()
    with serving(torn, make_program=lambda: fresh) as engine:
        assert ended(engine.submit(request())).finish_reason == "length"
        torn.problem = TORN
        wait_until(lambda: torn.closed == 1)
        wait_until(lambda: engine.stats().running)
        assert ended(engine.submit(request())).finish_reason == "length"
    assert (len(fresh.batches) > 0, fresh.closed) == (True, 1)


def test_F79_without_another_program_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    torn = ScriptedProgram()
    torn.problem = TORN
    with serving(torn) as engine:
        wait_until(lambda: engine.stats().problem is not None)
        time.sleep(0.1)  # several looks
        assert engine.stats().problem == str(TORN)
    assert [record.getMessage() for record in caplog.records].count(f"step failed: {TORN}") == 1


# A real program whose steps fail at random.


@pytest.mark.parametrize("draft_tokens", [0, 4], ids=["", "drafts"])
@pytest.mark.parametrize("rebuilt", [True, False], ids=["F77-rebuilt", "F74-same-program"])
def test_a_hundred_failures_and_every_request_ends_once(
    bundle: Bundle, tokenizer: Tokenizer, rebuilt: bool, draft_tokens: int
) -> None:
    survive_failures(
        lambda: load(bundle, 64),
        lambda: load(bundle, 24, max_batch_tokens=40),
        tokenizer,
        90,
        rebuilt,
        EngineLimits(draft_tokens=draft_tokens),
    )
