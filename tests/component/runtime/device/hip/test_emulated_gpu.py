"""Whole models on emulated GPUs, through the runtime and the bytes that ship: against the float32 reference, and alone
against in a batch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.packing_sizes import packed_bytes
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Batch, RowSampling
from rocmforge.runtime.device.golden import compare_golden, record_golden
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.engine.embeddings import EmbeddingRequest
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.emulated_programs import ARCHES, compiled, greedy, ignore, load
from rocmforge.tests.support.engine_harness import ended, serving
from rocmforge.tests.support.programs import LEVELS, building_levels, relative_tolerance, run
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.emulator.roofline import step_cost
from rocmforge.tools.generate.fixtures import write_model

# What hangs on a type and on a GPU at once is tested kernel by kernel (test_products_hip.py).
MODELS = {
    ("llama", "Q4_1"): ARCHES,
    ("qwen2", "Q8_0"): ("gfx1100",),
    ("qwen3", "Q6_K"): ("gfx1100",),
    ("llama", "F16"): ("gfx942",),
}
PLACES = [pytest.param(model, arch, id="-".join((*model, arch))) for model, archs in MODELS.items() for arch in archs]


@pytest.fixture(scope="module")
def model(
    request: pytest.FixtureRequest, build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Bundle]]:
    architecture, quantization = request.param
    path = tmp_path_factory.mktemp("emulated") / f"{architecture}-{quantization}.gguf"
    write_model(path, architecture=architecture, quantization=quantization)
    archs = (*MODELS[request.param], "host")
    with compiled(path, build_cache, path.with_suffix(".rfb"), archs) as bundle:
        yield path, bundle


@pytest.mark.parametrize(("model", "arch"), PLACES, indirect=["model"])
def test_prefill_decode_and_batch(model: tuple[Path, Bundle], arch: str) -> None:
    path, bundle = model
    ids = np.random.default_rng(5).integers(0, 320, 40).tolist()
    reference = ReferenceModel(path)
    expected, hidden = reference.forward(ids), reference.hidden(ids)
    program = load(bundle, arch)
    whole, states = run(program, [(0, 0, ids)]), program.hidden(0, len(ids))
    assert np.isfinite(whole).all()
    tolerance = relative_tolerance(path.stem.rpartition("-")[2])
    error = np.sqrt(np.mean((whole - expected) ** 2)) / np.std(expected)
    assert error < tolerance, error
    error = np.sqrt(np.mean((states - hidden) ** 2) / np.mean(hidden**2))
    assert error < tolerance, error

    chunks = [run(program, [(1, start, ids[start : start + size])]) for start, size in ((0, 7), (7, 20), (27, 9))]
    decoded = [run(program, [(1, position, ids[position : position + 1])]) for position in range(36, 40)]
    assert np.array_equal(np.concatenate([*chunks, *decoded]), whole)

    # A batch of three: a prompt, a chunk that continues, and a single token, other sequences beside them.
    run(program, [(2, 0, ids[:10]), (3, 0, ids[:25])])
    batch = run(program, [(2, 10, ids[10:20]), (4, 0, ids[:16]), (3, 25, ids[25:26])])
    assert np.array_equal(batch, np.concatenate([whole[10:20], whole[:16], whole[25:26]]))
    assert np.array_equal(program.hidden(10, 17), np.concatenate([states[:16], states[25:26]]))
    program.close()


@pytest.mark.parametrize(("model", "arch"), PLACES[:1] + PLACES[2:], indirect=["model"])
def test_embeddings_through_the_engine(model: tuple[Path, Bundle], arch: str) -> None:
    """The bound is derived in test_embeddings.py."""
    path, bundle = model
    ids = tuple(np.random.default_rng(8).integers(3, 320, 20).tolist())
    hidden = ReferenceModel(path).hidden(ids).astype(np.float64)
    requests = [EmbeddingRequest(ids, "mean"), EmbeddingRequest(ids, "last")]
    found = []
    for limits in (EngineLimits(), EngineLimits(prefill_tokens=3)):
        with serving(load(bundle, arch), load_tokenizer(bundle), 64, limits=limits) as engine:
            beside = engine.submit(GenerationRequest((5,), 3, ignore_eos=True))
            found.append([pending.result(60.0) for pending in engine.embed(requests)])
            assert ended(beside).error is None
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)
    for vector, states in zip(found[0], (hidden, hidden[-1:]), strict=True):
        length = np.linalg.norm(states.mean(0))
        spread = np.linalg.norm(states, axis=1).mean() / length
        error = np.linalg.norm(vector - states.mean(0) / length)
        assert error < 2 * spread * relative_tolerance(path.stem.rpartition("-")[2]), error


@pytest.mark.parametrize("model", [("llama", "Q4_1")], indirect=True)
def test_arches_of_one_wave_size_give_the_same_bits(model: tuple[Path, Bundle]) -> None:
    ids = np.random.default_rng(6).integers(0, 320, 30).tolist()
    logits = []
    for arch in ("gfx1100", "gfx1201"):
        program = load(model[1], arch)
        logits.append(run(program, [(0, 0, ids)]))
        program.close()
    assert np.array_equal(logits[0], logits[1])


@pytest.mark.parametrize(("model", "arch"), PLACES, indirect=["model"])
def test_golden_records_of_the_host_hold(model: tuple[Path, Bundle], arch: str) -> None:
    _, bundle = model
    program = load(bundle, arch)
    prompts = [list(record["prompt"]) for record in bundle.manifest.golden]  # type: ignore[call-overload]
    target = next(target for target in bundle.manifest.targets if target.arch == arch)
    found = record_golden(program, prompts)
    assert compare_golden(bundle.manifest.golden, found, target.golden_tolerance) == []
    program.close()


@pytest.mark.parametrize(("model", "arch"), PLACES, indirect=["model"])
def test_seeded_sampling_draws_what_the_logits_allow_and_the_same_again(model: tuple[Path, Bundle], arch: str) -> None:
    _, bundle = model
    sampling = [RowSampling(0.8, top_k=5, top_p=0.9, seed=3, counter=index) for index in range(16)]
    ids = np.random.default_rng(7).integers(0, 320, 16).astype(np.int32)
    batch = Batch(
        token_ids=ids,
        positions=np.arange(16, dtype=np.int32),
        rows=np.zeros(16, np.int32),
        block_table=np.array([[0]], np.int32),
        logits_rows=np.arange(16, dtype=np.int32),
        sampling=sampling,
    )
    program = load(bundle, arch)
    tokens = program.step(batch)
    logits = program.logits(16)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    assert all(token in row for token, row in zip(tokens, best, strict=True))
    assert len(set(zip(tokens.tolist(), best[:, 0].tolist(), strict=True))) > 1
    assert np.array_equal(program.step(batch), tokens)
    program.close()


def test_hipcc_gives_the_logits_of_clang(tmp_path: Path, build_cache: BuildCache) -> None:
    if shutil.which("hipcc") is None:
        pytest.skip("hipcc is not installed: apt-get install hipcc")
    # Of the kernels above, so that clang's are in the cache.
    path = write_model(tmp_path / "model.gguf", architecture="qwen3", quantization="Q6_K")
    ids = np.random.default_rng(2).integers(0, 320, 20).tolist()
    logits = []
    for toolchain in ("hipcc", "clang"):
        goal = tmp_path / f"{toolchain}.rfb"
        with PlainProgress() as progress, building_levels(LEVELS[-1:]):  # of golden records
            options = CompileOptions(path, goal, ("gfx1100",), toolchain=toolchain)
            manifest = compile_model(options, build_cache, progress, make_golden)
        assert [target.toolchain for target in manifest.targets] == [toolchain]
        with open_bundle(goal) as bundle:
            program = load(bundle, "gfx1100")
            logits.append(np.concatenate([run(program, [(0, 0, ids)]), run(program, [(0, 20, ids[:1])])]))
            program.close()
    assert np.array_equal(logits[0], logits[1])


def test_a_fat_bundle_is_the_same_bytes_again(build_cache: BuildCache, tmp_path: Path) -> None:
    """With a cold cache, and with what other tests have built for another model of the same shapes.

    Of GPUs, for one with waves of 32 and one with waves of 64; of the host's levels the last: `test_reproducible` makes
    all of them twice.
    """
    path = write_model(tmp_path / "model.gguf", seed=1)
    digests = []
    for name, cache in (("one", build_cache), ("two", BuildCache(tmp_path / "cold"))):
        with PlainProgress() as progress, building_levels(LEVELS[-1:]):
            options = CompileOptions(path, tmp_path / f"{name}.rfb", ("gfx1100", "gfx942", "host"), toolchain="zig")
            manifest = compile_model(options, cache, progress, make_golden)
        digests.append(manifest.bundle_digest)
    assert digests[0] == digests[1]


@pytest.fixture(scope="module")
def smollm2_gpu(
    smollm2_gguf: Path, build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bundle]:
    goal = tmp_path_factory.mktemp("gpu") / "smollm2.rfb"
    with compiled(smollm2_gguf, build_cache, goal, levels=LEVELS, flags={}) as bundle:  # others have built those too
        yield bundle


def test_smollm2_gives_the_hosts_tokens(smollm2_gpu: Bundle) -> None:
    prompt = load_tokenizer(smollm2_gpu).encode("The capital of France is the city of")
    assert len(prompt) == 8
    host = load_host_program(smollm2_gpu, 4, 1)
    expected = greedy(host, prompt, 8)
    host.close()
    program = load(smollm2_gpu, "gfx1100", 4, checked=False)
    assert greedy(program, prompt, 8) == expected
    program.close()


@pytest.mark.parametrize("arch", ARCHES)
def test_memory_traffic_of_a_decoded_token(smollm2_gpu: Bundle, arch: str) -> None:
    """At most 1.10 times the bytes of weights and KV that a token must read, in full 128-byte transactions."""
    emulator = HipEmulator(arch, check=False)
    program = load_hip_program(smollm2_gpu, emulator, KvSize(4, 64), nodes=None, report=ignore)
    emulator.label(program.allocations()["weights"], "weights")
    prompt = load_tokenizer(smollm2_gpu).encode("The capital of France is")
    greedy(program, prompt, 1)
    emulator.reset_counters()
    run_one(program, 7042, len(prompt))
    layout = program.layout
    weights = sum(packed_bytes(entry.packing, entry.shape) for entry in layout.tensors if entry.packing != "rope_table")
    kv = (len(prompt) + 1) * layout.kv.bytes_per_block // layout.kv.block_size
    cost = step_cost(emulator.counters(), 1, weights + kv, 64 if arch == "gfx942" else 32, "weights")
    assert cost.loaded <= 1.10 * cost.least_bytes
    assert cost.full_share >= 0.95
    program.close()


def run_one(program: HipProgram, token: int, position: int) -> None:
    program.step(
        Batch(
            token_ids=np.array([token], np.int32),
            positions=np.array([position], np.int32),
            rows=np.zeros(1, np.int32),
            block_table=np.arange(4, dtype=np.int32)[None].copy(),
            logits_rows=np.zeros(1, np.int32),
            sampling=[RowSampling()],
        )
    )
