"""Tuning by hand: read, checked against the target, in the plan and its digest, and harmless to the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import UsageError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.lower import make_plan
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.compiler.target import TARGETS
from rocmforge.compiler.tuning import Tuning, check_tuning, read_tuning
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.programs import building_levels, relative_tolerance, run
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.gpu_code import SHAPES, shape_graph


def test_items_win_over_the_environment() -> None:
    environment = {
        "ROCFORGE_TILE_K": "128",
        "ROCFORGE_BLOCK_SIZE": "64",
        "ROCFORGE_USE_LDS": "0",
        "ROCFORGE_LDS_SIZE": "",
    }
    assert read_tuning(("tile_k=256", "TILE_N=32"), environment) == Tuning(64, None, False, None, 256, 32)
    assert read_tuning((), {}) == Tuning()
    assert read_tuning(("use_lds=1",), {}).to_json() == {"use_lds": True}


@pytest.mark.parametrize(
    "item", ["tile_k", "tile=1", "tile_k=", "tile_k=x", "tile_k=-64", "use_lds=2", "=1", "tile_k=²"]
)
def test_what_is_no_tuning_is_refused(item: str) -> None:
    with pytest.raises(UsageError):
        read_tuning((item,), {})


@pytest.mark.parametrize(
    "arch, tuning, key",
    [
        ("gfx1100", Tuning(block_size=48), "block_size: gfx1100 takes a power of two from 32 to 1024, found 48"),
        ("gfx942", Tuning(block_size=32), "block_size: gfx942 takes a power of two from 64 to 1024, found 32"),
        ("gfx1100", Tuning(warp_size=64), "warp_size: gfx1100 takes 32, found 64"),
        ("gfx1100", Tuning(lds_size=1 << 20), "lds_size: gfx1100 takes 2048 to 65536, found 1048576"),
        ("gfx1100", Tuning(tile_k=96), "tile_k: gfx1100 takes a multiple of 64, found 96"),
        ("gfx1100", Tuning(tile_n=16), "tile_n: gfx1100 takes 32 or 64, found 16"),
        ("gfx942", Tuning(tile_n=32), "tile_n: gfx942 takes 64, found 32"),
    ],
)
def test_the_targets_limits(arch: str, tuning: Tuning, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_tuning(tuning, TARGETS[arch])
    assert str(caught.value) == key


@pytest.mark.parametrize(
    "arch, key, good, bad",
    [
        ("gfx1100", "block_size", [32, 64, 512, 1024], [16, 31, 33, 96, 1023, 2048]),
        ("gfx942", "block_size", [64, 1024], [32, 63, 2048]),
        ("gfx1100", "warp_size", [32], [31, 33, 64]),
        ("gfx942", "warp_size", [64], [32]),
        ("gfx1100", "lds_size", [2048, 2049, 65536], [0, 2047, 65537]),
        ("gfx1100", "tile_k", [64, 128, 64000], [0, 32, 63, 65, 96]),
        ("gfx1100", "tile_n", [32, 64], [0, 16, 31, 33, 63, 65, 128]),
        ("gfx942", "tile_n", [64], [32, 63, 65, 128]),
    ],
)
def test_both_sides_of_each_limit(arch: str, key: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_tuning(Tuning(**{key: value}), TARGETS[arch])
    for value in bad:
        with pytest.raises(UsageError, match=f"^{key}: {arch} takes .*, found {value}$"):
            check_tuning(Tuning(**{key: value}), TARGETS[arch])
        check_tuning(Tuning(**{key: value}), TARGETS["host"])  # which has no use for it


def test_how_values_are_written() -> None:
    for text, flag in {"1": True, " TRUE ": True, "0": False, "False": False}.items():
        assert read_tuning((f"use_lds={text}",), {}) == Tuning(use_lds=flag)
    assert read_tuning((" Tile_K = 128 ", "lds_size=999999999"), {}) == Tuning(tile_k=128, lds_size=999999999)
    refused = {
        "tile_k=1000000000": "tile_k: expected a whole number, found 1000000000",
        "tile_k=1_0": "tile_k: expected a whole number, found 1_0",
        "use_lds=yes": "use_lds: expected 0 or 1, found yes",
        "tile_k": "--tune tile_k: expected KEY=VALUE with one of "
        "block_size, warp_size, use_lds, lds_size, tile_k, tile_n",
    }
    for item, text in refused.items():
        with pytest.raises(UsageError) as caught:
            read_tuning((item,), {})
        assert str(caught.value) == text


def slices(tuning: Tuning) -> set[int]:
    plan = make_plan(shape_graph(SHAPES["smollm2-135m"], "Q4_1"), TARGETS["gfx1100"], 8192, tuning)
    found = {dict(spec.parameters)["slices"] for spec in plan.kernels if spec.template in {"gemv", "gemm"}}
    return {value for value in found if isinstance(value, int)}


def test_the_plan_follows() -> None:
    assert max(slices(Tuning())) > 2
    assert slices(Tuning(use_lds=False)) == {1}
    assert max(slices(Tuning(lds_size=4096))) == 2
    assert max(slices(Tuning(tile_k=768))) <= 2


@pytest.mark.parametrize(
    "tuning", [Tuning(), Tuning(64, 32, False, None, None, 64), Tuning(512, None, True, 4096, 128, 32)], ids=str
)
def test_tuned_kernels_compute_the_same(tuning: Tuning, tmp_path: Path, build_cache: BuildCache) -> None:
    path = write_model(tmp_path / "model.gguf", quantization="Q4_0")
    options = CompileOptions(path, tmp_path / "m.rfb", ("gfx1100",), toolchain="zig", tuning=tuning)
    with PlainProgress() as progress, building_levels(("portable",)):  # of golden records
        manifest = compile_model(options, build_cache, progress, make_golden)
    assert manifest.options["tuning"] == tuning.to_json()
    ids = np.random.default_rng(5).integers(0, 320, 40).tolist()
    expected = ReferenceModel(path).forward(ids)
    with open_bundle(options.goal) as bundle:
        program = load_hip_program(
            bundle, HipEmulator("gfx1100"), KvSize(16, 64), nodes=None, report=lambda _line: None
        )
        whole = run(program, [(0, 0, ids)])
        assert np.array_equal(run(program, [(1, 0, ids[:3])]), whole[:3])
        program.close()
    error = np.sqrt(np.mean((whole - expected) ** 2)) / np.std(expected)
    assert error < relative_tolerance("Q4_0")
