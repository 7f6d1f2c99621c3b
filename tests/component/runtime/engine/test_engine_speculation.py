"""Drafts change how many steps a text takes, and never a token, a text, an end or a log-probability of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.device.batch import Batch
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams, events_of
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import (
    EOS,
    CountingMetrics,
    ScriptedProgram,
    counting,
    ended,
    load,
    request,
    serving,
)

PENALIZED = SamplingParams(0.0, repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.1)
SAMPLINGS = {
    "greedy": SamplingParams(0.0),
    "temperature": SamplingParams(1.0, seed=5),
    "narrow": SamplingParams(0.9, top_k=3, seed=8),
    "greedy-penalties": PENALIZED,
    "penalties": dataclasses.replace(PENALIZED, temperature=1.0, top_k=5, seed=6),
    "bias": SamplingParams(0.0, logit_bias=((40, 5.0), (41, 4.5))),
}


def repeated(tokenizer: Tokenizer, seed: int, period: int = 12, count: int = 60) -> tuple[int, ...]:
    """A prompt that says the same again and again."""
    random = np.random.default_rng(seed)
    return tuple(np.resize(random.integers(3, tokenizer.config.vocab_size, period), count).tolist())


def requests(tokenizer: Tokenizer) -> list[GenerationRequest]:
    """Each way of sampling with each way to end; small models of random weights fall into loops when greedy."""
    made = []
    for number, sampling in enumerate(SAMPLINGS.values()):
        prompt = repeated(tokenizer, number)
        made += [
            GenerationRequest(prompt, 120, sampling, ignore_eos=True),
            GenerationRequest(prompt, 37, sampling, stop=("e ", "zz", "a"), ignore_eos=True),
            GenerationRequest(prompt, 30, sampling, ignore_eos=True, logprobs=3),
            GenerationRequest(prompt[:20], 50, sampling, stop_token_ids=tuple(range(60, 70))),
            GenerationRequest(prompt[:1], 2, sampling),
            GenerationRequest(prompt, 1, sampling),
        ]
    likely = tuple((token, 4.0) for token in tokenizer.config.eos_token_ids)  # a model of random weights seldom ends
    return [*made, *(GenerationRequest(prompt, 60, SamplingParams(1.0, seed=n, logit_bias=likely)) for n in range(3))]


def same(one: GenerationState, other: GenerationState) -> bool:
    return dataclasses.replace(one, request_id=0) == dataclasses.replace(other, request_id=0)


@pytest.fixture(scope="module")
def plain(bundle: Bundle, tokenizer: Tokenizer) -> list[GenerationState]:
    """Without drafts, one after another."""
    with serving(load(bundle, 64, 1), tokenizer) as engine:
        states = [ended(engine.submit(one)) for one in requests(tokenizer)]
        assert engine.stats().draft_tokens == 0
    assert {state.finish_reason for state in states} == {"length", "stop", "eos"}
    return states


@pytest.mark.parametrize("draft_tokens", [1, 3, 7, 30])
def test_alone(bundle: Bundle, tokenizer: Tokenizer, plain: list[GenerationState], draft_tokens: int) -> None:
    program, metrics = counting(load(bundle, 64, 1)), CountingMetrics()
    with serving(program, tokenizer, metrics=metrics, limits=EngineLimits(draft_tokens=draft_tokens)) as engine:
        found = [ended(engine.submit(one)) for one in requests(tokenizer)]
        stats = engine.stats()
    assert all(map(same, found, plain))
    assert 0 < stats.draft_tokens_accepted < stats.draft_tokens  # both kinds took place
    made, right = (sum(counts) for counts in zip(*metrics.drafts, strict=True))
    assert (made, right) == (stats.draft_tokens, stats.draft_tokens_accepted)
    assert stats.pages_used == 0
    assert metrics.tokens == sum(len(state.tokens) for state in plain)
    assert program.steps <= metrics.tokens - stats.draft_tokens_accepted + len(
        found
    )  # one a prompt, and the drafts saved


@pytest.mark.parametrize(
    "num_blocks, limits",
    [
        pytest.param(200, {"max_batch_tokens": 64}, id="room-for-all"),
        pytest.param(24, {"max_batch_tokens": 24}, id="few-pages"),
        pytest.param(60, {"max_batch_tokens": 40, "max_sequences": 6}, id="few-rows-of-logits"),
    ],
)
def test_together(
    bundle: Bundle, tokenizer: Tokenizer, plain: list[GenerationState], num_blocks: int, limits: dict[str, int]
) -> None:
    program = counting(load(bundle, num_blocks, 2, **limits))
    with serving(program, tokenizer, limits=EngineLimits(draft_tokens=5, prefill_tokens=16)) as engine:
        found = [ended(generation) for generation in [engine.submit(one) for one in requests(tokenizer)]]
        stats = engine.stats()
    assert all(map(same, found, plain))
    assert stats.draft_tokens_accepted > 0
    assert (stats.preemptions > 0) == (num_blocks == 24)
    assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)


def test_several_of_one_prompt(bundle: Bundle, tokenizer: Tokenizer) -> None:
    prompt = repeated(tokenizer, 3)
    several = [GenerationRequest(prompt, 40, SamplingParams(1.0, top_k=2, seed=n), ignore_eos=True) for n in range(5)]
    found = []
    for limits in (EngineLimits(), EngineLimits(draft_tokens=6)):
        with serving(load(bundle, 64), tokenizer, limits=limits) as engine:
            generations = engine.submit_all(several)
            for _ in events_of(generations):
                pass
            found.append([generation.state() for generation in generations])
            assert (engine.stats().draft_tokens_accepted > 0) == (limits.draft_tokens > 0)
    assert all(map(same, *found))


def letters(text: str) -> tuple[int, ...]:
    return tuple(2 + ord(letter) for letter in text)


def said(text: str, at: dict[int, int] | None = None) -> ScriptedProgram:
    """A program that says the text, whatever it is asked; `at` some places other tokens."""
    tokens = [(at or {}).get(index, token) for index, token in enumerate(letters(text))]
    return ScriptedProgram(lambda batch: [tokens[row.counter % len(tokens)] for row in batch.sampling])


@pytest.mark.parametrize("place", range(1, 30))
def test_tokens_after_the_end_are_dropped(place: int) -> None:
    """The model says its prompt again; the end comes at each place, within drafts that are right and after them."""
    text = "the quick brown fox jumps over"
    program = said(text, {place: EOS})
    with serving(program, limits=EngineLimits(draft_tokens=8)) as engine:
        # The prompt has the end where the model will say it, so that drafts run past it.
        prompt = [*letters(text), *letters(text)]
        prompt[place] = EOS
        state = ended(engine.submit(request(tuple(prompt), 60)))
        assert (state.text, state.finish_reason, len(state.tokens)) == (text[:place], "eos", place + 1)
        assert engine.stats().pages_used == 0


@pytest.mark.parametrize("max_tokens", range(1, 25))
def test_no_draft_goes_past_the_most_tokens(max_tokens: int) -> None:
    text = "the quick brown fox jumps over "
    program = said(text)
    with serving(program, limits=EngineLimits(draft_tokens=8)) as engine:
        prompt = letters(text)
        state = ended(engine.submit(request(prompt, max_tokens)))
        assert (state.text, state.finish_reason) == (text[:max_tokens], "length")
        stats = engine.stats()
    assert max(int(batch.positions.max()) for batch in program.batches) <= len(prompt) + max_tokens - 2
    if max_tokens > 12:
        assert stats.draft_tokens_accepted >= max_tokens // 4
        assert len(program.batches) < max_tokens


def test_a_stop_string_within_drafts() -> None:
    text = "the quick brown fox jumps over "
    with serving(said(text), limits=EngineLimits(draft_tokens=8)) as engine:
        state = ended(engine.submit(request(letters(text), 31, stop=("wn f",))))
        assert (state.text, state.finish_reason) == ("the quick bro", "stop")
        assert engine.stats().draft_tokens_accepted > 4


def test_F76_numbers_that_are_none_within_drafts_fail_the_request_where_it_would_alone() -> None:
    text = "the quick brown fox jumps over "
    with serving(said(text, {14: -1}), limits=EngineLimits(draft_tokens=8)) as engine:
        state = ended(engine.submit(request(letters(text), 31)))
        assert (state.text, state.finish_reason) == (text[:14], "failed")
        assert engine.stats().pages_used == 0


def test_wrong_guesses_become_rare() -> None:
    """After each pair of letters the model says another one than before: no guess is ever right.

    Pauses of 0, 2, 6, 14 and then 16 tokens between guesses of 4: in 200 tokens at most 5 + 160 / 17 + 1 guesses.
    """
    pairs = [a + b for a in "abcdefgh" for b in "ijklmnop"]
    text = "".join(pair + chr(0x30 + index % 10) + pair + chr(0x3A + index % 10) for index, pair in enumerate(pairs))
    with serving(said(text), limits=EngineLimits(draft_tokens=8)) as engine:
        state = ended(engine.submit(request(3, 200)))
        stats = engine.stats()
    assert state.text == text[:200]
    assert stats.draft_tokens_accepted == 0
    assert 4 <= stats.draft_tokens <= 4 * 15


def test_a_failed_step_leaves_no_draft_behind() -> None:
    text, failures = "the quick brown fox jumps over ", [True]
    tokens = letters(text)

    def script(batch: Batch) -> list[int]:
        if len(batch.logits_rows) > 3 and failures:
            failures.pop()
            raise MemoryError
        return [tokens[row.counter] for row in batch.sampling]

    with serving(ScriptedProgram(script), limits=EngineLimits(draft_tokens=8)) as engine:
        state = ended(engine.submit(request(tokens, 31)))
        assert state.finish_reason == "failed"
        assert text.startswith(state.text)
        assert ended(engine.submit(request(tokens, 31))).text == text
        assert engine.stats().pages_used == 0
