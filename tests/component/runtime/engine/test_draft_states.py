"""Draft models with recurrent state: what was refused is forgotten, whatever slots there are, and no token changes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.target import TARGETS
from rocmforge.runtime.device import load as device_load
from rocmforge.runtime.device.batch import Batch, Program
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.device.memory import KvSize, draft_slots
from rocmforge.runtime.engine import draft_loading
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.loading import EngineOptions, load_engine, load_tokenizer
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.drafting import Eager, drafted
from rocmforge.tests.support.emulated_programs import compiled
from rocmforge.tests.support.engine_harness import CountingMetrics, ended, load, serving, waiting_steps
from rocmforge.tests.support.state_program import BLOCK, WORDS, HashingProgram, answer
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.architecture_models import write_architecture

EVERY = 7  # positions of which the draft model is wrong at one
NAMES = ("lfm2", "qwen35", "mamba2")
ARCH = "gfx1100"


class Drafting(HashingProgram):
    """Says what the served one says but for every seventh position; sees that a state is that of the text before it."""

    def __init__(self, num_slots: int, num_blocks: int = 64, wrong: bool = True) -> None:
        super().__init__(num_slots, num_blocks)
        self._wrong = wrong
        self._texts: dict[int, tuple[int, ...]] = {}
        self._seen: dict[tuple[int, int], tuple[int, ...]] = {}

    def _say(self, batch: Batch) -> list[int]:
        assert batch.state_from is not None
        assert batch.state_to is not None
        read = {slot: self._texts[slot] for slot in batch.state_from.tolist() if slot >= 0}
        for row, (first, end) in enumerate(itertools.pairwise(batch.sequence_starts().tolist())):
            text = read.get(int(batch.state_from[row]), ())
            for at in range(first, end):
                position, blocks = int(batch.positions[at]), batch.block_table[row]
                before = self._seen[int(blocks[(position - 1) // BLOCK]), (position - 1) % BLOCK] if position else ()
                assert text == before
                text = (*text, int(batch.token_ids[at]))
                self._seen[int(blocks[position // BLOCK]), position % BLOCK] = text
                if (goal := int(batch.state_to[at])) >= 0:
                    self._texts[goal] = text
        said, rows = super()._say(batch), batch.positions[batch.logits_rows].tolist()
        errs = [self._wrong and position % EVERY == 0 for position in rows]
        return [2 + (one - 1) % WORDS if wrong else one for one, wrong in zip(said, errs, strict=True)]


def prompts(count: int, length: int = 40, shared: int = 0) -> list[tuple[int, ...]]:
    random = np.random.default_rng(3)
    head = tuple(random.integers(5, 90, shared).tolist())
    return [(*head, *random.integers(5, 90, length + 3 * one).tolist()) for one in range(count)]


def asked(prompt: tuple[int, ...], tokens: int) -> GenerationRequest:
    return GenerationRequest(prompt, tokens, SamplingParams(0.0), ignore_eos=True)


def rejections(metrics: CountingMetrics) -> int:
    return sum(right < made for made, right in metrics.drafts)


@pytest.mark.parametrize("count", [1, 4, 8])
def test_all_drafts_that_are_right_are_gone_on_from(count: int) -> None:
    """Each token is computed once by the draft model too, but the last draft of a step, which it only draws."""
    policy, metrics, small = Eager(count), CountingMetrics(), Drafting(64, wrong=False)
    pair = drafted(HashingProgram(64), small, policy)
    limits = EngineLimits(draft_tokens=count)
    with serving(pair, context=4096, metrics=metrics, limits=limits, policy=policy) as engine:
        for prompt in prompts(3):
            assert ended(engine.submit(asked(prompt, 50))).tokens == tuple(answer(prompt, 50))
        stats = engine.stats().draft
    assert stats is not None
    assert policy.problem is None
    assert stats.proposed == stats.accepted > 60
    assert small.computed <= sum(len(prompt) + 50 for prompt in prompts(3))


@pytest.mark.parametrize("slots", [3, 4, 7, 64])
def test_a_draft_model_that_errs_goes_back_to_its_own_tokens(slots: int) -> None:
    """However few slots: it is wrong where it errs by itself, and nowhere else."""
    policy, metrics, small = Eager(5), CountingMetrics(), Drafting(slots)
    pair = drafted(HashingProgram(64), small, policy)
    limits = EngineLimits(draft_tokens=5)
    with serving(pair, context=4096, metrics=metrics, limits=limits, policy=policy) as engine:
        for prompt in prompts(2):
            assert ended(engine.submit(asked(prompt, 100))).tokens == tuple(answer(prompt, 100))
    assert policy.problem is None
    assert 0 < rejections(metrics) <= 2 * (100 // EVERY + 1)
    assert policy.accepted > 100
    assert policy.accepted / len(metrics.drafts) > 2
    assert max(made for made, _ in metrics.drafts) == 5


@pytest.mark.parametrize(
    "slots, blocks, small_blocks", [(64, 64, 64), (24, 24, 24), (9, 64, 64), (4, 64, 64), (24, 64, 12)]
)
def test_together(slots: int, blocks: int, small_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside each other, in chunks, preempted, with slots for some of them alone."""
    policy, metrics = Eager(3), CountingMetrics()
    program, small = HashingProgram(64, blocks), Drafting(slots, small_blocks)
    submitted = waiting_steps(program, monkeypatch)
    limits = EngineLimits(draft_tokens=3, prefill_tokens=16)
    pair = drafted(program, small, policy, 16)
    with serving(pair, context=4096, metrics=metrics, limits=limits, policy=policy) as engine:
        generations = [engine.submit(asked(prompt, 60)) for prompt in prompts(6)]
        submitted.set()
        for prompt, generation in zip(prompts(6), generations, strict=True):
            assert ended(generation).tokens == tuple(answer(prompt, 60))
        assert (engine.stats().preemptions > 0) == (blocks == 24)
    assert policy.problem is None
    assert policy.accepted > 20
    assert rejections(metrics) <= 6 * (60 // EVERY + 1)


def test_prompts_are_gone_on_from_where_a_state_was_kept() -> None:
    """Of 320 tokens that a prompt shares with one before it, the draft model computes few again; of an answer's next
    turn none but the new ones and a block."""
    policy, small = Eager(4), Drafting(64)
    small.layout = dataclasses.replace(small.layout, max_batch_tokens=30)
    pair = drafted(HashingProgram(64, 128), small, policy)
    with serving(pair, context=4096, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        computed = [0]
        for prompt in prompts(3, 10, 320):
            assert ended(engine.submit(asked(prompt, 20))).tokens == tuple(answer(prompt, 20))
            computed.append(small.computed)
        last = prompts(3, 10, 320)[-1]
        turn = (*last, *answer(last, 20), *range(5, 15))
        assert ended(engine.submit(asked(turn, 2))).tokens == tuple(answer(turn, 2))
    taken = np.diff([*computed, small.computed]).tolist()
    assert policy.problem is None
    assert taken[0] > 330
    assert taken[1] < 64 + 128 + 64
    assert taken[2] < 64 + 64
    assert taken[3] < 64


def test_numbers_that_are_none_are_not_gone_on_from() -> None:
    policy, small = Eager(4), HashingProgram(64)
    small._script = lambda batch: [-1] * len(batch.logits_rows)
    pair, prompt = drafted(HashingProgram(64), small, policy), prompts(1)[0]
    with serving(pair, context=4096, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
        for number in range(2):
            assert ended(engine.submit(asked(prompt, 20))).tokens == tuple(answer(prompt, 20))
            assert sum(len(batch.token_ids) for batch in small.batches) == (len(prompt) + 1) * (number + 1)
        assert engine.stats().draft_tokens == 0
        states = pair._drafts._states
        assert states is not None
        assert (states._slots.pool.num_cached, states.num_free) == (0, 64)


@contextlib.contextmanager
def of_one_level(path: Path, cache: BuildCache, archs: tuple[str, ...]) -> Iterator[Bundle]:
    """The bundle of a model, built for one level of the host, which decides nothing here."""
    host = TARGETS["host"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(TARGETS, "host", dataclasses.replace(host, variants=host.variants[-1:]))
        with compiled(path, cache, path.with_suffix(".rfb"), archs=archs) as bundle:
            yield bundle


@pytest.fixture(scope="module", params=NAMES)
def hybrid(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache
) -> Iterator[Bundle]:
    """Of four layers, for the host and for a GPU."""
    path = tmp_path_factory.mktemp(request.param) / "little.gguf"
    write_architecture(path, request.param, num_layers=4, keys={"context_length": 256})
    with of_one_level(path, build_cache, (ARCH, "host")) as bundle:
        yield bundle


def texts_of(program: Program, small: Program | None, tokenizer: Tokenizer, tokens: int) -> list[tuple[int, ...]]:
    """Of two requests at once: greedy, and drawn; where something drafts, it is always right."""
    policy = Eager(4)
    pair = program if small is None else drafted(program, small, policy)
    limits = EngineLimits(draft_tokens=4 * (small is not None))
    ids = tuple(np.random.default_rng(5).integers(3, 90, 20).tolist())
    samplings = SamplingParams(0.0), SamplingParams(0.9, seed=4)
    with serving(pair, tokenizer, 256, limits=limits, policy=policy if small is not None else None) as engine:
        found = [engine.submit(GenerationRequest(ids, tokens, one, ignore_eos=True)) for one in samplings]
        texts = [ended(one).tokens for one in found]
    assert policy.problem is None
    assert policy.proposed == policy.accepted
    assert (policy.accepted >= tokens) == (small is not None)
    return texts


def test_a_hybrid_that_drafts_for_itself(hybrid: Bundle) -> None:
    tokenizer = load_tokenizer(hybrid)
    expected = texts_of(load(hybrid, 32, 1, 12), None, tokenizer, 60)
    assert texts_of(load(hybrid, 32, 1, 24), load(hybrid, 32, 1, 6), tokenizer, 60) == expected


def test_a_hybrid_drafts_on_an_emulated_gpu(hybrid: Bundle) -> None:
    def gpu(slots: int) -> Program:
        emulator = HipEmulator(ARCH, check=False, count=False)
        return load_hip_program(hybrid, emulator, KvSize(16, 64, slots), nodes=None, report=str)

    tokenizer = load_tokenizer(hybrid)
    assert texts_of(gpu(24), gpu(6), tokenizer, 7) == texts_of(gpu(12), None, tokenizer, 7)


def test_a_strange_hybrid_drafts(hybrid: Bundle, tmp_path: Path, build_cache: BuildCache) -> None:
    """Of other weights, so that most of its drafts are refused."""
    name, policy = hybrid.manifest.model.architecture, Eager(4)
    path = write_architecture(tmp_path / "strange.gguf", name, seed=9, num_layers=4, keys={"context_length": 256})
    tokenizer = load_tokenizer(hybrid)
    ids = tuple(np.random.default_rng(6).integers(3, 90, 30).tolist())
    requests = [GenerationRequest(ids, 60, SamplingParams(one, seed=2), ignore_eos=True) for one in (0.0, 1.0)]
    with serving(load(hybrid, 16, 1, 12), tokenizer, 256) as engine:
        expected = [ended(engine.submit(one)).tokens for one in requests]
    with of_one_level(path, build_cache, ("host",)) as strange:
        pair = drafted(load(hybrid, 32, 1, 24), load(strange, 32, 1, 7), policy)
        with serving(pair, tokenizer, 256, limits=EngineLimits(draft_tokens=4), policy=policy) as engine:
            found = [engine.submit(one) for one in requests]
            assert [ended(one).tokens for one in found] == expected
    assert policy.problem is None
    assert 0 <= policy.accepted < policy.proposed // 2


def test_the_memory_contract_counts_its_slots(hybrid: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    target = next(one for one in hybrid.manifest.targets if one.backend == "host")
    layout, device = hybrid.layout_of(target), DeviceOptions("host", 1, state_slots=4)
    options, beside = EngineOptions(device, kv_tokens=512), hybrid.layouts.values()
    slots = draft_slots(layout, None)
    assert slots == 3 * layout.max_sequences + 64
    monkeypatch.setattr(draft_loading, "available_memory", lambda: None)
    cache = 512 // layout.kv.block_size * layout.kv.bytes_per_block
    arenas = layout.arena_bytes() + max(one.arena_bytes() for one in beside)
    needed = arenas + 2 * cache + (slots + 4) * layout.bytes_per_slot
    monkeypatch.setattr(device_load, "available_memory", lambda: needed)
    tokenizer = load_tokenizer(hybrid)
    engine = load_engine(hybrid, options, tokenizer, Metrics(), draft=hybrid)
    engine.start()
    assert len(ended(engine.submit(asked(tuple(range(20, 40)), 20))).tokens) == 20
    stats = engine.stats().draft
    assert stats is not None
    assert (stats.model, stats.problem) == ("little", None)
    engine.stop(5)
    monkeypatch.setattr(device_load, "available_memory", lambda: needed - 1)
    with pytest.raises(DeviceError, match=rf"with those of the draft model and its {slots} slots of state \(\d+ MiB\)"):
        load_engine(hybrid, options, tokenizer, Metrics(), draft=hybrid)


def test_slots_of_a_draft_model(hybrid: Bundle) -> None:
    layout = hybrid.layout
    each = layout.bytes_per_slot
    assert draft_slots(layout, 8 * 10 * each) == 10
    assert draft_slots(layout, 0) == 3
    assert draft_slots(dataclasses.replace(layout, states=()), None) == 0
    wide = dataclasses.replace(layout, max_sequences=1 << 40)
    assert draft_slots(wide, None) == (1 << 30) // each
