"""A block that a model brings changes how many steps a text takes, and never a token, an end or a log-probability."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import falcon.testing
import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.library.loading import load as load_model
from rocmforge.library.params import GenerationParams
from rocmforge.runtime.device.batch import Float32, Program
from rocmforge.runtime.device.hip.api import HipApi
from rocmforge.runtime.device.hip.memory import place_buffers, place_tensors
from rocmforge.runtime.device.hip.open_program import open_program
from rocmforge.runtime.device.hip.placement import WeightPlaces, host_bytes
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.parts import load_part
from rocmforge.runtime.device.solo import Solo
from rocmforge.runtime.engine import draft_head, draft_loading
from rocmforge.runtime.engine import drafts as drafts_module
from rocmforge.runtime.engine.drafts import DEFAULT_DRAFTS, DraftHistory
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.engine.loading import EngineOptions, draft_limits, load_engine, load_tokenizer
from rocmforge.runtime.http.app import create_app
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.transport.auth import Security
from rocmforge.runtime.serve import ServeOptions, Shared, make_pool
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.telemetry.tracing import UNTRACED, Tracer
from rocmforge.tests.support.drafting import Recorded, headed, same
from rocmforge.tests.support.emulated_programs import compiled as compiled_for_gpus
from rocmforge.tests.support.emulated_programs import load as load_on_gpu
from rocmforge.tests.support.engine_harness import CountingMetrics, ended, load, serving, waiting_steps
from rocmforge.tests.support.faulty_program import FaultyProgram, fault_plan
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.draft_models import agree, write_drafting

CONTEXT = 192
ARCH = "gfx1100"
OPTIONS = EngineOptions(DeviceOptions("host", 1), kv_tokens=512)
IDS = [int(one) for one in np.random.default_rng(5).integers(3, 96, 60)]
GREEDY = GenerationRequest(tuple(IDS[:20]), 30, SamplingParams(0.0), ignore_eos=True)


def made(name: str, agreeing: bool, folder: Path, cache: BuildCache) -> Bundle:
    path = write_drafting(folder / "model.gguf", name, context=CONTEXT)
    if agreeing:
        agree(path)
    with building_levels(("portable",)):
        return compiled_for_gpus(
            path, cache, path.with_suffix(".rfb"), archs=(ARCH, "host") if name == "qwen35" else ("host",)
        )


@pytest.fixture(scope="module", params=["qwen35", "glm4moe"])
def agreeing(
    request: pytest.FixtureRequest, build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bundle]:
    """A hybrid, and a mixture, whose blocks draft what they say themselves."""
    with made(request.param, True, tmp_path_factory.mktemp(request.param), build_cache) as bundle:
        yield bundle


@pytest.fixture(scope="module")
def random(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A hybrid whose block drafts at random."""
    with made("qwen35", False, tmp_path_factory.mktemp("random"), build_cache) as bundle:
        yield bundle


def several() -> list[GenerationRequest]:
    """Prompts of one token and of more than a step has, greedy and drawn, and a prompt that is only scored."""
    return [
        GenerationRequest(tuple(IDS[:9]), 50, SamplingParams(0.0), ignore_eos=True),
        GenerationRequest(tuple(IDS[:7]), 50, SamplingParams(1.0, seed=9), ignore_eos=True),
        GenerationRequest(tuple(IDS), 30, SamplingParams(0.8, top_k=20, seed=6), ignore_eos=True),
        GenerationRequest(tuple(IDS), 30, SamplingParams(0.0, repetition_penalty=1.3), ignore_eos=True),
        GenerationRequest(tuple(IDS[3:]), 20, SamplingParams(1.0, seed=4), logprobs=3, ignore_eos=True),
        GenerationRequest(tuple(IDS[:30]), 0, SamplingParams(0.0), prompt_logprobs=1),
        GenerationRequest(tuple(IDS[:1]), 2, SamplingParams(0.0)),
        GenerationRequest(tuple(IDS[:33]), 40, SamplingParams(0.0)),
    ]


def alone(bundle: Bundle) -> list[GenerationState]:
    """Without drafts, one after another."""
    with serving(load(bundle, 64, 1), load_tokenizer(bundle), CONTEXT) as engine:
        return [ended(engine.submit(one)) for one in several()]


def block_of(bundle: Bundle, beside: Program, num_blocks: int) -> Program:
    return load_part(bundle, "mtp", beside, KvSize(num_blocks, CONTEXT))


@pytest.mark.parametrize("count", [1, 5])
def test_a_block_that_agrees(agreeing: Bundle, count: int) -> None:
    """All drafts are right, several deep, drawn ones too, by the same seeds."""
    program, metrics = load(agreeing, 64, 1, slots=32), CountingMetrics()
    pair, policy = headed(program, block_of(agreeing, program, 64), count)
    limits = EngineLimits(draft_tokens=count)
    with serving(pair, load_tokenizer(agreeing), CONTEXT, metrics=metrics, limits=limits, policy=policy) as engine:
        found = [ended(engine.submit(one)) for one in several()]
        stats = engine.stats()
    assert all(map(same, found, alone(agreeing)))
    assert set(metrics.sources) == {"mtp"}
    assert stats.draft is not None
    assert stats.draft.proposed == stats.draft.accepted == stats.draft_tokens > 80
    assert stats.pages_used == 0


@pytest.mark.parametrize("num_blocks, of_block, slots", [(200, 200, 64), (10, 10, 64), (200, 8, 64), (200, 200, 18)])
def test_together(
    random: Bundle, agreeing: Bundle, num_blocks: int, of_block: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside each other, in chunks, preempted, with few slots of state; the block has as little room itself."""
    for bundle in (random, agreeing):
        program = load(bundle, num_blocks, 1, slots=slots, max_batch_tokens=40)
        pair, policy = headed(program, block_of(bundle, program, of_block), 3, 16)
        limits = EngineLimits(draft_tokens=3, prefill_tokens=16)
        submitted = waiting_steps(program, monkeypatch)
        with serving(pair, load_tokenizer(bundle), CONTEXT, limits=limits, policy=policy) as engine:
            generations = [engine.submit(one) for one in several()]
            submitted.set()
            found = [ended(one) for one in generations]
            stats = engine.stats()
        assert all(map(same, found, alone(bundle)))
        assert stats.draft is not None
        assert stats.draft.problem is None
        assert stats.draft.proposed > 20
        assert (stats.draft.accepted > stats.draft.proposed // 2) == (bundle is agreeing)
        assert (stats.preemptions > 0) == (num_blocks == 10)
        assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)


def test_a_token_is_given_the_state_of_the_one_before_it(random: Bundle) -> None:
    """Of a prompt in chunks and of tokens behind it: the model's own hidden states, those of refused drafts never."""
    program = load(random, 64, 1, slots=32, max_batch_tokens=16)
    block = Recorded(block_of(random, program, 64))
    pair, policy = headed(program, block, 2, 16)  # type: ignore[arg-type]
    limits = EngineLimits(draft_tokens=2, prefill_tokens=16)
    request = GenerationRequest(tuple(IDS), 20, SamplingParams(1.0, seed=2), ignore_eos=True)
    with serving(pair, load_tokenizer(random), CONTEXT, limits=limits, policy=policy) as engine:
        text = [*IDS, *ended(engine.submit(request)).tokens]
    solo, one = load(random, 64, 1), Solo(random.layout)
    hidden = []
    for first in range(0, len(text), 16):
        solo.step(one.batch(text[first : first + 16], first, 8))
        hidden.append(solo.hidden(0, len(text[first : first + 16])))
    states, first_of = np.concatenate(hidden), {}
    for position, token, given in block.seen:
        if position < len(text) and token == text[position] and position not in first_of:
            first_of[position] = given
    assert first_of[0] is None
    checked = [at for at, given in first_of.items() if at and given is not None and (given == states[at - 1]).all()]
    assert set(range(1, len(IDS) + 1)) <= set(checked)
    later = {at for at, token, given in block.seen if given is not None and (given == states[at - 1]).all()}
    assert set(range(1, len(text) - 2)) <= later


def test_states_that_nobody_reads_are_given_up(agreeing: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """No drafts are wanted until the block lags by more than it has states for; then it begins with zeros."""
    monkeypatch.setattr(draft_head, "_MOST_STATES", 8)
    program = load(agreeing, 64, 1, slots=32)
    pair, policy = headed(program, block_of(agreeing, program, 64), 3)
    monkeypatch.setattr(type(policy), "pays", False)
    plan = policy.plan
    kept: list[int] = []

    def late(histories: list[DraftHistory], lengths: list[int], decoding: int, tokens: int) -> list[int]:
        kept.extend(len(shadow.states) for shadow in pair._drafts._shadows.values())
        return plan(histories, lengths, decoding, tokens) if max(lengths, default=0) > 40 else [0] * len(lengths)

    monkeypatch.setattr(policy, "plan", late)
    with serving(pair, load_tokenizer(agreeing), CONTEXT, limits=EngineLimits(draft_tokens=3), policy=policy) as engine:
        assert same(ended(engine.submit(several()[0])), alone(agreeing)[0])
        assert engine.stats().draft_tokens > 0
    assert max(kept) == 8


def test_F137_faults_of_a_block_cost_no_request(random: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts_module, "RETRY_SECONDS", (0.0,))
    program, expected = load(random, 64, 1, slots=32), alone(random)
    block = FaultyProgram(block_of(random, program, 64), fault_plan(40, 3))
    pair, policy = headed(program, block, 3)
    with serving(pair, load_tokenizer(random), CONTEXT, limits=EngineLimits(draft_tokens=3), policy=policy) as engine:
        while sum(block.faults.values()) < 20:
            found = [ended(one) for one in [engine.submit(one) for one in several()]]
            assert all(map(same, found, expected))
        assert engine.stats().device_available


def test_F137_hidden_states_that_cannot_be_read_cost_drafts_alone(
    random: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load(random, 64, 1, slots=32)

    def refuse(first: int, count: int) -> Float32:
        raise DeviceError("no hidden states")

    monkeypatch.setattr(program, "hidden", refuse)
    pair, policy = headed(program, block_of(random, program, 64), 3)
    with serving(pair, load_tokenizer(random), CONTEXT, limits=EngineLimits(draft_tokens=3), policy=policy) as engine:
        assert same(ended(engine.submit(several()[0])), alone(random)[0])
        assert engine.stats().draft_tokens == 0
    assert policy.problem == "no hidden states"


# Where it is loaded.


def test_a_bundle_that_has_a_block_drafts_by_itself(agreeing: Bundle, random: Bundle) -> None:
    limits = EngineLimits()
    assert draft_limits(limits, random, None).draft_tokens == DEFAULT_DRAFTS
    assert draft_limits(EngineLimits(draft_tokens=2), random, None).draft_tokens == 2
    off = EngineLimits(mtp=False)
    assert draft_limits(off, random, None) == off
    found = []
    for limit in (off, limits):
        options = dataclasses.replace(OPTIONS, limits=limit)
        engine = load_engine(agreeing, options, load_tokenizer(agreeing), Metrics())
        engine.start()
        found.append(ended(engine.submit(GREEDY)).tokens)
        stats = engine.stats().draft
        engine.stop(5)
        assert (stats is None) == (limit is off)
    assert stats is not None
    assert (stats.model, stats.problem, stats.proposed) == ("mtp", None, stats.accepted)
    assert found[0] == found[1]


def test_on_an_emulated_gpu(agreeing: Bundle) -> None:
    if len(agreeing.layouts) == 2:
        pytest.skip("the mixture is built for the host alone")
    short = EngineOptions(DeviceOptions("emulated", 1, HipEmulator), max_context=64, kv_tokens=128)
    request = dataclasses.replace(GREEDY, max_tokens=8)
    found = []
    for mtp in (False, True):
        options = dataclasses.replace(short, limits=EngineLimits(mtp=mtp, draft_tokens=2 * mtp))
        engine = load_engine(agreeing, options, load_tokenizer(agreeing), Metrics())
        engine.start()
        found.append(ended(engine.submit(request)).tokens)
        stats = engine.stats()
        engine.stop(60)
    assert found[0] == found[1]
    assert stats.draft is not None
    assert stats.draft.accepted == stats.draft.proposed > 0


def test_places_of_weights_are_asked_of_the_model_alone(random: Bundle) -> None:
    """The block has one layer, and no experts."""
    device = DeviceOptions("emulated", 1, HipEmulator, places=WeightPlaces(gpu_layers=2))
    options = EngineOptions(device, max_context=64, kv_tokens=128)
    engine = load_engine(random, options, load_tokenizer(random), Metrics())
    stats = engine.stats()
    engine.stop(60)
    assert stats.draft is not None
    [layout] = (random.layout_of(target) for target in random.manifest.targets if target.arch == ARCH)
    assert stats.host_weight_bytes == host_bytes(layout, WeightPlaces(gpu_layers=2).chosen(layout)) > 0


def test_what_the_model_has_takes_no_room_a_second_time(random: Bundle) -> None:
    """In memory that the block's own weights fit into, none of them stays in this machine's."""
    model = load_on_gpu(random, ARCH, 8)
    part = random.part("mtp")
    [target] = (one for one in part.manifest.targets if one.arch == ARCH)
    layout, size = part.layout_of(target), KvSize(8, 64)
    shared = {one.name for one in layout.tensors if one.name in model.tensors_of(layout)}
    own = dataclasses.replace(layout, tensors=tuple(one for one in layout.tensors if one.name not in shared))
    free = 8 * layout.kv.bytes_per_block + place_buffers(layout)[1] + place_tensors(own)[1]

    class Tight:
        def __getattr__(self, name: str) -> object:
            return getattr(model.api, name)

        def hipMemGetInfo(self, of_free: Any, of_total: Any) -> int:
            of_free._obj.value, of_total._obj.value = free, 1 << 34
            return 0

    block = open_program(part, cast(HipApi, Tight()), model.device, target, size, str, graphs="off", beside=model)
    assert block.facts().host_weight_bytes == 0
    block.close()
    free -= 1
    block = open_program(part, cast(HipApi, Tight()), model.device, target, size, str, graphs="off", beside=model)
    assert block.facts().host_weight_bytes > 0
    block.close()
    model.close()


def test_F72_a_block_whose_graphs_fail_leaves_nothing(random: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[HipProgram] = []

    def fails(program: HipProgram) -> None:
        made.append(program)
        raise DeviceError("a step fails")

    device = DeviceOptions("emulated", 1, HipEmulator)
    monkeypatch.setattr(HipProgram, "try_graphs", fails)
    with pytest.raises(DeviceError, match=r"^a step fails$"):
        load_engine(random, EngineOptions(device, max_context=64, kv_tokens=128), load_tokenizer(random), Metrics())
    assert [program.allocations() for program in made] == [{}]


def test_memory_counts_what_the_block_has_of_its_own(random: Bundle) -> None:
    loader = draft_loading.HeadLoader(random, drafts_module.DraftPolicy("mtp", 4, "mtp"), 64)
    size = loader.size(KvSize(4, 64))
    own = {layout.kv.num_layers for layout in size.beside}
    names = {tensor.name.split(".")[0] for layout in size.beside for tensor in layout.tensors}
    assert (own, names, len(size.beside)) == ({1}, {"layers"}, 2)


@pytest.mark.parametrize("worker", [False, True])
def test_served(agreeing: Bundle, worker: bool) -> None:
    """In this process, or with the engine in one of its own; the health names the block, metrics count its drafts."""
    with load_model(agreeing.path, device=DeviceOptions("host", 1), limits=EngineLimits(mtp=False)) as model:
        params = GenerationParams(max_tokens=30, temperature=0.0, ignore_eos=True)
        expected = model.generate(GREEDY.prompt_token_ids, params).token_ids
    options = ServeOptions((agreeing.path,), "127.0.0.1", 0, DeviceOptions("host", 1), kv_tokens=512, worker=worker)
    shared = Shared(Metrics(), Tracer(UNTRACED))
    pool = make_pool(options, shared)
    try:
        client = falcon.testing.TestClient(create_app(pool, shared.metrics, HttpLimits(), Security(), shared.tracer))
        with pool.lease(None) as lease:
            assert ended(lease.service.engine.submit(GREEDY)).tokens == expected
        found = client.simulate_get("/health").json["checks"]["draft"]
        assert (found["model"], found["available"], found["proposed"] > 0) == ("mtp", True, True)
        lines = client.simulate_get("/metrics").text.splitlines()
        assert f'rocmforge_drafts_accepted_total{{source="mtp"}} {found["accepted"]}' in lines
    finally:
        pool.close(1.0)
