"""Whole models whose KV cache is q8_0, on the host and on emulated GPUs: against the float32 reference, and alone
against in a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import UsageError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Program
from rocmforge.runtime.device.golden import compare_golden, record_golden
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.inspect import inspect_bundle
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.emulated_programs import load as load_gpu
from rocmforge.tests.support.engine_harness import assorted_requests, ended, load, serving
from rocmforge.tests.support.programs import LEVELS, building_levels, run
from rocmforge.tools.generate.fixtures import write_model

ARCHES = ("gfx1100", "gfx942")
CONTEXT = 256


def compiled(path: Path, cache: BuildCache, archs: tuple[str, ...] = ("host", *ARCHES)) -> Bundle:
    goal = path.with_suffix(".rfb")
    with PlainProgress() as progress, building_levels(LEVELS):
        compile_model(CompileOptions(path, goal, archs, toolchain="zig", kv_dtype="q8_0"), cache, progress, make_golden)
    return open_bundle(goal)


@pytest.fixture(scope="module")
def model(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Bundle]]:
    path = tmp_path_factory.mktemp("q8_0") / "model.gguf"
    write_model(path, quantization="F32", head_dim=32, context_length=CONTEXT)
    with compiled(path, build_cache) as bundle:
        yield path, bundle


@pytest.fixture(params=[*LEVELS, *ARCHES])
def program(request: pytest.FixtureRequest, model: tuple[Path, Bundle]) -> Iterator[Program]:
    where = request.param
    loaded = load_host_program(model[1], 64, 1, where) if where in LEVELS else load_gpu(model[1], where)
    yield loaded
    loaded.close()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference over the standard deviation of what is expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / np.std(expected))


def test_prefill_decode_and_batch(model: tuple[Path, Bundle], program: Program) -> None:
    """Against a reference whose keys and values go through the gguf package's Q8_0.

    Weights are float32: what differs is the order of sums, about 2^-24 x sqrt(128) of a term, and where that moves a
    key or value across a tie, one unit of the 127: that befalls an element with a probability of 127 x 2^-20 = 0.01 %,
    and moves it by 1/127 of the largest: sqrt(0.0001) x 2.4 sigma / 127 = 0.02 % rms. The bound is 5 times that.

    And against the reference without it: an element is off by a uniform error of one step, largest / 127 / sqrt(12)
    rms; over 32 Gaussian values the largest is 2.4 sigma: 0.54 %. Once for keys and once for values in 2 layers, in
    quadrature: 1.1 %; times 2 for what norms and softmax amplify. It must show, else nothing was quantized.
    """
    ids = np.random.default_rng(5).integers(0, 320, 40).tolist()
    whole = run(program, [(0, 0, ids)])
    assert relative_error(whole, ReferenceModel(model[0], q8_0_cache=True).forward(ids)) < 0.001
    assert 0.001 < relative_error(whole, ReferenceModel(model[0]).forward(ids)) < 0.022
    chunks = [run(program, [(1, start, ids[start : start + size])]) for start, size in ((0, 7), (7, 20), (27, 9))]
    decoded = [run(program, [(1, position, ids[position : position + 1])]) for position in range(36, 40)]
    assert np.array_equal(np.concatenate([*chunks, *decoded]), whole)
    run(program, [(2, 0, ids[:10]), (3, 0, ids[:25])])
    batch = run(program, [(2, 10, ids[10:20]), (4, 0, ids[:16]), (3, 25, ids[25:26])])
    assert np.array_equal(batch, np.concatenate([whole[10:20], whole[:16], whole[25:26]]))


def test_each_request_of_a_batch_gets_what_it_gets_alone(model: tuple[Path, Bundle]) -> None:
    """As in test_engine.py: prompts in chunks, pages shared, taken away and filled anew."""
    tokenizer = load_tokenizer(model[1])
    requests = assorted_requests(tokenizer)
    with serving(load(model[1], 16, 1), tokenizer) as engine:
        alone = [ended(engine.submit(one)) for one in requests]
    with serving(load(model[1], 40, 2, max_batch_tokens=24, max_sequences=6), tokenizer) as engine:
        together = [ended(generation) for generation in [engine.submit(one) for one in requests]]
    for one, other in zip(alone, together, strict=True):
        assert dataclasses.replace(other, request_id=one.request_id) == one


@pytest.mark.parametrize("arch", ARCHES)
def test_golden_records_of_the_host_hold(model: tuple[Path, Bundle], arch: str) -> None:
    golden = model[1].manifest.golden
    target = next(target for target in model[1].manifest.targets if target.arch == arch)
    program = load_gpu(model[1], arch)
    found = record_golden(program, [list(record["prompt"]) for record in golden])  # type: ignore[call-overload]
    assert compare_golden(golden, found, target.golden_tolerance) == []
    program.close()


def test_the_bundle_says_so(model: tuple[Path, Bundle], build_cache: BuildCache, tmp_path: Path) -> None:
    path, bundle = model
    facts = inspect_bundle(bundle.path)
    assert facts["kv_type"] == "q8_0"
    assert facts["host_kv_bytes_per_block"] == 2 * 2 * 2 * 16 * (32 + 2)  # keys and values, 2 layers, 2 heads
    assert bundle.manifest.options["kv_type"] == "q8_0"
    plain = tmp_path / "plain.rfb"
    with PlainProgress() as progress, building_levels(LEVELS[-1:]):
        manifest = compile_model(CompileOptions(path, plain), build_cache, progress, make_golden)
    assert manifest.options["kv_type"] == "f16"
    assert inspect_bundle(plain)["kv_bytes_per_block"] == 2 * 2 * 2 * 16 * 64


@pytest.mark.parametrize("arch", ["host", "gfx1100"])
@pytest.mark.parametrize("head_dim", [16, 48])
def test_heads_that_are_no_multiple_of_32(arch: str, head_dim: int, tmp_path: Path, build_cache: BuildCache) -> None:
    write_model(tmp_path / "model.gguf", head_dim=head_dim)
    with pytest.raises(UsageError, match=rf"--kv-type q8_0: .* multiple of 32 elements, found heads of {head_dim}"):
        compiled(tmp_path / "model.gguf", build_cache, (arch,))
    assert not (tmp_path / "model.rfb").exists()
