"""Small hybrids, and a model of state alone, on the host and on an emulated GPU: a request gets the same bits however
its prompt is cut, wherever it is gone on from, and whatever else runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device.batch import Program
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.solo import Solo
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.emulated_programs import compiled
from rocmforge.tests.support.engine_harness import ended, load, serving
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.judge import nmse

NAMES = ("lfm2", "qwen35", "mamba2")  # convolutions; a delta rule beside; and no attention at all
ARCH = "gfx1100"
CONTEXT = 256
IDS = [int(one) for one in np.random.default_rng(5).integers(0, 96, 120)]


@pytest.fixture(scope="module", params=NAMES)
def hybrid(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache
) -> Iterator[Bundle]:
    """Of four layers, built for one level of the host, which decides nothing here, and for a GPU."""
    path = tmp_path_factory.mktemp(request.param) / "model.gguf"
    write_architecture(path, request.param, num_layers=4, keys={"context_length": CONTEXT})
    with compiled(path, build_cache, path.with_suffix(".rfb"), archs=(ARCH, "host")) as bundle:
        yield bundle


@pytest.fixture
def words(hybrid: Bundle) -> Tokenizer:
    return load_tokenizer(hybrid)


def logits_of(program: Program, cuts: list[int]) -> np.ndarray:
    """float32[tokens, vocab_size] of a prompt that is cut at these places."""
    solo, parts = Solo(program.layout), []
    for first, end in itertools.pairwise([0, *cuts]):
        program.step(solo.batch(IDS[first:end], first, None, range(end - first)))
        parts.append(program.logits(end - first))
    return np.concatenate(parts)


def test_logits_are_the_same_bits_however_a_prompt_is_cut(hybrid: Bundle) -> None:
    program = load(hybrid, 8, 1, 2)
    whole = logits_of(program, [60])
    for cuts in ([1, 60], [59, 60], [16, 17, 40, 60], list(range(1, 61))):
        assert logits_of(program, cuts).tobytes() == whole.tobytes(), cuts
    program.close()


def on_gpu(bundle: Bundle) -> Program:
    size = KvSize(16, CONTEXT, 12)
    return load_hip_program(bundle, HipEmulator(ARCH, check=False, count=False), size, nodes=None, report=str)


def test_a_gpu_gives_what_the_host_gives_however_a_prompt_is_cut(hybrid: Bundle) -> None:
    host, gpu = load(hybrid, 8, 1, 2), on_gpu(hybrid)
    expected, whole = logits_of(host, [23]), logits_of(gpu, [23])
    assert max(nmse(*rows) for rows in zip(whole, expected, strict=True)) < 1e-4
    assert logits_of(gpu, [7, 8, 20, 21, 22, 23]).tobytes() == whole.tobytes()
    host.close()
    gpu.close()


def requests() -> list[GenerationRequest]:
    """Of two beginnings, with the logits of what is drawn; half say two words alone, so that drafts are often right."""
    made = []
    two_words = SamplingParams(0.0, logit_bias=((40, 50.0), (41, 50.0)))
    for number in range(10):
        begin = IDS[:50] if number % 3 else IDS[60:100]
        sampling = two_words if number % 2 else SamplingParams(0.8, top_k=5, seed=number)
        prompt = (*begin, *IDS[number : number + 3 * number])
        made.append(GenerationRequest(prompt, 20 + 4 * number, sampling, ignore_eos=True, logprobs=3))
    return made


def bits(state: GenerationState) -> object:
    return state.tokens, state.logprobs, state.finish_reason


@pytest.fixture(scope="module")
def alone(hybrid: Bundle) -> list[object]:
    """What each comes to, one after another, none going on from another's state."""
    with serving(load(hybrid, 16, 1, 2), load_tokenizer(hybrid)) as engine:
        found = [
            bits(ended(engine.submit(replace(one, cache_space=str(number))))) for number, one in enumerate(requests())
        ]
        assert engine.stats().prefix_hit_tokens == 0
    return found


@pytest.mark.parametrize(
    "blocks, slots, tokens, drafts",
    [
        pytest.param(100, 64, 24, 5, id="chunks-and-drafts"),
        pytest.param(20, 40, 40, 4, id="few-pages"),
        pytest.param(100, 5, 64, 0, id="few-slots"),
    ],
)
def test_together_each_is_what_it_is_alone(
    hybrid: Bundle, words: Tokenizer, alone: list[object], blocks: int, slots: int, tokens: int, drafts: int
) -> None:
    program = load(hybrid, blocks, 1, slots, max_batch_tokens=tokens)
    with serving(program, words, limits=EngineLimits(draft_tokens=drafts, prefill_tokens=16)) as engine:
        found = [bits(ended(generation)) for generation in [engine.submit(one) for one in requests()]]
        again = [bits(ended(engine.submit(one))) for one in requests()[:2]]
        stats = engine.stats()
    assert found == alone
    assert again == alone[:2]
    assert stats.prefix_hit_tokens > 0 or slots == 5  # of few, which are left to snapshots is chance
    assert (stats.preemptions > 0) == (blocks == 20)
    assert (stats.draft_tokens_accepted > 0) == (drafts > 0)
    assert (stats.pages_used, stats.state_slots_used, stats.state_slots_total) == (0, 0, slots)
    assert 0 < stats.state_slots_cached <= slots


def test_an_emulated_gpu_serves_from_snapshots(hybrid: Bundle, words: Tokenizer) -> None:
    """Two at once, and then one of them again, which goes on from its last boundary but a token."""
    asked = [GenerationRequest(tuple(IDS[:33]), 6, SamplingParams(0.0), ignore_eos=True, logprobs=2)]
    asked.append(replace(asked[0], prompt_token_ids=(*IDS[:20], *IDS[50:60])))
    with serving(on_gpu(hybrid), words) as engine:
        first = [bits(ended(engine.submit(one))) for one in asked]
        hits = engine.stats().prefix_hit_tokens
        again = [bits(ended(generation)) for generation in [engine.submit(one) for one in asked]]
        stats = engine.stats()
    assert again == first
    assert (hits, stats.prefix_hit_tokens - hits) == (16, 32 + 16)
    assert stats.state_slots_used == 0
