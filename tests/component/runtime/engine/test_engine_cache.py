"""Prefix reuse and preemption on a real program: they change what is computed, and never a token."""

from __future__ import annotations

import dataclasses

import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.engine.lifecycle import RequestEvent
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import CountingMetrics, ended, load, random_ids, serving

PAGE = 16
SAMPLINGS = (
    SamplingParams(0.0),
    SamplingParams(1.0, seed=5),
    SamplingParams(0.8, top_k=20, top_p=0.9, repetition_penalty=1.2, presence_penalty=0.3, seed=6),
)


def alone(bundle: Bundle, tokenizer: Tokenizer, requests: list[GenerationRequest]) -> list[GenerationState]:
    """Each with a program of its own, so with nothing in the cache."""
    states = []
    for one in requests:
        with serving(load(bundle, 16, 1), tokenizer) as engine:
            states.append(ended(engine.submit(one)))
            assert engine.stats().prefix_hit_tokens == 0
    return states


def same(one: GenerationState, other: GenerationState) -> bool:
    return dataclasses.replace(one, request_id=0) == dataclasses.replace(other, request_id=0)


@pytest.mark.parametrize(
    "prompt, hit",
    [
        pytest.param(100, 96, id="hit"),
        pytest.param(96, 80, id="all-pages-but-a-token-is-left"),
        pytest.param(50, 48, id="partial"),
        pytest.param(130, 96, id="longer"),
        pytest.param(15, 0, id="none"),
    ],
)
def test_a_hit_changes_no_token(bundle: Bundle, tokenizer: Tokenizer, prompt: int, hit: int) -> None:
    text = random_ids(tokenizer, 130)
    requests = [GenerationRequest(text[:prompt], 20, sampling, ignore_eos=True) for sampling in SAMPLINGS]
    expected = alone(bundle, tokenizer, requests)
    with serving(load(bundle, 64), tokenizer) as engine:
        ended(engine.submit(GenerationRequest(text[:100], 1)))
        for number, (one, wanted) in enumerate(zip(requests, expected, strict=True)):
            before = engine.stats().prefix_hit_tokens
            assert same(ended(engine.submit(one)), wanted)
            found = engine.stats().prefix_hit_tokens - before
            assert found == (hit if number == 0 else (prompt - 1) // PAGE * PAGE)
        assert engine.stats().pages_used == 0
        assert engine.stats().pages_cached >= 100 // PAGE


def test_requests_alike_at_once(bundle: Bundle, tokenizer: Tokenizer) -> None:
    text = random_ids(tokenizer, 120)
    requests = [GenerationRequest(text, 25, SamplingParams(1.0, seed=n), ignore_eos=True) for n in range(6)]
    expected = alone(bundle, tokenizer, requests)
    with serving(load(bundle, 64, max_batch_tokens=48), tokenizer) as engine:
        found = [ended(generation) for generation in [engine.submit(one) for one in requests]]
        assert engine.stats().prefix_hit_tokens > 0
    assert all(map(same, found, expected))


def test_F73_pages_that_run_out_change_no_token(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """12 requests of up to 14 pages, some of one prefix, on 20 pages: they are preempted, and their pages evicted."""
    requests = [
        GenerationRequest(
            random_ids(tokenizer, 40, number % 3) + random_ids(tokenizer, 5 + number, 100 + number),
            100 + 5 * number,
            SAMPLINGS[number % 3],
            stop=("zq",),
            ignore_eos=True,
            client=f"client {number % 2}",
        )
        for number in range(12)
    ]
    expected = alone(bundle, tokenizer, requests)
    events: list[RequestEvent] = []
    metrics = CountingMetrics()
    program = load(bundle, 20, max_batch_tokens=24)
    limits = EngineLimits(prefill_tokens=10)
    with serving(program, tokenizer, metrics=metrics, limits=limits, observer=events.append) as engine:
        found = [ended(generation) for generation in [engine.submit(one) for one in requests]]
        stats = engine.stats()
    assert all(map(same, found, expected))
    assert stats.preemptions > 0
    assert stats.prefix_hit_tokens > 0
    assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)
    assert metrics.tokens == sum(len(state.tokens) for state in expected)
    kinds = [event.kind for event in events]
    assert kinds.count("preempted") == stats.preemptions
    assert sum(event.tokens for event in events if event.kind == "prefix_hit") == stats.prefix_hit_tokens
    for number in range(1, 13):
        check_life([event for event in events if event.request_id == number])


def check_life(events: list[RequestEvent]) -> None:
    """Queued; admitted and prefilled, again after each preemption; one first token; one end."""
    kinds = [event.kind for event in events]
    assert (kinds[0], kinds[-1]) == ("queued", "finished")
    assert [kinds.count(kind) for kind in ("queued", "first_token", "finished")] == [1, 1, 1]
    assert kinds.count("admitted") == kinds.count("preempted") + 1
    turns = [kind for kind in kinds if kind in ("admitted", "preempted", "finished")]
    assert turns == ["admitted", "preempted"] * kinds.count("preempted") + ["admitted", "finished"]
    assert kinds.index("first_token") > kinds.index("prefilled") > kinds.index("admitted")
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert events[-1].reason == "length"
