"""An EAGLE 3 head changes how many steps a text takes, and never a token, an end or a log-probability."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import Silent
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Program
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.parts import load_part
from rocmforge.runtime.device.solo import Solo
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.engine.loading import EngineOptions, load_engine, load_tokenizer
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.tests.support.drafting import Recorded, headed, same
from rocmforge.tests.support.engine_harness import CountingMetrics, ended, load, serving, waiting_steps
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.eagle_models import write_agreeing, write_head

CONTEXT = 192
IDS = [int(one) for one in np.random.default_rng(5).integers(3, 96, 60)]


def built(model: Path, head: Path, archs: tuple[str, ...], cache: BuildCache) -> Bundle:
    options = CompileOptions(model, model.with_suffix(".rfb"), archs, toolchain="zig", draft_head=head)
    with building_levels(("portable",)):
        compile_model(options, cache, Silent(), make_golden)
    return open_bundle(options.goal)


@pytest.fixture(scope="module")
def agreeing(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A model whose head drafts what it says itself."""
    pair = write_agreeing(tmp_path_factory.mktemp("agreeing"), CONTEXT)
    with built(*pair, ("host", "gfx1100"), build_cache) as bundle:
        yield bundle


@pytest.fixture(scope="module")
def random(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A model of Qwen3's kind whose head drafts some of its tokens at random."""
    folder = tmp_path_factory.mktemp("random")
    model = write_architecture(folder / "model.gguf", "qwen3", keys={"context_length": CONTEXT})
    with built(model, write_head(folder / "head.gguf", own=True, context=CONTEXT), ("host",), build_cache) as bundle:
        yield bundle


def several() -> list[GenerationRequest]:
    """Prompts of one token and of more than a step has, greedy and drawn, and a prompt that is only scored."""
    return [
        GenerationRequest(tuple(IDS[:9]), 50, SamplingParams(0.0), ignore_eos=True),
        GenerationRequest(tuple(IDS), 30, SamplingParams(0.8, top_k=20, seed=6), ignore_eos=True),
        GenerationRequest(tuple(IDS), 30, SamplingParams(0.0, repetition_penalty=1.3), ignore_eos=True),
        GenerationRequest(tuple(IDS[3:]), 20, SamplingParams(1.0, seed=4), logprobs=3, ignore_eos=True),
        GenerationRequest(tuple(IDS[:30]), 0, SamplingParams(0.0), prompt_logprobs=1),
        GenerationRequest(tuple(IDS[:1]), 12, SamplingParams(0.0), ignore_eos=True),
        GenerationRequest(tuple(IDS[:33]), 40, SamplingParams(0.0)),
    ]


def alone(bundle: Bundle) -> list[GenerationState]:
    """Without drafts, one after another."""
    with serving(load(bundle, 64, 1), load_tokenizer(bundle), CONTEXT) as engine:
        return [ended(engine.submit(one)) for one in several()]


def head_of(bundle: Bundle, beside: Program, num_blocks: int) -> Program:
    return load_part(bundle, "eagle3", beside, KvSize(num_blocks, CONTEXT))


@pytest.mark.parametrize("count", [1, 5])
def test_a_head_that_agrees(agreeing: Bundle, count: int) -> None:
    """All drafts are right, drawn ones too, by the same seeds; several deep nearly all: values are kept as float16, and
    a draw between two that are as likely may go the other way."""
    program, metrics = load(agreeing, 64, 1), CountingMetrics()
    pair, policy = headed(program, head_of(agreeing, program, 64), count, source="eagle3")
    limits = EngineLimits(draft_tokens=count)
    with serving(pair, load_tokenizer(agreeing), CONTEXT, metrics=metrics, limits=limits, policy=policy) as engine:
        found = [ended(engine.submit(one)) for one in several()]
        stats = engine.stats()
    assert all(map(same, found, alone(agreeing)))
    assert set(metrics.sources) == {"eagle3"}
    assert stats.draft is not None
    assert stats.draft.problem is None
    assert stats.draft.proposed == stats.draft_tokens > 80
    assert stats.draft.accepted >= stats.draft.proposed * (1 if count == 1 else 0.9)
    assert stats.pages_used == 0


@pytest.mark.parametrize("num_blocks, of_head", [(200, 200), (10, 10), (200, 8)])
def test_together(
    random: Bundle, agreeing: Bundle, num_blocks: int, of_head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside each other, in chunks, preempted; the head has as little room itself."""
    for bundle in (random, agreeing):
        program = load(bundle, num_blocks, 1, max_batch_tokens=40)
        pair, policy = headed(program, head_of(bundle, program, of_head), 3, 16, source="eagle3")
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


def test_a_token_is_given_the_states_of_the_one_before_it(random: Bundle) -> None:
    """Of a prompt in chunks and of tokens behind it: the model's own, those of refused drafts never. The second token
    is the head's first."""
    program = load(random, 64, 1, max_batch_tokens=16)
    head = Recorded(head_of(random, program, 64))
    pair, policy = headed(program, head, 2, 16, source="eagle3")  # type: ignore[arg-type]
    limits = EngineLimits(draft_tokens=2, prefill_tokens=16)
    request = GenerationRequest(tuple(IDS), 20, SamplingParams(1.0, seed=2), ignore_eos=True)
    with serving(pair, load_tokenizer(random), CONTEXT, limits=limits, policy=policy) as engine:
        text = [*IDS, *ended(engine.submit(request)).tokens]
    solo, one = load(random, 64, 1), Solo(random.layout)
    states = []
    for first in range(0, len(text), 16):
        solo.step(one.batch(text[first : first + 16], first, 8))
        states += list(solo.tapped(0, len(text[first : first + 16])))
    exact = {
        at
        for at, token, given in head.seen
        if at + 1 < len(text) and token == text[at + 1] and given is not None
        if np.array_equal(given[:192], states[at]) and not given[192:].any()
    }
    assert set(range(len(text) - 3)) <= exact
    guessed = [given for _, _, given in head.seen if given is not None and not given[:192].any()]
    assert guessed
    assert all(given[192:].any() for given in guessed)


@pytest.mark.parametrize("place", ["host", "emulated"])
def test_a_bundle_that_has_a_head_drafts_by_itself(agreeing: Bundle, place: str) -> None:
    device = DeviceOptions("host", 1) if place == "host" else DeviceOptions("emulated", 1, HipEmulator)
    request, found = GenerationRequest(tuple(IDS[:20]), 8, SamplingParams(0.0), ignore_eos=True), []
    for wanted in (False, True):
        limits = EngineLimits(mtp=wanted, draft_tokens=2 * wanted)
        options = EngineOptions(device, max_context=64, kv_tokens=128, limits=limits)
        engine = load_engine(agreeing, options, load_tokenizer(agreeing), Metrics())
        engine.start()
        found.append(ended(engine.submit(request)).tokens)
        stats = engine.stats().draft
        engine.stop(60)
        assert (stats is not None) == wanted
    assert found[0] == found[1]
    assert stats is not None
    assert (stats.model, stats.problem) == ("eagle3", None)
    assert stats.accepted == stats.proposed > 0
