"""Embeddings: against the float32 reference, bit for bit whatever stands beside them, and every way to end."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import DeviceError, EngineBusyError, RequestError
from rocmforge.artifacts.head import Head
from rocmforge.artifacts.layout import FinalNorm
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device.batch import Batch
from rocmforge.runtime.device.host import HostProgram, choose_variant, load_host_program
from rocmforge.runtime.engine import recovery as recovery_module
from rocmforge.runtime.engine.embeddings import EmbeddingError, EmbeddingRequest, PendingEmbedding
from rocmforge.runtime.engine.engine import Engine, EngineLimits
from rocmforge.runtime.engine.generation import SamplingParams
from rocmforge.runtime.engine.lifecycle import RequestEvent
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.engine_harness import (
    CONTEXT,
    SECONDS,
    CountingMetrics,
    ScriptedProgram,
    ended,
    load,
    request,
    serving,
)
from rocmforge.tests.support.faulty_program import FaultyProgram, fault_plan
from rocmforge.tests.support.programs import compiled, relative_tolerance
from rocmforge.tests.support.tokenizers import TINY
from rocmforge.tools.generate.fixtures import write_model

Vector = npt.NDArray[np.float32]
Pooling = Literal["mean", "last"]
BOTH: tuple[Pooling, ...] = ("mean", "last")


def ask(prompt: int | tuple[int, ...] = 3, pooling: Pooling = "mean", **fields: Any) -> EmbeddingRequest:
    ids = tuple(range(2, 2 + prompt)) if isinstance(prompt, int) else prompt
    return EmbeddingRequest(ids, pooling, **fields)


def vector(pending: PendingEmbedding) -> Vector:
    found = pending.result(SECONDS)
    assert found is not None
    return found


def embed(engine: Engine, *requests: EmbeddingRequest) -> list[Vector]:
    return [vector(pending) for pending in engine.embed(requests)]


def failure(pending: PendingEmbedding) -> tuple[str, str]:
    with pytest.raises(EmbeddingError) as caught:
        pending.result(SECONDS)
    return caught.value.reason, str(caught.value)


def assorted(tokenizer: Tokenizer) -> list[EmbeddingRequest]:
    """Lengths on both sides of a page (16 tokens) and of a step (24 below), the longest a whole context."""
    random = np.random.default_rng(4)
    lengths = (1, 2, 15, 16, 17, 23, 24, 25, 48, 49, 131, CONTEXT)
    prompts = [tuple(random.integers(3, tokenizer.config.vocab_size, length).tolist()) for length in lengths]
    return [ask(prompt, pooling) for prompt in prompts for pooling in BOTH]


# Right.


@pytest.mark.parametrize("quantization", ["F32", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_against_the_float32_reference(
    architecture: str, quantization: str, tmp_path: Path, build_cache: BuildCache
) -> None:
    """A hidden state's error is at most e = `relative_tolerance` of its length. That of a mean is at most the mean of
    these: e times r of the mean's length, where r is the mean length of the states over the length of their mean (1 for
    a single one). Making its length 1 at most doubles the error of a vector, relative to its length."""
    path = tmp_path / "model.gguf"
    write_model(path, architecture=architecture, quantization=quantization)
    ids = tuple(np.random.default_rng(8).integers(3, 320, 40).tolist())
    hidden = ReferenceModel(path).hidden(ids).astype(np.float64)
    with compiled(path, build_cache) as bundle, serving(load(bundle), load_tokenizer(bundle)) as engine:
        mean, last = embed(engine, ask(ids, "mean"), ask(ids, "last"))
    for found, expected, states in ((mean, hidden.mean(0), hidden), (last, hidden[-1], hidden[-1:])):
        assert found.dtype == np.float32
        assert found.shape == hidden.shape[1:]
        assert not found.flags.writeable
        # Each of its elements is rounded to float32 by at most 2^-24 of itself.
        assert abs(math.sqrt(np.sum(found.astype(np.float64) ** 2)) - 1.0) < 2**-23
        length = np.linalg.norm(expected)
        spread = np.linalg.norm(states, axis=1).mean() / length
        error = np.linalg.norm(found - expected / length)
        assert error < 2 * spread * relative_tolerance(quantization), error
        assert 4 * spread * relative_tolerance(quantization) < np.linalg.norm(mean - last)  # it tells the two apart


# The same bits.


def test_alone_together_in_chunks_and_beside_generations(bundle: Bundle, tokenizer: Tokenizer) -> None:
    requests = assorted(tokenizer)
    with serving(load(bundle, 32, 1), tokenizer) as engine:
        alone = [embed(engine, one)[0] for one in requests]
    assert len({one.tobytes() for one in alone}) == len(requests) - 1  # of one token, the mean is the last
    # A cache too small for all of them, and steps of at most 24 tokens.
    program = load(bundle, 40, 2, max_batch_tokens=24, max_sequences=6)
    with serving(program, tokenizer, limits=EngineLimits(prefill_tokens=7)) as engine:
        together = embed(engine, *requests)
        generations = [engine.submit(request(20 + n, 60, sampling=SamplingParams(1.0, seed=n))) for n in range(4)]
        beside = embed(engine, *requests)
        for generation in generations:
            assert ended(generation).error is None
        stats = engine.stats()
    for one, *others in zip(alone, together, beside, strict=True):
        for other in others:
            assert np.array_equal(one, other)
    assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)


def test_a_generation_is_the_same_beside_embeddings(bundle: Bundle, tokenizer: Tokenizer) -> None:
    asked = request(30, 40, sampling=SamplingParams(1.0, seed=3), ignore_eos=True)
    with serving(load(bundle), tokenizer) as engine:
        alone = ended(engine.submit(asked))
    with serving(load(bundle), tokenizer) as engine:
        generation = engine.submit(asked)
        pending = engine.embed(assorted(tokenizer))
        assert ended(generation).tokens == alone.tokens
        for one in pending:
            vector(one)


def test_a_prefix_is_used_again_where_its_hidden_states_are_not_needed(bundle: Bundle, tokenizer: Tokenizer) -> None:
    ids = assorted(tokenizer)[-1].prompt_token_ids[:100]
    with serving(load(bundle), tokenizer) as engine:
        fresh = embed(engine, ask(ids, "mean"))[0]
        assert np.array_equal(embed(engine, ask(ids, "mean"))[0], fresh)
        assert engine.stats().prefix_hit_tokens == 0
        last = embed(engine, ask(ids, "last"))[0]
        assert engine.stats().prefix_hit_tokens == 96  # six whole pages; a token is left to compute
        ended(engine.submit(request(ids, 1)))
        assert engine.stats().prefix_hit_tokens == 192
    with serving(load(bundle), tokenizer) as engine:
        ended(engine.submit(request(ids, 4)))
        assert np.array_equal(embed(engine, ask(ids, "mean"))[0], fresh)
        assert engine.stats().prefix_hit_tokens == 0
        assert np.array_equal(embed(engine, ask(ids, "last"))[0], last)
        assert engine.stats().prefix_hit_tokens == 96


def test_F105_an_embedding_uses_prefixes_of_its_own_space_alone(bundle: Bundle, tokenizer: Tokenizer) -> None:
    ids = assorted(tokenizer)[-1].prompt_token_ids[:100]
    hits, vectors = [], []
    with serving(load(bundle), tokenizer) as engine:
        ended(engine.submit(request(ids, 1, cache_space="alice")))
        for space in ("bob", "alice", "bob"):
            vectors += embed(engine, dataclasses.replace(ask(ids, "last"), cache_space=space))
            hits.append(engine.stats().prefix_hit_tokens)
    assert hits == [0, 96, 192]
    assert all(np.array_equal(one, vectors[0]) for one in vectors)


@pytest.mark.parametrize("pooling", BOTH)
def test_one_that_is_preempted_begins_again(bundle: Bundle, tokenizer: Tokenizer, pooling: Pooling) -> None:
    """Six pages, four of them the embedding's: the generation needs a third for its 33rd token, in step 32. By then 36
    of 64 tokens of the embedding are computed: 6 beside the generation's prompt of 2, then one beside each of its
    tokens."""
    asked = ask(assorted(tokenizer)[-1].prompt_token_ids[:64], pooling)
    with serving(load(bundle), tokenizer) as engine:
        (alone,) = embed(engine, asked)
    program, limits = load(bundle, 6, max_batch_tokens=8), EngineLimits(prefill_tokens=1)
    engine = Engine(program, tokenizer, CONTEXT, CountingMetrics(), limits=limits)
    generation = engine.submit(request(2, 40, sampling=SamplingParams(0.0), ignore_eos=True))
    (pending,) = engine.embed([asked])
    engine.start()
    assert np.array_equal(vector(pending), alone)
    assert engine.stats().preemptions == 1
    assert ended(generation).error is None
    engine.stop(0)


# Every way to end.


class EmbeddingProgram(ScriptedProgram):
    """Its hidden states are the tokens' ids, and `change` of them."""

    def __init__(self, change: Callable[[Vector], Vector] = lambda states: states, **options: Any) -> None:
        super().__init__(**options)
        self.layout = dataclasses.replace(self.layout, final_norm=FinalNorm("hidden", "norm", 1e-5))
        self.change = change

    def hidden(self, first: int, count: int) -> Vector:
        ids = self.batches[-1].token_ids[first : first + count]
        assert len(ids) == count
        return self.change(np.tile(ids.astype(np.float32)[:, None], (1, self.layout.hidden_size)))


def test_the_life_of_a_request() -> None:
    events: list[RequestEvent] = []
    metrics = CountingMetrics()
    with serving(EmbeddingProgram(), metrics=metrics, observer=events.append) as engine:
        (pending,) = engine.embed([ask(70)])
        assert pending.prompt_tokens == 70
        assert vector(pending) is vector(pending)
        assert np.allclose(vector(pending), 8**-0.5)
    told = [(event.kind, event.tokens, event.reason) for event in events]
    assert told == [("queued", 70, None), ("admitted", 0, None), ("prefilled", 70, None), ("finished", 0, "stop")]
    assert (metrics.started, metrics.tokens, metrics.finished) == (1, 0, {"stop": 1})
    assert metrics.observed == {"total": 1}


def test_no_token_is_sampled_for_it() -> None:
    program = EmbeddingProgram()
    with serving(program) as engine:
        embed(engine, ask(40), ask(7, "last"), ask(1))
        assert all(len(batch.logits_rows) == 0 and not batch.sampling for batch in program.batches)


def test_refused_at_once() -> None:
    program = EmbeddingProgram(num_blocks=4, gated=True)
    with serving(program, context=100, limits=EngineLimits(max_queue=3)) as engine:
        vocabulary = TINY.config.vocab_size - 1
        for bad, message in (
            (ask(()), "input: expected at least one token, found none"),
            (ask((3, -1)), f"input: expected token ids from 0 to {vocabulary}"),
            (ask((3, vocabulary + 1)), f"input: expected token ids from 0 to {vocabulary}"),
            (ask((3,) * 101), "input: 101 tokens exceed the context of 100"),
            (ask((3,) * 65), "input: needs 5 KV blocks, the cache has 4"),
        ):
            with pytest.raises(RequestError) as caught:
                engine.embed([ask(), bad])
            assert str(caught.value) == message
            assert caught.value.parameter == "input"
        with pytest.raises(RequestError, match="input: expected at most 3 at once, found 4"):
            engine.embed([ask()] * 4)
        assert engine.stats().queued == 0  # nor is what was asked for with them
        running = engine.embed([ask((3,) * 64)])
        program.wait_for_step()
        waiting = engine.embed([ask()] * 2)
        with pytest.raises(EngineBusyError, match="the queue is full"):
            engine.embed([ask()] * 2)
        program.open()
        for pending in (*running, *waiting):
            vector(pending)
    with pytest.raises(EngineBusyError, match="the server is stopping"):
        engine.embed([ask()])


def test_a_bundle_of_format_1_0_gives_none() -> None:
    with serving(ScriptedProgram()) as engine, pytest.raises(RequestError, match="model: its bundle gives no"):
        engine.embed([ask()])


@pytest.mark.parametrize(("both_ways", "head"), [(True, Head("cls")), (True, None), (False, Head("last"))])
def test_an_encoder_generates_nothing(both_ways: bool, head: Head | None) -> None:
    program = EmbeddingProgram()
    program.layout = dataclasses.replace(program.layout, both_ways=both_ways, head=head)
    with serving(program) as engine:
        if both_ways and head is not None:
            with pytest.raises(RequestError, match="model: it was made to embed or to rank texts, and generates none"):
                engine.submit(request(3, 2))
        else:
            assert ended(engine.submit(request(3, 2))).error is None
        assert embed(engine, ask(4))[0].shape


def test_a_program_of_format_1_0_gives_no_hidden_states(bundle: Bundle) -> None:
    layout = dataclasses.replace(bundle.layout, final_norm=None)
    file = choose_variant(bundle.manifest.targets).file
    program = HostProgram(layout, bundle.map_weights(), bundle.open_code(file), file, 4, 1)
    with pytest.raises(DeviceError, match="compile the model again"):
        program.hidden(0, 1)
    program.close()


def test_cancel_running_and_waiting() -> None:
    program = EmbeddingProgram(num_blocks=5, gated=True)
    with serving(program) as engine:
        running, waiting = engine.embed([ask(70), ask(70)])
        program.wait_for_step()
        assert running.result(0.01) is None
        for pending in (running, waiting):
            pending.cancel()
        program.let(1)
        for pending in (running, waiting):
            assert failure(pending) == ("cancelled", "the request was cancelled")
        assert engine.stats().pages_used == 0
        program.open()
        (again,) = embed(engine, ask())
        assert np.allclose(again, 8**-0.5)
        running.cancel()  # harmless


def test_a_time_limit() -> None:
    program = EmbeddingProgram(num_blocks=5, gated=True)
    with serving(program) as engine:
        running, waiting, other = engine.embed([ask(70, deadline_seconds=0.1), ask(70, deadline_seconds=0.1), ask(70)])
        program.wait_for_step()
        time.sleep(0.11)
        program.open()
        for pending in (running, waiting):
            assert failure(pending) == ("cancelled", "the request's time limit of 0.1 s has passed")
        vector(other)


def test_clients_are_served_in_turn() -> None:
    events: list[RequestEvent] = []
    program = EmbeddingProgram(num_blocks=1, gated=True)
    with serving(program, observer=events.append) as engine:
        many = engine.embed([ask(client="many")] * 5)
        program.wait_for_step()
        generation = engine.submit(request(client="one"))
        program.open()
        ended(generation)
        for pending in many:
            vector(pending)
    order = [event.request_id for event in events if event.kind == "admitted"]
    assert order.index(generation.request_id) <= 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=["F75-nan", "F75-infinity", "F75-minus-infinity"])
@pytest.mark.parametrize("pooling", BOTH)
def test_hidden_states_that_are_no_numbers(bad: float, pooling: Pooling) -> None:
    def change(states: Vector) -> Vector:
        return np.where(states == 9, np.float32(bad), states)

    with serving(EmbeddingProgram(change)) as engine:
        failing, good = engine.embed([ask((5, 9), pooling), ask((5, 6), pooling)])
        reason, problem = failure(failing)
        assert (reason, "not finite" in problem) == ("failed", True)
        vector(good)
        # What it left in the cache is not used again.
        assert engine.stats().pages_cached == 0


def test_states_of_nothing_but_zeros() -> None:
    with serving(EmbeddingProgram(np.zeros_like)) as engine:
        assert not embed(engine, ask())[0].any()


def test_F74_hidden_states_that_cannot_be_had() -> None:
    errors: list[Exception] = [DeviceError("hipErrorLaunchFailure: copy")]

    def change(states: Vector) -> Vector:
        if errors:
            raise errors.pop()
        return states

    with serving(EmbeddingProgram(change)) as engine:
        for pending in engine.embed([ask(), ask(5, "last")]):  # of one step
            assert failure(pending) == ("failed", "hipErrorLaunchFailure: copy")
        assert np.allclose(embed(engine, ask())[0], 8**-0.5)
        assert engine.stats().pages_used == 0


def test_F77_a_lost_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one in the step fails; the one that waits is served by the next program."""
    monkeypatch.setattr(recovery_module, "REBUILD_SECONDS", (0.02,))

    def script(batch: Batch) -> list[int]:
        raise DeviceError("hipErrorNoDevice: gone")

    lost, fresh = EmbeddingProgram(script=script, num_blocks=5), EmbeddingProgram()
    with serving(lost, make_program=lambda: fresh) as engine:
        failing, waiting = engine.embed([ask(70), ask(70)])
        assert failure(failing) == ("failed", "hipErrorNoDevice: gone")
        assert np.allclose(vector(waiting), 8**-0.5)
        assert lost.closed == 1


def test_F74_failures_and_every_embedding_ends_once(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """Forty faults at random between steps: an embedding fails with a reason, or has the bits that it has alone."""
    requests = assorted(tokenizer)
    with serving(load(bundle), tokenizer) as engine:
        expected = embed(engine, *requests)
    program = FaultyProgram(load(bundle, 40, max_batch_tokens=24), fault_plan(40, 5))
    outcomes, metrics = Counter[str](), CountingMetrics()
    with serving(program, tokenizer, metrics=metrics) as engine:
        while sum(program.faults.values()) < 40:
            generation = engine.submit(request(20, 8, sampling=SamplingParams(0.0)))
            for pending, wanted in zip(engine.embed(requests), expected, strict=True):
                try:
                    assert np.array_equal(vector(pending), wanted)
                    outcomes["stop"] += 1
                except EmbeddingError as error:
                    outcomes[error.reason] += 1
            outcomes[str(ended(generation).finish_reason)] += 1
        stats = engine.stats()
    assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)
    assert metrics.finished == outcomes
    assert min(outcomes["stop"], outcomes["failed"]) > 0
    assert outcomes["cancelled"] == 0


# A real model.


def test_smollm2_finds_what_is_alike(smollm2: Bundle) -> None:
    """Each sentence is nearer to the other of its pair than to every sentence of the other pairs."""
    pairs = (
        ("The cat sleeps on the warm sofa.", "A kitten is napping on the couch."),
        ("Stock markets fell sharply on Monday.", "Shares dropped steeply at the start of the week."),
        ("Add the flour and stir until smooth.", "Mix in the flour until there are no lumps."),
    )
    tokenizer = load_tokenizer(smollm2)
    requests = [ask(tuple(tokenizer.encode(text)), "mean") for pair in pairs for text in pair]
    with serving(load_host_program(smollm2, 64, 1), tokenizer, 1024) as engine:
        vectors = np.stack(embed(engine, *requests))
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -1.0)
    assert alike.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]
