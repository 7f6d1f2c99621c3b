"""The engine: on a real program, and on programs that do what a test needs of them."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import EngineBusyError, RequestError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.engine import request_table
from rocmforge.runtime.engine.engine import Engine, EngineLimits
from rocmforge.runtime.engine.generation import EngineStats, GenerationRequest, SamplingParams, events_of
from rocmforge.runtime.serve import random_id
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import (
    CONTEXT,
    EOS,
    SECONDS,
    CountingMetrics,
    ScriptedProgram,
    assorted_requests,
    ended,
    load,
    request,
    serving,
    wait_until,
)
from rocmforge.tests.support.programs import compiled
from rocmforge.tests.support.tokenizers import TINY
from rocmforge.tools.generate.fixtures import write_model


def test_each_request_of_a_batch_gets_what_it_gets_alone(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """Alone, whole prompts, one thread; then together, prompts in chunks of up to 24, a KV cache too small for all."""
    requests = assorted_requests(tokenizer)
    with serving(load(bundle, 16, 1), tokenizer) as engine:
        alone = [ended(engine.submit(one)) for one in requests]
    assert {state.finish_reason for state in alone} >= {"length"}
    assert all(state.tokens for state in alone)
    program = load(bundle, 40, 2, max_batch_tokens=24, max_sequences=6)
    metrics = CountingMetrics()
    with serving(program, tokenizer, metrics=metrics) as engine:
        together = [ended(generation) for generation in [engine.submit(one) for one in requests]]
        stats = engine.stats()
    for one, other in zip(alone, together, strict=True):
        assert dataclasses.replace(other, request_id=one.request_id) == one
    assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)
    assert (metrics.started, sum(metrics.finished.values())) == (25, 25)
    assert metrics.tokens == sum(len(state.tokens) for state in together)
    assert metrics.observed == dict.fromkeys(("prefill", "decode", "total", "ttft"), 25)


def test_max_tokens_and_a_full_context(bundle: Bundle, tokenizer: Tokenizer) -> None:
    with serving(load(bundle, 16), tokenizer) as engine:
        for prompt, more in ((1, 1), (3, 7), (CONTEXT - 1, 1), (200, 56), (1, CONTEXT - 1)):
            sampling = SamplingParams(0.0)
            state = ended(engine.submit(request(prompt, more, sampling=sampling, ignore_eos=True)))
            assert (len(state.tokens), state.finish_reason) == (more, "length")
            assert state.text == tokenizer.decode(state.tokens)


def test_a_request_of_no_tokens_has_its_prompt_computed(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """In several steps, to the end of the context; those that come after find its pages."""
    metrics = CountingMetrics()
    with serving(load(bundle, 40, max_batch_tokens=32), tokenizer, metrics=metrics) as engine:
        for prompt in (1, 70, CONTEXT):
            state = ended(engine.submit(request(prompt, 0)))
            assert (state.finish_reason, state.tokens, state.text) == ("length", (), "")
            assert state.prompt_tokens == prompt
        assert ended(engine.submit(request(70, 1))).cached_tokens == 64
        assert engine.stats().pages_used == 0
    assert metrics.finished == {"length": 4}
    assert sum(tokens for _, tokens in metrics.steps) == 1 + 70 + CONTEXT - 64 + 70 - 64
    assert metrics.tokens == 1


def test_stop_strings_cut_the_text(bundle: Bundle, tokenizer: Tokenizer) -> None:
    with serving(load(bundle, 16), tokenizer) as engine:
        sampling = SamplingParams(1.0, seed=3)
        whole = ended(engine.submit(request(5, 60, sampling=sampling, ignore_eos=True)))
        stop = whole.text[20:23]
        state = ended(engine.submit(request(5, 60, sampling=sampling, ignore_eos=True, stop=(stop,))))
    assert (state.text, state.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    assert state.tokens == whole.tokens[: len(state.tokens)]
    assert len(state.tokens) < len(whole.tokens)


def test_a_seed_is_drawn_where_none_is_given(bundle: Bundle, tokenizer: Tokenizer) -> None:
    with serving(load(bundle, 64), tokenizer) as engine:
        one = request(5, 30, sampling=SamplingParams(2.0), ignore_eos=True)
        found = {ended(engine.submit(one)).tokens for _ in range(4)}
    assert len(found) == 4


def test_F76_a_real_model_of_NaN_fails_its_requests(
    tokenizer: Tokenizer, build_cache: BuildCache, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model.gguf", context_length=CONTEXT)
    with compiled(path, build_cache) as made:
        norm = next(entry for entry in made.layout.tensors if "output_norm" in entry.name)
        with (made.path / "weights.bin").open("r+b") as weights:
            weights.seek(norm.offset)
            weights.write(np.full(norm.n_bytes // 4, np.nan, np.float32).tobytes())
    with open_bundle(path.with_suffix(".rfb")) as broken, serving(load(broken, 16), tokenizer) as engine:
        for sampling in (SamplingParams(0.0), SamplingParams(1.0)):
            state = ended(engine.submit(request(sampling=sampling)))
            assert (state.finish_reason, state.tokens) == ("failed", ())
            assert str(state.error) == "the model's logits are not finite numbers (NaN or infinity)"
        assert engine.stats().pages_used == 0


# Scripted programs.


def test_eos_and_ignore_eos() -> None:
    script = [2 + ord("a"), EOS, 2 + ord("b"), 2 + ord("c")]
    with serving(ScriptedProgram(lambda batch: [script[row.counter] for row in batch.sampling])) as engine:
        state = ended(engine.submit(request()))
        assert (state.tokens, state.text, state.finish_reason) == (tuple(script[:2]), "a", "eos")
        state = ended(engine.submit(request(ignore_eos=True)))
        assert (state.tokens, state.text, state.finish_reason) == (tuple(script), "abc", "length")


@pytest.mark.parametrize(
    "one, parameter",
    [
        pytest.param(request((), 1), "prompt", id="empty"),
        pytest.param(request((2, -1), 1), "prompt", id="F49-negative"),
        pytest.param(request((2, TINY.config.vocab_size), 1), "prompt", id="F49-past-the-vocabulary"),
        pytest.param(request((2, 10**30), 1), "prompt", id="F49-huge"),
        pytest.param(request(CONTEXT, 1), "max_tokens", id="F48-prompt-fills-the-context"),
        pytest.param(request((2,) * 100_000, 1), "max_tokens", id="F48-prompt-far-past-the-context"),
        pytest.param(request(1, CONTEXT), "max_tokens", id="F48-with-max-tokens"),
        pytest.param(request(1, 10**30), "max_tokens", id="F46-huge"),
        pytest.param(request(1, -5), "max_tokens", id="F46-negative"),
        pytest.param(request(100, 60), "max_tokens", id="more-than-the-whole-cache"),
    ],
)
def test_requests_that_cannot_be_served(one: GenerationRequest, parameter: str) -> None:
    metrics = CountingMetrics()
    with serving(ScriptedProgram(num_blocks=9), metrics=metrics) as engine:
        with pytest.raises(RequestError) as caught:
            engine.submit(one)
        assert caught.value.parameter == parameter
        assert metrics.started == 0
        assert ended(engine.submit(request(140, 4))).finish_reason == "length"  # 144 tokens: 9 blocks


@pytest.mark.parametrize(
    ("one", "problem"),
    [
        (request((), 1), "prompt: expected at least one token, found none"),
        (request((-1,), 1), "prompt: expected token ids from 0 to {vocab}"),
        (request(1, -1), "max_tokens: expected at least 0, found -1"),
        (request(200, 57), "max_tokens: prompt (200) and max_tokens (57) exceed a context of 256"),
        (request(100, 45), "max_tokens: needs 10 KV blocks, the cache has 9"),
    ],
)
def test_refusals_in_words(one: GenerationRequest, problem: str) -> None:
    with serving(ScriptedProgram(num_blocks=9)) as engine:
        with pytest.raises(RequestError) as caught:
            engine.submit(one)
        assert str(caught.value) == problem.format(vocab=TINY.config.vocab_size - 1)
        last = request((0, TINY.config.vocab_size - 1), 0)
        assert ended(engine.submit(last)).finish_reason == "length"


def test_figures_of_an_engine() -> None:
    program = ScriptedProgram(num_blocks=20, gated=True)
    with serving(program, limits=EngineLimits(max_queue=2)) as engine:
        assert (engine.max_context, engine.vocab_size) == (CONTEXT, TINY.config.vocab_size)
        running = engine.submit(request(24, 3))
        program.wait_for_step()
        stats = engine.stats()
        assert stats == EngineStats(True, 1, 0, 2, 20, 1, stats.tokens_per_second, True, 1, 2)
        with pytest.raises(EngineBusyError, match=r"^the queue is full \(2 requests\)$"):
            engine.submit_all([request()] * 3)
        program.open()
        assert ended(running).finish_reason == "length"
        wait_until(lambda: engine.stats().pages_cached > 0)
        stats = engine.stats()
        assert (stats.active, stats.pages_used, stats.pages_total, stats.prefix_hit_tokens) == (0, 0, 20, 0)
        assert ended(engine.submit(request(24, 1))).cached_tokens == 16
        assert engine.stats().prefix_hit_tokens == 16
    assert not engine.stats().running


def test_F56_a_full_queue_is_an_error_until_there_is_room() -> None:
    program = ScriptedProgram(num_blocks=1, gated=True)
    with serving(program, limits=EngineLimits(max_queue=3)) as engine:
        running = engine.submit(request())
        program.wait_for_step()
        queued = [engine.submit(request()) for _ in range(3)]
        with pytest.raises(EngineBusyError, match="queue is full"):
            engine.submit(request())
        assert (engine.stats().active, engine.stats().queued) == (1, 3)
        program.open()
        for generation in (running, *queued):
            assert ended(generation).finish_reason == "length"
        assert ended(engine.submit(request())).finish_reason == "length"


def test_requests_submitted_together_share_their_events() -> None:
    script = [2 + ord(letter) for letter in "abcdef"]
    with serving(ScriptedProgram(lambda batch: [script[row.counter] for row in batch.sampling])) as engine:
        generations = engine.submit_all([request(3, n) for n in (1, 3, 6, 2)])
        events = [event for event in events_of(generations, 0.5) if event is not None]
    assert len(events) == 1 + 3 + 6 + 2
    for index, generation in enumerate(generations):
        own = [event for event in events if event.index == index]
        state = generation.state()
        assert "".join(event.text for event in own) == state.text == "abcdef"[: len(own)]
        assert [event.finished for event in own] == [False] * (len(own) - 1) + [True]
    # Decoded side by side: the first has its one token before the third has its sixth.
    assert [event.index for event in events if event.finished] == [0, 3, 1, 2]


def test_the_events_of_several_say_when_nothing_comes() -> None:
    program = ScriptedProgram(gated=True)
    with serving(program) as engine:
        events = events_of(engine.submit_all([request(3, 1), request(3, 1)]), 0.01)
        assert [next(events), next(events)] == [None, None]
        program.open()
        found = [event.index for event in events if event is not None]
        assert found == [0, 1]
    assert list(events_of([], 0.01)) == []


def test_all_requests_are_queued_or_none() -> None:
    program, metrics = ScriptedProgram(num_blocks=1, gated=True), CountingMetrics()
    with serving(program, metrics=metrics, limits=EngineLimits(max_queue=3)) as engine:
        running = engine.submit(request())
        program.wait_for_step()
        first = engine.submit(request())
        with pytest.raises(EngineBusyError, match="queue is full"):
            engine.submit_all([request()] * 3)
        with pytest.raises(RequestError):
            engine.submit_all([request(), request(1, -1)])
        assert (metrics.started, engine.stats().queued) == (2, 1)
        both = engine.submit_all([request()] * 2)
        program.open()
        assert {ended(one).finish_reason for one in (running, first)} == {"length"}
        assert [event.finish_reason for event in events_of(both) if event and event.finished] == ["length"] * 2
    assert metrics.started == 4


def test_finished_requests_are_known_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_table, "KEPT_FINISHED", 4)
    with serving(ScriptedProgram()) as engine:
        numbers = []
        for _ in range(10):
            generation = engine.submit(request())
            assert engine.find(generation.request_id) is generation
            numbers.append(ended(generation).request_id)
        assert len(set(numbers)) == 10
        assert [number for number in numbers if engine.find(number)] == numbers[-4:]
        assert engine.find(-1) is None


def test_a_running_request_is_known_however_many_have_ended_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_table, "KEPT_FINISHED", 3)
    program = ScriptedProgram(gated=True)
    with serving(program) as engine:
        oldest = engine.submit(request(3, 100))
        numbers = []
        for _ in range(6):
            short = engine.submit(request(3, 1))
            while not short.state().finished:
                program.let(1)
                time.sleep(0.001)
            numbers.append(short.request_id)
        assert not oldest.state().finished
        assert engine.find(oldest.request_id) is oldest
        assert [number for number in numbers if engine.find(number)] == numbers[-2:]
        program.open()
        assert ended(oldest).finish_reason == "length"


def test_many_threads_submit_cancel_and_look() -> None:
    """Queues and pool stay whole: every request ends once, every page comes back, no look at the engine fails."""
    metrics = CountingMetrics()
    program = ScriptedProgram(num_blocks=6)
    ends: list[str | None] = []
    problems: list[BaseException] = []

    def client(engine: Engine, number: int) -> None:
        random = np.random.default_rng(number)
        try:
            for _ in range(60):
                generation = engine.submit(request(int(random.integers(1, 60)), int(random.integers(1, 30))))
                if random.random() < 0.4:
                    generation.cancel()
                stats = engine.stats()
                assert 0 <= stats.pages_used <= 6
                assert stats.active <= 6
                ends.append(ended(generation).finish_reason)
        except BaseException as error:
            problems.append(error)

    with serving(program, metrics=metrics) as engine:
        threads = [threading.Thread(target=client, args=(engine, number)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert problems == []
        assert len(ends) == 360
        stats = engine.stats()
        assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)
    assert metrics.finished == Counter(ends)
    assert set(ends) == {"length", "cancelled"}
    for batch in program.batches:
        assert len(batch.token_ids) <= 32


def test_F102_numbers_of_requests_are_not_guessed_nor_given_twice() -> None:
    drawn = [random_id() for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert all(1 <= number < 2**53 for number in drawn)
    assert sum(number >= 2**52 for number in drawn) in range(400, 600)
    with serving(ScriptedProgram(), request_ids=iter([7, 7, 7, 8, 8, 9])) as engine:
        assert [engine.submit(request()).request_id for _ in range(3)] == [7, 8, 9]
