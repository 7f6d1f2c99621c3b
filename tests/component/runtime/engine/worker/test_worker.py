"""An engine in a process of its own: all that it says is what an engine in this process says."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import (
    BundleError,
    DeviceError,
    EngineBusyError,
    RequestError,
    RocmforgeError,
    UsageError,
)
from rocmforge.runtime.engine.embeddings import EmbeddingError, EmbeddingRequest
from rocmforge.runtime.engine.engine import Engine, EngineLimits
from rocmforge.runtime.engine.generation import EngineApi, GenerationRequest, SamplingParams, TokenEvent
from rocmforge.runtime.engine.lifecycle import RequestEvent
from rocmforge.runtime.engine.worker import wire
from rocmforge.runtime.engine.worker.remote import RemoteEngine
from rocmforge.runtime.engine.worker.wire import DeferredConstraints
from rocmforge.runtime.http.core.text_apis import ConstraintApi
from rocmforge.runtime.text.constraints import ConstraintCompiler, ConstraintSpec
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import (
    SECONDS,
    CountingMetrics,
    assorted_requests,
    ended,
    load,
    request,
    serving,
    wait_until,
)
from rocmforge.tests.support.workers import BLOCKS, start_of, working


@pytest.fixture(scope="module")
def remote(bundle: Bundle) -> Iterator[RemoteEngine]:
    with working(start_of(bundle)) as engine:
        yield engine


@pytest.fixture(scope="module")
def local(bundle: Bundle, tokenizer: Tokenizer) -> Iterator[Engine]:
    with serving(load(bundle, BLOCKS, threads=1), tokenizer) as engine:
        yield engine


def events_of(engine: EngineApi, requests: Sequence[GenerationRequest]) -> list[list[TokenEvent]]:
    """All events of requests that are submitted together, by request; and their states say the same."""
    generations = engine.submit_all(requests)
    found: list[list[TokenEvent]] = [[] for _ in requests]
    while not all(events and events[-1].finished for events in found):
        event = generations[0].inbox.get(timeout=SECONDS)
        found[event.index].append(event)
    for generation, events in zip(generations, found, strict=True):
        state = generation.state()
        assert state.text == "".join(event.text for event in events)
        assert state.tokens == tuple(event.token for event in events if event.token is not None)
        assert (state.finished, state.finish_reason, state.error) == (True, events[-1].finish_reason, events[-1].error)
        assert state.logprobs == tuple(event.logprobs for event in events if event.logprobs is not None)
        assert engine.find(generation.request_id) is generation
    with pytest.raises(queue.Empty):
        generations[0].inbox.get(timeout=0.01)
    return found


def cases(tokenizer: Tokenizer) -> Iterator[tuple[str, list[GenerationRequest]]]:
    for number, one in enumerate(assorted_requests(tokenizer)):
        yield f"assorted {number}", [one]
    ids = tuple(range(3, 40))
    greedy, drawn = SamplingParams(0.0), SamplingParams(1.0, seed=2**64 - 1)
    bias = ((5, -100.0), (7, 0.1), (9, float("inf")))
    yield "logprobs", [GenerationRequest(ids, 6, drawn, logprobs=5, prompt_logprobs=3)]
    yield "only the prompt's scores", [GenerationRequest(ids, 0, greedy, prompt_logprobs=2)]
    yield "no token", [GenerationRequest(ids, 0, greedy)]
    yield "bias", [GenerationRequest(ids, 6, SamplingParams(0.0, logit_bias=bias), logprobs=0)]
    yield "typical", [GenerationRequest(ids, 12, SamplingParams(1.1, typical_p=0.7, seed=3))]
    yield "stop token", [GenerationRequest(ids, 40, drawn, stop_token_ids=tuple(range(100, 200)), logprobs=1)]
    yield (
        "any text",
        [GenerationRequest(ids, 5, greedy, stop=("\ud800", "\0", "é"), client="\udcff", cache_space="\ud800")],
    )
    yield "several", [GenerationRequest(ids, 5 + n, SamplingParams(1.0, seed=n)) for n in range(9)]


def test_every_event_is_that_of_an_engine_in_this_process(
    local: Engine, remote: RemoteEngine, tokenizer: Tokenizer
) -> None:
    for name, requests in cases(tokenizer):
        assert events_of(remote, requests) == events_of(local, requests), name


def test_drafts(bundle: Bundle, tokenizer: Tokenizer) -> None:
    repeated = GenerationRequest(tuple(np.resize(range(3, 9), 60).tolist()), 60, SamplingParams(0.0), ignore_eos=True)
    limits = EngineLimits(draft_tokens=5)
    with serving(load(bundle, BLOCKS, threads=1), tokenizer, limits=limits) as local:
        expected = events_of(local, [repeated])
    metrics = CountingMetrics()
    with working(start_of(bundle, limits=limits), metrics) as remote:
        assert events_of(remote, [repeated]) == expected
        assert remote.stats().draft_tokens == sum(made for made, _ in metrics.drafts) > 0


def test_what_was_cached_is_told(remote: RemoteEngine, bundle: Bundle) -> None:
    size = bundle.layout.kv.block_size
    prompt = tuple(range(40, 40 + 3 * size + 1))
    found = [ended(remote.submit(request(prompt, 2, cache_space="mine"))).cached_tokens for _ in range(2)]
    assert found == [0, 3 * size]


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_to_the_bit(local: Engine, remote: RemoteEngine, pooling: str) -> None:
    requests = [EmbeddingRequest(tuple(range(3, 5 + 9 * n)), pooling) for n in range(5)]  # type: ignore[arg-type]
    for mine, theirs in zip(remote.embed(requests), local.embed(requests), strict=True):
        vector, expected = mine.result(SECONDS), theirs.result(SECONDS)
        assert vector is not None
        assert expected is not None
        assert (vector.dtype, vector.flags.writeable) == (expected.dtype, False)
        assert vector.tobytes() == expected.tobytes()
        assert mine.prompt_tokens == theirs.prompt_tokens


def test_a_cancelled_embedding(remote: RemoteEngine) -> None:
    many = [request(10, 200, ignore_eos=True)] * (3 * remote.max_sequences)
    *_, blocker = remote.submit_all(many)  # the last, which has to wait for the others
    [one] = remote.embed([EmbeddingRequest(tuple(range(3, 250)), "mean")])
    one.cancel()
    with contextlib.suppress(EmbeddingError):  # or it was quicker
        assert one.result(SECONDS) is not None
    blocker.cancel()
    while not blocker.state().finished:
        time.sleep(0.001)
    assert blocker.state().finish_reason == "cancelled"


# Constraints.

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "yy"]}}, "required": ["a"]}
GOOD = [
    ConstraintSpec("json_schema", SCHEMA, "response_format"),
    ConstraintSpec("regex", "[ab]{3}c", "grammar"),
    ConstraintSpec("grammar", 'root ::= "a" [0-9]+ "b"', "grammar"),
    ConstraintSpec("json_object", None, "response_format"),
]
BAD = [
    ConstraintSpec("regex", "(", "regex"),
    ConstraintSpec("regex", "a" * 70_000, "guided_regex"),
    ConstraintSpec("json_schema", {"type": "nonsense"}, "response_format.schema"),
    ConstraintSpec("json_schema", {"minimum": 10**400, "$ref": "\ud800"}, "response_format.schema"),
    ConstraintSpec("grammar", "root ::= other", "grammar"),
    ConstraintSpec("json_schema", {"allOf": [{"type": "string"}, {"type": "number"}]}, "format"),
]


def constrained(engine: EngineApi, constraints: ConstraintApi, spec: ConstraintSpec) -> list[list[TokenEvent]]:
    asked = [
        GenerationRequest(
            tuple(range(3, 20)), 40, SamplingParams(1.0, seed=seed), constraint=constraints.compile(spec), logprobs=1
        )
        for seed in range(2)
    ]
    return events_of(engine, asked)


@pytest.mark.parametrize("spec", GOOD, ids=lambda spec: spec.kind)
def test_constraints_are_compiled_beside_the_device(
    local: Engine, remote: RemoteEngine, tokenizer: Tokenizer, spec: ConstraintSpec
) -> None:
    expected = constrained(local, ConstraintCompiler(tokenizer), spec)
    assert constrained(remote, DeferredConstraints(), spec) == expected


@pytest.mark.parametrize("spec", BAD, ids=lambda spec: spec.parameter)
def test_a_constraint_that_is_refused_names_its_parameter(
    local: Engine, remote: RemoteEngine, tokenizer: Tokenizer, spec: ConstraintSpec
) -> None:
    with pytest.raises(RequestError) as expected:
        constrained(local, ConstraintCompiler(tokenizer), spec)
    with pytest.raises(RequestError) as found:
        constrained(remote, DeferredConstraints(), spec)
    assert (str(found.value), found.value.parameter) == (str(expected.value), spec.parameter)
    assert ended(remote.submit(request())).finish_reason == "length"


# Refusals.


@pytest.mark.parametrize(
    "bad",
    [request(()), request((-1,)), request((10**6,)), request(3, -1), request(200, 100), request(3, 10**9)],
    ids=str,
)
def test_requests_are_refused_in_the_same_words(local: Engine, remote: RemoteEngine, bad: GenerationRequest) -> None:
    with pytest.raises(RequestError) as expected:
        local.submit_all([request(), bad])
    before = remote.stats()
    with pytest.raises(RequestError) as found:
        remote.submit_all([request(), bad])
    assert (str(found.value), found.value.parameter) == (str(expected.value), expected.value.parameter)
    assert (before.queued, remote.stats().queued) == (0, 0)


def test_a_full_queue(bundle: Bundle) -> None:
    with working(start_of(bundle, limits=EngineLimits(max_queue=2))) as engine:
        with pytest.raises(EngineBusyError, match=r"the queue is full \(2 requests\)"):
            engine.submit_all([request()] * 3)
        assert ended(engine.submit(request())).finish_reason == "length"


def test_what_cannot_be_sent_is_the_request_s_own_fault(remote: RemoteEngine) -> None:
    with pytest.raises(TypeError, match="does not travel"):
        remote.submit(request(sampling=SamplingParams(seed=2**64)))
    assert ended(remote.submit(request())).finish_reason == "length"
    assert remote.load == 0


@pytest.mark.parametrize(
    "change,error,exit_code,words",
    [
        ({"device": "hip:77"}, DeviceError, 4, "the bundle has code for"),
        ({"max_context": 10**6}, UsageError, 2, "--max-context: expected at most"),
        ({"digest": "sha256:other"}, BundleError, 3, "digest: expected sha256:other, as it was served"),
        ({"bundle": "/nowhere"}, BundleError, 3, "/nowhere: bundle: expected a readable folder"),
        ({"kv_tokens": 10**12}, DeviceError, 4, "--kv-tokens or --max-context ask for less"),
    ],
)
def test_a_worker_that_cannot_load_says_why(
    bundle: Bundle, change: dict[str, object], error: type[RocmforgeError], exit_code: int, words: str
) -> None:
    engine = RemoteEngine(start_of(bundle, **change), CountingMetrics())
    engine.start()
    with pytest.raises(error, match=words) as raised:
        engine.wait()
    assert (type(raised.value), raised.value.exit_code) == (error, exit_code)
    engine.stop(0)
    assert engine.pid is None


# What is counted and told.


def test_metrics_are_those_of_an_engine_in_this_process(bundle: Bundle, tokenizer: Tokenizer) -> None:
    counted, told = [], []
    prompt = tuple(range(3, 100))
    for here in (True, False):
        metrics, events = CountingMetrics(), list[RequestEvent]()
        options: dict[str, Any] = {"observer": events.append, "request_ids": itertools.count(70)}
        with contextlib.ExitStack() as stack:
            engine: EngineApi
            if here:
                engine = stack.enter_context(
                    serving(load(bundle, BLOCKS, threads=1), tokenizer, metrics=metrics, **options)
                )
            else:
                engine = stack.enter_context(working(start_of(bundle), metrics, **options))
            for more in (5, 1, 9):
                ended(engine.submit(request(prompt, more, ignore_eos=True)))
            assert engine.embed([EmbeddingRequest(prompt, "last")])[0].result(SECONDS) is not None
            cancelled = engine.submit(request(3, 200, ignore_eos=True))
            cancelled.inbox.get(timeout=SECONDS)
            cancelled.cancel()
            while not cancelled.inbox.get(timeout=SECONDS).finished:
                pass
            wait_until(lambda found=metrics: sum(found.finished.values()) == 5)  # type: ignore[misc]
            wait_until(lambda engine=engine: engine.stats().active == 0)  # type: ignore[misc]
        tokens = len(cancelled.state().tokens)
        counted.append(
            (metrics.started, metrics.finished, metrics.observed, metrics.hit_tokens, metrics.tokens - tokens)
        )
        told.append([(one.kind, one.request_id, one.reason) for one in events])
        assert all(earlier.at <= later.at for earlier, later in itertools.pairwise(events))
    assert counted[0] == counted[1]
    assert Counter(told[0]) == Counter(told[1])
    assert told[0][:12] == told[1][:12]


def test_an_observer_finds_the_context_of_who_submits(bundle: Bundle) -> None:
    mine: ContextVar[str] = ContextVar("mine", default="nobody")
    found: list[str] = []

    def observe(event: RequestEvent) -> None:
        if event.kind == "queued":
            found.append(mine.get())
        raise ZeroDivisionError  # and that it fails stops nothing

    with working(start_of(bundle), observer=observe) as engine:
        mine.set("me")
        assert ended(engine.submit(request())).finish_reason == "length"
    assert found == ["me"]


def test_requests_are_counted_before_their_end_is_seen(bundle: Bundle) -> None:
    metrics = CountingMetrics()
    with working(start_of(bundle), metrics) as engine:
        for number in range(50):
            ended(engine.submit(request(3, 2)))
            assert sum(metrics.finished.values()) >= number  # the last frame may be cut between event and turn


def test_stats(remote: RemoteEngine, local: Engine) -> None:
    mine, theirs = remote.stats(), local.stats()
    assert (mine.running, mine.device_available, mine.problem) == (True, True, None)
    assert (mine.pages_total, mine.active, mine.queued) == (theirs.pages_total, 0, 0)
    assert mine.memory_total_bytes == theirs.memory_total_bytes
    [device] = mine.devices
    assert (device.device, device.restarts, device.running, device.pages_total) == ("host", 0, True, mine.pages_total)
    assert (remote.max_context, remote.vocab_size) == (local.max_context, local.vocab_size)


def test_many_threads(remote: RemoteEngine, local: Engine, tokenizer: Tokenizer) -> None:
    requests = assorted_requests(tokenizer)
    expected = [ended(local.submit(one)) for one in requests]
    found: dict[int, object] = {}

    def ask(number: int) -> None:
        found[number] = dataclasses.replace(ended(remote.submit(requests[number])), request_id=0)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert found == {number: dataclasses.replace(one, request_id=0) for number, one in enumerate(expected)}
    wait_until(lambda: remote.load == 0)
    assert remote.stats().pages_used == 0


# The wire.


def test_every_message_and_all_that_is_in_one_travels(tokenizer: Tokenizer) -> None:
    """Of each kind one, with something in every field."""
    values: dict[str, object] = {"str": "\ud800é\0", "int": 2**63, "float": 0.1, "bool": True, "None": None}
    for kind in wire._KINDS:
        fields = dataclasses.fields(kind)
        one = kind(*[values.get(str(field.type).split(" | ")[0], (1, "a")) for field in fields])
        assert wire.decode(wire.encode((one, (one,)))) == (one, (one,))
