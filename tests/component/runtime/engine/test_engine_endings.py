"""Requests that end early: cancelled, failed by their device, or stopped with the engine."""

from __future__ import annotations

import threading

import pytest

from rocmforge.artifacts.errors import DeviceError, EngineBusyError
from rocmforge.runtime.device.batch import Batch
from rocmforge.runtime.engine import engine as engine_module
from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import SamplingParams
from rocmforge.runtime.engine.scheduler import Chunk
from rocmforge.tests.support.engine_harness import (
    CONTEXT,
    SECONDS,
    CountingMetrics,
    ScriptedProgram,
    ended,
    request,
    serving,
    wait_until,
)
from rocmforge.tests.support.tokenizers import TINY


def test_F69_no_memory_to_choose_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    program = ScriptedProgram(gated=True)
    with serving(program) as engine:
        running, choose = engine.submit(request(3, 100)), engine._scheduler.next_chunks
        program.wait_for_step()
        waiting = engine.submit(request())

        def fails() -> list[Chunk]:
            monkeypatch.setattr(engine._scheduler, "next_chunks", choose)
            raise MemoryError

        monkeypatch.setattr(engine._scheduler, "next_chunks", fails)
        program.open()
        for one in (running, waiting):
            state = ended(one)
            assert (state.finish_reason, str(state.error)) == ("failed", "internal error: MemoryError()")
        assert ended(engine.submit(request())).finish_reason == "length"
        assert (engine.stats().running, engine.stats().pages_used) == (True, 0)


def test_F55_cancel_in_the_queue() -> None:
    program = ScriptedProgram(num_blocks=1, gated=True)
    with serving(program) as engine:
        running, waiting = engine.submit(request()), engine.submit(request())
        program.wait_for_step()
        waiting.cancel()
        program.let(1)
        assert ended(waiting).finish_reason == "cancelled"
        assert len(program.batches) <= 2
        assert (engine.stats().queued, engine.stats().pages_used) == (0, 1)
        program.open()
        assert ended(running).finish_reason == "length"


def test_F55_cancel_in_prefill_gives_the_pages_back_within_a_step() -> None:
    program = ScriptedProgram(gated=True)
    with serving(program) as engine:
        generation = engine.submit(request(150, 10))
        program.wait_for_step()
        program.let(1)
        program.wait_for_step()  # the second chunk of five
        assert engine.stats().pages_used == 10
        generation.cancel()
        program.let(1)
        state = ended(generation)
        assert (state.finish_reason, state.tokens) == ("cancelled", ())
        assert engine.stats().pages_used == 0
        assert len(program.batches) == 2


def test_F55_cancel_in_decode_gives_the_pages_back_within_a_step() -> None:
    program = ScriptedProgram(gated=True)
    metrics = CountingMetrics()
    with serving(program, metrics=metrics) as engine:
        generation, other = engine.submit(request(3, 100)), engine.submit(request(3, 6))
        for _ in range(3):
            program.wait_for_step()
            program.let(1)
        program.wait_for_step()
        generation.cancel()
        program.let(1)
        state = ended(generation)
        assert state.finish_reason == "cancelled"
        assert 1 <= len(state.tokens) <= 4
        assert engine.stats().pages_used == 1  # of the other
        program.open()
        assert ended(other).finish_reason == "length"
        generation.cancel()  # harmless
        assert ended(engine.submit(request())).finish_reason == "length"
        assert engine.stats().pages_used == 0
    assert metrics.finished == {"cancelled": 1, "length": 2}


@pytest.mark.parametrize(
    "error, message",
    [
        pytest.param(DeviceError("hipErrorLaunchFailure: the kernel died"), "hipErrorLaunchFailure", id="F74-device"),
        pytest.param(MemoryError(), "internal error: MemoryError()", id="F69-memory"),
        pytest.param(ValueError("two\nlines"), "internal error: ValueError('two", id="defect"),
    ],
)
def test_a_failed_step_fails_its_requests_alone(error: Exception, message: str) -> None:
    def script(batch: Batch) -> list[int]:
        if 255 in batch.token_ids:
            raise error
        return [2 + ord("x")] * len(batch.logits_rows)

    program = ScriptedProgram(script, num_blocks=3, gated=True)
    metrics = CountingMetrics()
    with serving(program, metrics=metrics) as engine:
        first = engine.submit(request(3))
        program.wait_for_step()  # the others meet it in the second step
        bad, beside = engine.submit(request((5, 255))), engine.submit(request(3))
        waiting = engine.submit(request(3))  # no page is left for it: not in the step that fails
        program.open()
        for generation in (first, bad, beside):
            state = ended(generation)
            assert state.finish_reason == "failed"
            assert state.error is not None
            assert message in state.error.message
            assert state.error.message.isprintable()
        assert first.state().text == "x"
        assert ended(waiting).finish_reason == "length"
        assert ended(engine.submit(request())).finish_reason == "length"
        stats = engine.stats()
        assert (stats.running, stats.pages_used, stats.active) == (True, 0, 0)
    assert metrics.finished == {"failed": 3, "length": 2}


def test_a_failed_step_leaves_nothing_in_the_cache_that_is_trusted() -> None:
    """What the device wrote before it failed is not known: prompts are computed again from their beginning."""

    def script(batch: Batch) -> list[int]:
        if 255 in batch.token_ids:
            raise ValueError("failed")
        return [2 + ord("x")] * len(batch.logits_rows)

    with serving(ScriptedProgram(script)) as engine:
        assert ended(engine.submit(request(24, 1))).cached_tokens == 0
        assert ended(engine.submit(request(24, 1))).cached_tokens == 16
        assert engine.stats().pages_cached > 0
        assert ended(engine.submit(request((5, 255)))).finish_reason == "failed"
        assert engine.stats().pages_cached == 0
        assert ended(engine.submit(request(24, 1))).cached_tokens == 0


def test_a_step_with_too_few_tokens_fails_those_that_got_none() -> None:
    program = ScriptedProgram(lambda batch: [2 + ord("x")] * min(2, len(batch.logits_rows)), gated=True)
    with serving(program) as engine:
        first = engine.submit(request(3, 5))
        program.wait_for_step()
        second, third = engine.submit(request(3, 1)), engine.submit(request(3, 1))
        program.open()
        assert ended(second).finish_reason == "length"  # taken before the lack was seen
        for generation in (first, third):
            state = ended(generation)
            assert state.finish_reason == "failed"
            assert state.error is not None
            assert state.error.message.startswith("internal error: ValueError")
        assert ended(engine.submit(request())).finish_reason == "length"
        assert engine.stats().pages_used == 0


def test_F76_a_row_of_NaN_fails_its_request_alone() -> None:
    def script(batch: Batch) -> list[int]:
        return [-1 if row.seed == 666 and row.counter == 2 else 2 + ord("x") for row in batch.sampling]

    metrics = CountingMetrics()
    with serving(ScriptedProgram(script), metrics=metrics) as engine:
        good = engine.submit(request(3, 20, sampling=SamplingParams(seed=1)))
        bad = engine.submit(request(3, 20, sampling=SamplingParams(seed=666)))
        state = ended(bad)
        assert (state.finish_reason, state.text) == ("failed", "xx")
        assert state.error is not None
        assert "not finite" in state.error.message
        assert ended(good).text == "x" * 20
        assert engine.stats().pages_used == 0
    assert metrics.finished == {"failed": 1, "length": 1}
    assert metrics.tokens == 22


def test_stop_lets_requests_finish() -> None:
    program = ScriptedProgram(gated=True)
    engine = Engine(program, TINY, CONTEXT, CountingMetrics())
    engine.start()
    generations = [engine.submit(request()) for _ in range(12)]  # 8 run, 4 wait
    program.wait_for_step()
    stopping = threading.Thread(target=engine.stop, args=(SECONDS,))
    stopping.start()
    wait_until(lambda: not engine.stats().running)
    with pytest.raises(EngineBusyError, match="stopping"):
        engine.submit(request())
    program.open()
    stopping.join(SECONDS)
    assert not stopping.is_alive()
    assert [ended(generation).finish_reason for generation in generations] == ["length"] * 12
    assert program.closed == 1


def test_stop_cancels_what_does_not_finish_in_time() -> None:
    program = ScriptedProgram(gated=True)
    engine = Engine(program, TINY, CONTEXT, CountingMetrics())
    engine.start()
    generations = [engine.submit(request(3, 200)) for _ in range(12)]
    program.wait_for_step()
    stopping = threading.Thread(target=engine.stop, args=(0.05,))
    stopping.start()
    wait_until(lambda: generations[0].cancel_requested)
    program.let(1)
    stopping.join(SECONDS)
    assert [ended(generation).finish_reason for generation in generations] == ["cancelled"] * 12
    assert len(program.batches) == 1
    assert (program.closed, engine.stats().pages_used) == (1, 0)


def test_F75_stop_does_not_wait_for_a_device_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "CANCEL_SECONDS", 0.05)
    program = ScriptedProgram(gated=True)
    engine = Engine(program, TINY, CONTEXT, CountingMetrics())
    engine.start()
    generation = engine.submit(request())
    program.wait_for_step()
    engine.stop(0.05)
    assert program.closed == 0  # its memory may still be in use
    program.open()
    assert ended(generation).finish_reason == "cancelled"
    engine.stop(SECONDS)
    assert program.closed == 1


def test_stop_without_work_or_start() -> None:
    for start in (True, False):
        program = ScriptedProgram()
        engine = Engine(program, TINY, CONTEXT, CountingMetrics())
        if start:
            engine.start()
        engine.stop(SECONDS)
        assert program.closed == 1
        assert not engine.stats().running
