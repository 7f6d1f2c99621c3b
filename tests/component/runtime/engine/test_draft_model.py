"""A draft model changes how many steps a text takes, and never a token, a text, an end or a log-probability of it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device.batch import Batch
from rocmforge.runtime.engine import drafts as drafts_module
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.drafting import Eager, drafted, same
from rocmforge.tests.support.engine_harness import (
    CountingMetrics,
    ScriptedProgram,
    assorted_requests,
    counting,
    ended,
    load,
    random_ids,
    request,
    serving,
    wait_until,
    waiting_steps,
)
from rocmforge.tests.support.faulty_program import FaultyProgram, fault_plan
from rocmforge.tests.support.programs import compiled
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache) -> Iterator[Bundle]:
    """Of other random weights, and of a shorter context."""
    path = tmp_path_factory.mktemp("draft") / "stranger.gguf"
    write_model(path, context_length=128, seed=5, num_layers=1)
    with compiled(path, build_cache) as opened:
        yield opened


def several(tokenizer: Tokenizer) -> list[GenerationRequest]:
    """Each way to sample and to end, and some that one draws log-probabilities of."""
    made = assorted_requests(tokenizer)[:10]
    ids = random_ids(tokenizer, 30)
    long = [
        GenerationRequest(ids[:9], 90, SamplingParams(0.0), ignore_eos=True),
        GenerationRequest(ids[:7], 90, SamplingParams(1.0, seed=9), ignore_eos=True),
    ]
    made += [
        GenerationRequest(ids, 30, SamplingParams(0.0, logit_bias=((40, 5.0), (310, 4.5))), ignore_eos=True),
        GenerationRequest(ids, 20, SamplingParams(1.0, seed=4), logprobs=3, ignore_eos=True),
        GenerationRequest(ids, 0, SamplingParams(0.0), prompt_logprobs=1),
        GenerationRequest(ids, 1, SamplingParams(0.0)),
        GenerationRequest(ids[:1], 2, SamplingParams(0.0)),
    ]
    return [*long, *made]


@pytest.fixture(scope="module")
def plain(bundle: Bundle, tokenizer: Tokenizer) -> list[GenerationState]:
    """Without drafts, one after another."""
    with serving(load(bundle, 64, 1), tokenizer) as engine:
        return [ended(engine.submit(one)) for one in several(tokenizer)]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_model_that_agrees(bundle: Bundle, tokenizer: Tokenizer, plain: list[GenerationState], count: int) -> None:
    """The served model as its own draft model: all drafts are right, drawn ones too, by the same seeds; each step has
    the most tokens that it may."""
    program, metrics, policy = counting(load(bundle, 64, 1)), CountingMetrics(), Eager(count)
    pair = drafted(program, load(bundle, 64, 1), policy)
    limits = EngineLimits(draft_tokens=count)
    with serving(pair, tokenizer, metrics=metrics, limits=limits, policy=policy) as engine:
        found = [ended(engine.submit(one)) for one in several(tokenizer)]
        stats = engine.stats()
    assert all(map(same, found, plain))
    assert set(metrics.sources) == {"model"}
    assert stats.draft is not None
    assert (stats.draft.model, stats.draft.problem) == ("small", None)
    assert stats.draft.proposed == stats.draft.accepted == stats.draft_tokens == stats.draft_tokens_accepted > 100
    chunks = sum(-(-one.prompt_tokens // bundle.layout.max_batch_tokens) for one in plain)
    least = sum(-(-max(len(one.tokens) - 1, 0) // (count + 1)) for one in plain)
    assert program.steps <= chunks + least
    assert stats.pages_used == 0


@pytest.mark.parametrize(
    "num_blocks, small_blocks, limits",
    [
        pytest.param(200, 200, {"max_batch_tokens": 64}, id="room-for-all"),
        pytest.param(14, 14, {"max_batch_tokens": 24}, id="few-pages"),
        pytest.param(200, 10, {"max_batch_tokens": 64}, id="few-pages-of-the-draft-model"),
        pytest.param(60, 60, {"max_batch_tokens": 40, "max_sequences": 6}, id="few-rows-of-logits"),
    ],
)
@pytest.mark.parametrize("agreeing", [True, False])
def test_together(
    bundle: Bundle,
    stranger: Bundle,
    tokenizer: Tokenizer,
    plain: list[GenerationState],
    num_blocks: int,
    small_blocks: int,
    limits: dict[str, int],
    agreeing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside each other, in chunks, preempted; the draft model has as little room itself, and fewer rows of logits."""
    policy = Eager(3, lookup=num_blocks == 60)
    program = counting(load(bundle, num_blocks, 1, **limits))
    few = {"max_batch_tokens": 20, "max_sequences": 4}
    small = counting(load(bundle if agreeing else stranger, small_blocks, 1, **few))
    options = EngineLimits(draft_tokens=3, prefill_tokens=16)
    submitted = waiting_steps(program, monkeypatch)
    with serving(drafted(program, small, policy, 16), tokenizer, limits=options, policy=policy) as engine:
        generations = [engine.submit(one) for one in several(tokenizer)]
        submitted.set()
        found = [ended(generation) for generation in generations]
        stats = engine.stats()
    assert all(map(same, found, plain))
    assert stats.draft is not None
    assert stats.draft.problem is None
    assert stats.draft.proposed > 20
    assert (stats.draft.accepted > stats.draft.proposed // 2) == agreeing
    assert (stats.preemptions > 0) == (num_blocks == 14)
    assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)


def test_prompts_are_computed_once(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """What the draft model has computed for one request, it reuses for the next, as the served model does."""
    policy, ids = Eager(4), random_ids(tokenizer, 100)
    small = ScriptedProgram(lambda batch: [5] * len(batch.logits_rows))
    small.layout = dataclasses.replace(bundle.layout)
    pair = drafted(load(bundle, 64, 1), small, policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        for _ in range(2):
            ended(engine.submit(GenerationRequest(ids, 8, SamplingParams(0.0), ignore_eos=True)))
    starts = [int(batch.positions[0]) for batch in small.batches if len(batch.positions) > 2]
    block = bundle.layout.kv.block_size
    assert starts[-1] == 100 // block * block
    assert min(starts[:-1]) == 0


def test_every_token_that_it_reads_is_one_of_the_sequence_or_a_draft(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """The draft model's steps, replayed: at each position from the first on, what it wrote there last is the token of
    the text, but for drafts of its own that follow the text; and it never reads past what it wrote."""
    random = np.random.default_rng(4)
    small = ScriptedProgram(lambda batch: random.integers(3, 300, len(batch.logits_rows)).tolist())
    small.layout = dataclasses.replace(bundle.layout)
    policy = Eager(3)
    pair = drafted(load(bundle, 64, 1), small, policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=3), policy=policy) as engine:
        generation = engine.submit(
            GenerationRequest(random_ids(tokenizer, 40), 60, SamplingParams(0.0), ignore_eos=True)
        )
        state = ended(generation)
    text, end = [*random_ids(tokenizer, 40), *state.tokens], 0
    written: dict[int, int] = {}
    assert len(small.batches) > 50
    for batch in small.batches:
        positions = batch.positions.tolist()
        assert positions == [*range(positions[0], positions[0] + len(positions))]
        assert positions[0] <= end
        written.update(zip(positions, batch.token_ids.tolist(), strict=True))
        end = positions[-1] + 1
        if len(positions) > 1 or positions[0] in {0, 40}:  # a step that begins: all before is the text's
            known = [written[at] for at in range(end)]
            assert known == text[:end]


def test_cancelled_ones_leave_nothing(bundle: Bundle, tokenizer: Tokenizer) -> None:
    policy = Eager(4)
    small = load(bundle, 64, 1)
    pair = drafted(load(bundle, 64, 1), small, policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        for number in range(4):
            one = engine.submit(request(random_ids(tokenizer, 20, number), 200, ignore_eos=True))
            wait_until(lambda one=one: len(one.token_ids) > 25)  # type: ignore[misc]
            one.cancel()
            assert ended(one).finish_reason == "cancelled"
        ended(engine.submit(request(random_ids(tokenizer, 20, 9), 20)))
        held = pair._drafts._shadows
        assert [sequence.finished for sequence in held] == [True]  # the last, until the next step


@pytest.mark.parametrize("agreeing", [True, False])
def test_the_policy_by_itself(
    bundle: Bundle, stranger: Bundle, tokenizer: Tokenizer, plain: list[GenerationState], agreeing: bool
) -> None:
    """Times are whatever they are on this machine: tokens are the same."""
    policy = drafts_module.DraftPolicy("small", 6)
    pair = drafted(load(bundle, 64, 1), load(bundle if agreeing else stranger, 64, 1), policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=6), policy=policy) as engine:
        found = [ended(generation) for generation in [engine.submit(one) for one in several(tokenizer)]]
    assert all(map(same, found, plain))
    assert policy.proposed > 0
    assert policy.costs.known


# What goes wrong with it.


def test_F137_faults_of_the_draft_model_cost_no_request(
    bundle: Bundle, tokenizer: Tokenizer, plain: list[GenerationState], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors before and after its steps, defects, too few tokens, NaN: every request ends as without it."""
    monkeypatch.setattr(drafts_module, "RETRY_SECONDS", (0.0,))
    policy = Eager(4)
    small = FaultyProgram(load(bundle, 64, 1), fault_plan(40, 3))
    pair = drafted(load(bundle, 64, 1), small, policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        while sum(small.faults.values()) < 40:
            found = [ended(generation) for generation in [engine.submit(one) for one in several(tokenizer)]]
            assert all(map(same, found, plain))
        stats = engine.stats()
    assert stats.draft is not None
    assert stats.draft.accepted > 100
    assert stats.device_available


def test_F137_a_draft_model_of_NaN_is_left_alone(bundle: Bundle, tokenizer: Tokenizer) -> None:
    policy = Eager(4)
    small = ScriptedProgram(lambda batch: [-1] * len(batch.logits_rows))
    small.layout = dataclasses.replace(bundle.layout)
    one = GenerationRequest(random_ids(tokenizer, 20), 30, SamplingParams(0.0), ignore_eos=True)
    with serving(load(bundle, 64, 1), tokenizer) as engine:
        expected = ended(engine.submit(one))
    pair = drafted(load(bundle, 64, 1), small, policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        for number in range(3):
            assert ended(engine.submit(one)).tokens == expected.tokens
            computed = sum(len(batch.token_ids) for batch in small.batches)
            assert computed == 21 * (number + 1)  # and what it has computed of the prompt is not used again
        assert engine.stats().draft_tokens == 0


def test_F137_tokens_that_one_of_the_models_has_not(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """A prompt of tokens past the draft model's vocabulary, a context past its own, drafts past the served one's."""
    policy, ids = Eager(4), tuple(range(3, 93))
    past = 303
    asked = [
        GenerationRequest((*ids[:9], past, 7, 8), 20, SamplingParams(0.0), ignore_eos=True),
        GenerationRequest(ids, 80, SamplingParams(0.0), ignore_eos=True),
        GenerationRequest(ids[:9], 20, SamplingParams(0.0, logit_bias=((past, 100.0),))),
        GenerationRequest((past, 9), 9, SamplingParams(0.5, seed=3, repetition_penalty=1.5)),
        GenerationRequest(ids[:9], 9, SamplingParams(0.5, seed=3, repetition_penalty=1.5)),
    ]
    with serving(load(bundle, 64, 1), tokenizer) as engine:
        expected = [ended(engine.submit(one)) for one in asked]

    def within(batch: Batch) -> list[int]:
        assert batch.token_ids.max() < 300
        assert batch.positions.max() < 128
        for row in batch.sampling:
            assert all(one is None or one.max(initial=0) < 300 for one in (row.seen_tokens, row.bias_tokens))
        return [5] * len(batch.logits_rows)

    small = ScriptedProgram(within)
    small.layout = dataclasses.replace(bundle.layout, vocab_size=300, max_seq_len=128)
    pair = drafted(load(bundle, 64, 1), small, policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        found = [ended(engine.submit(one)) for one in asked]
        assert all(map(same, found, expected))
        assert engine.stats().draft_tokens > 0
        assert policy.problem is None
    wild = ScriptedProgram(lambda batch: [bundle.layout.vocab_size + 5] * len(batch.logits_rows))
    wild.layout = dataclasses.replace(bundle.layout, vocab_size=bundle.layout.vocab_size + 100)
    pair = drafted(load(bundle, 64, 1), wild, policy)
    with serving(pair, tokenizer, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        assert same(ended(engine.submit(asked[1])), expected[1])
        assert engine.stats().draft_tokens == 0


def test_F77_both_are_loaded_again_after_the_served_model_failed(bundle: Bundle, tokenizer: Tokenizer) -> None:
    policy, made = Eager(4), []
    one = GenerationRequest(random_ids(tokenizer, 20), 30, SamplingParams(0.0), ignore_eos=True)
    plan = itertools.chain(["none"] * 3, ["before"], itertools.repeat("none"))
    smalls: list[ScriptedProgram] = []

    def make() -> object:
        smalls.append(ScriptedProgram(lambda batch: [5] * len(batch.logits_rows)))
        smalls[-1].layout = dataclasses.replace(bundle.layout)
        made.append(drafted(FaultyProgram(load(bundle, 64, 1), plan), smalls[-1], policy))
        return made[-1]

    limits = EngineLimits(draft_tokens=4)
    with serving(make(), tokenizer, limits=limits, policy=policy, make_program=make) as engine:  # type: ignore[arg-type]
        assert ended(engine.submit(one)).finish_reason == "failed"
        wait_until(lambda: engine.stats().running)
        assert ended(engine.submit(one)).finish_reason == "length"
        assert [small.closed for small in smalls] == [1, 0]
        assert all(small.batches for small in smalls)
    assert [small.closed for small in smalls] == [1, 1]
