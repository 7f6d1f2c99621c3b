"""A draft model beside a served one: what it may be, where it is loaded, and what is said of it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import falcon.testing
import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import BundleError, DeviceError, UsageError
from rocmforge.artifacts.processors import Processors
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.library.loading import load as load_model
from rocmforge.library.params import GenerationParams
from rocmforge.runtime.device import load as device_load
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.engine import draft_loading
from rocmforge.runtime.engine.drafts import DEFAULT_DRAFTS
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.loading import EngineOptions, load_engine, load_tokenizer
from rocmforge.runtime.http.app import create_app
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.transport.auth import Security
from rocmforge.runtime.serve import ServeOptions, Shared, make_pool
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.telemetry.tracing import UNTRACED, Tracer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.emulated_programs import compiled as compiled_for_gpus
from rocmforge.tests.support.engine_harness import ended
from rocmforge.tests.support.programs import compiled, logits
from rocmforge.tools.bench.draft_model import write_pair
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.fixtures import write_model

OPTIONS = EngineOptions(DeviceOptions("host", 1), kv_tokens=512)
GREEDY = GenerationRequest(tuple(range(40, 60)), 30, SamplingParams(0.0), ignore_eos=True)


@pytest.fixture(scope="module")
def draft(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A copy of the served model, under a name of its own: it agrees."""
    path = tmp_path_factory.mktemp("drafts") / "little.rfb"
    shutil.copytree(bundle.path, path)
    with open_bundle(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(bundle: Bundle, tokenizer: Tokenizer) -> tuple[int, ...]:
    return tokens_of(bundle, tokenizer, None)


def tokens_of(bundle: Bundle, tokenizer: Tokenizer, draft: Bundle | None, **more: Any) -> tuple[int, ...]:
    engine = load_engine(bundle, dataclasses.replace(OPTIONS, **more), tokenizer, Metrics(), draft=draft)
    engine.start()
    try:
        state = ended(engine.submit(GREEDY))
        stats = engine.stats().draft
    finally:
        engine.stop(5)
    assert (stats is None) == (draft is None)
    if stats is not None:
        assert (stats.model, stats.problem) == ("little", None)
        assert stats.proposed == stats.accepted > 0
    return state.tokens


def test_on_the_host(bundle: Bundle, draft: Bundle, tokenizer: Tokenizer, expected: tuple[int, ...]) -> None:
    assert tokens_of(bundle, tokenizer, draft) == expected


def test_the_pair_of_the_benchmark_agrees_to_the_bit(tmp_path: Path, build_cache: BuildCache) -> None:
    """The layers that the big model has beyond the little one's add nothing."""
    big, little = tmp_path / "big.gguf", tmp_path / "little.gguf"
    write_pair(big, little, 2, 1, vocab_size=320, seed=3)
    random = np.random.default_rng(1).integers(3, 320, 20).tolist()
    with compiled(big, build_cache) as one, compiled(little, build_cache) as other:
        assert (one.layout.kv.num_layers, other.layout.kv.num_layers) == (2, 1)
        assert np.array_equal(logits(one, random), logits(other, random))


def test_how_many_drafts(bundle: Bundle, draft: Bundle, tokenizer: Tokenizer) -> None:
    for asked, found in ((0, DEFAULT_DRAFTS), (3, 3)):
        options = dataclasses.replace(OPTIONS, limits=EngineLimits(draft_tokens=asked))
        engine = load_engine(bundle, options, tokenizer, Metrics(), draft=draft)
        assert engine._limits.draft_tokens == found
        engine.stop(0)


def test_on_an_emulated_gpu(tmp_path: Path, build_cache: BuildCache) -> None:
    path = write_model(tmp_path / "little.gguf", num_layers=1)
    with compiled_for_gpus(path, build_cache, tmp_path / "little.rfb", archs=("gfx1100", "host")) as both:
        tokenizer = load_tokenizer(both)
        short: dict[str, Any] = {
            "device": DeviceOptions("emulated", 1, HipEmulator),
            "max_context": 64,
            "kv_tokens": 128,
        }
        wanted = tokens_of(both, tokenizer, None, **short)
        assert tokens_of(both, tokenizer, both, **short) == wanted


def test_all_that_is_asked_of_the_device_is_asked_once_more(
    bundle: Bundle, draft: Bundle, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft model gets as many tokens of KV cache, and the threads that the served one chose; where it does not
    load, nothing stays loaded."""
    closed: list[str] = []
    options = dataclasses.replace(OPTIONS, device=DeviceOptions("host", None))

    def refuse(of: Bundle, device: DeviceOptions, size: Any, report: Callable[[str], object]) -> Any:
        assert (of, device.device, device.threads) == (draft, "host", 3)
        assert (size.blocks, size.beside) == (512 // 16, ())
        raise DeviceError("no room")

    monkeypatch.setattr(device_load, "read_processors", lambda: Processors(((0,), (1,), (2,))))
    monkeypatch.setattr(draft_loading, "load_program", refuse)
    monkeypatch.setattr(draft_loading, "close_program", lambda program: closed.append(type(program).__name__))
    with pytest.raises(DeviceError, match="no room"):
        load_engine(bundle, options, tokenizer, Metrics(), draft=draft)
    assert closed == ["HostProgram"]


def test_the_memory_contract_counts_both(
    bundle: Bundle, draft: Bundle, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = bundle.layout
    each = layout.arena_bytes() + 512 // layout.kv.block_size * layout.kv.bytes_per_block
    monkeypatch.setattr(device_load, "available_memory", lambda: 2 * each)
    load_engine(bundle, OPTIONS, tokenizer, Metrics(), draft=draft).stop(0)
    monkeypatch.setattr(device_load, "available_memory", lambda: 2 * each - 1)
    with pytest.raises(DeviceError, match="KV cache of 512 tokens and the arena with those of the draft model need"):
        load_engine(bundle, OPTIONS, tokenizer, Metrics(), draft=draft)
    load_engine(bundle, OPTIONS, tokenizer, Metrics()).stop(0)


class Renamed(Tokenizer):
    """One token of it has another text."""

    def token_bytes(self, token_id: int, skip_special: bool = True) -> bytes:
        return b"other" if token_id == 77 else super().token_bytes(token_id, skip_special)


def test_another_tokenizer_is_refused(bundle: Bundle, tokenizer: Tokenizer) -> None:
    text = tokenizer.token_bytes(77).decode()
    renamed = Renamed(bundle.read("tokenizer.json").decode(), tokenizer.config)
    draft_loading.check_tokens(tokenizer, tokenizer)
    with pytest.raises(UsageError) as caught:
        draft_loading.check_tokens(tokenizer, renamed)
    message = f"--draft: expected a model of the same tokenizer, in which token 77 is {text!r}, found 'other'"
    assert str(caught.value) == message


def test_tokens_are_compared_where_the_files_differ(
    bundle: Bundle, draft: Bundle, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model with more tokens, those that both have count."""
    manifest = draft.manifest
    files = {**manifest.files, "tokenizer.json": dataclasses.replace(manifest.files["tokenizer.json"], sha256="0" * 64)}
    other = dataclasses.replace(draft, manifest=dataclasses.replace(manifest, files=files))
    config = dataclasses.replace(tokenizer.config, vocab_size=tokenizer.config.vocab_size + 7)
    made: list[Tokenizer] = [Renamed(bundle.read("tokenizer.json").decode(), tokenizer.config)]
    made.append(Tokenizer(bundle.read("tokenizer.json").decode(), config))
    monkeypatch.setattr("rocmforge.runtime.engine.loading.load_tokenizer", lambda _: made.pop())
    load_engine(bundle, OPTIONS, tokenizer, Metrics(), draft=other).stop(0)
    with pytest.raises(UsageError, match="token 77"):
        load_engine(bundle, OPTIONS, tokenizer, Metrics(), draft=other)


@pytest.mark.parametrize("which", ["served", "draft"])
def test_models_that_generate_nothing_are_refused(bundle: Bundle, draft: Bundle, which: str) -> None:
    pair = {"served": bundle, "draft": draft}
    layout = dataclasses.replace(bundle.layout, both_ways=True)
    pair[which] = dataclasses.replace(pair[which], layouts=dict.fromkeys(bundle.layouts, layout))
    with pytest.raises(UsageError, match="--draft: expected models that generate text, found "):
        draft_loading.check_kinds(pair["served"], pair["draft"])


def test_the_library(bundle: Bundle, draft: Bundle, expected: tuple[int, ...]) -> None:
    with load_model(bundle.path, device=DeviceOptions("host", 1), draft=draft.path) as model:
        params = GenerationParams(max_tokens=30, temperature=0.0, ignore_eos=True)
        assert model.generate(GREEDY.prompt_token_ids, params).token_ids == expected
        stats = model.stats().draft
    assert stats is not None
    assert stats.accepted > 0
    with pytest.raises(BundleError):
        load_model(bundle.path, device=DeviceOptions("host", 1), draft=draft.path / "no")


@pytest.mark.parametrize("worker", [False, True])
def test_served(bundle: Bundle, draft: Bundle, expected: tuple[int, ...], worker: bool) -> None:
    """In this process, or with the engine in one of its own; the health names the draft model, metrics count it."""
    seen: list[Path] = []
    options = ServeOptions(
        (bundle.path,),
        *("127.0.0.1", 0, DeviceOptions("host", 1)),
        kv_tokens=512,
        worker=worker,
        draft=draft.path,
        check=lambda one: seen.append(one.path),
    )
    shared = Shared(Metrics(), Tracer(UNTRACED))
    pool = make_pool(options, shared)
    try:
        client = falcon.testing.TestClient(create_app(pool, shared.metrics, HttpLimits(), Security(), shared.tracer))
        with pool.lease(None) as lease:
            assert ended(lease.service.engine.submit(GREEDY)).tokens == expected
        found = client.simulate_get("/health").json["checks"]["draft"]
        assert found == {
            "model": "little",
            "available": True,
            "proposed": found["accepted"],
            "accepted": found["accepted"],
        }
        assert f'drafts_accepted_total{{source="model"}} {found["accepted"]}\n' in client.simulate_get("/metrics").text
        assert found["accepted"] > 0
    finally:
        pool.close(1.0)
    assert draft.path in seen
