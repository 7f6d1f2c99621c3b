"""`rfc` and bundles with GPU code: on the emulator, and on a machine without a GPU."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from rocmforge.artifacts.arguments import TensorRef
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.hip import installed_arches
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.support.killed import forked, one_of_many
from rocmforge.tests.support.process import digest_of, refused, rfc
from rocmforge.tools.generate.fixtures import write_model

no_gpu = pytest.mark.skipif(bool(installed_arches()), reason="this machine has an AMD GPU")


@pytest.fixture(scope="module")
def fat(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model for a GPU and the host."""
    folder = tmp_path_factory.mktemp("fat")
    path = write_model(folder / "fat.gguf", num_layers=1)
    places = "--arch", "gfx1100", "--arch", "host", "--toolchain", "zig", "--cache-dir", build_cache.root
    digest_of(forked(folder, "compile", path, *places, portable=True))
    return path.with_suffix(".rfb")


@pytest.fixture(scope="module")
def gpu_only(fat: Path, build_cache: BuildCache) -> Path:
    """The same for the GPU alone."""
    goal = fat.parent / "gpu.rfb"
    options = "-o", goal, "--arch", "gfx1100", "--toolchain", "zig", "--cache-dir", build_cache.root
    digest_of(forked(fat.parent, "compile", fat.with_suffix(".gguf"), *options, portable=True))
    return goal


def greedy(bundle: Path, *options: str) -> str:
    done = rfc("run", bundle, "ab", "-n", "6", "--temperature", "0", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_run_and_verify_on_the_emulator(fat: Path, gpu_only: Path) -> None:
    done = rfc("verify", fat, "--device", "emulated")
    assert done.returncode == 0, done.stderr
    assert "gfx1100: 2 golden records replayed, equal" in done.stdout
    assert "host" not in done.stdout
    assert greedy(gpu_only, "--device", "emulated:gfx1100") == greedy(fat, "--device", "emulated")


@no_gpu
@pytest.mark.parametrize("command", ["run", "serve"])
def test_F71_gpu_code_alone_and_no_gpu(command: str, gpu_only: Path) -> None:
    for device in ("auto", "hip", "hip:0"):
        arguments = (gpu_only, "ab") if command == "run" else (gpu_only, "--addr", "127.0.0.1:0")
        refused(one_of_many(command, *arguments, "--device", device), 4, "; the bundle has code for gfx1100")
    refused(one_of_many("run", gpu_only, "ab", "--device", "host"), 4, "no code for the host")


@no_gpu
def test_F71_a_fat_bundle_runs_on_the_host_and_says_why(fat: Path) -> None:
    done = rfc("run", fat, "ab", "-n", "6", "--temperature", "0")
    assert done.returncode == 0
    assert done.stderr.startswith("no GPU is used: ")
    assert done.stdout == greedy(fat, "--device", "host")
    verified = rfc("verify", fat)
    assert verified.returncode == 0
    assert "gfx1100: not run: " in verified.stdout
    assert "host portable: 2 golden records" in verified.stdout


def test_inspect_emulates_a_step(gpu_only: Path) -> None:
    done = rfc("inspect", gpu_only, "--arch", "gfx1100", "--emulate")
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("gfx1100, counted on the emulator") :]
    counted = re.search(r"  reads 0\.1 MB, (1\.\d+) times the least possible; (\d+\.\d)% of weight", table)
    assert counted, table
    assert float(counted[1]) < 1.3  # a small model's are mostly its cache
    assert 90 <= float(counted[2]) <= 100
    assert re.search(r"\n +1 x gemv_q4_1_320x64_\w+ +0\.013 MB, ", table)  # 320 rows of 64 columns at 5 bits
    assert "modelled, not measured" in table
    assert re.search(r"\n  Radeon RX 7900 XTX: decode [\d,]+ tokens/s \(memory-bound\)", table)
    refused(
        one_of_many("inspect", gpu_only, "--arch", "host", "--emulate"),
        2,
        "--arch host: the bundle has code for gfx1100",
    )


PROFILER = """#!/bin/sh
echo "$@" >> {log}
folder=$(echo "$@" | sed 's/.*--output-directory \\([^ ]*\\).*/\\1/')
mkdir -p $folder
echo 'Kernel_Name,Start_Timestamp,End_Timestamp
{kernel},1000,3000
sample_1(void*),4000,5000' > $folder/7_kernel_trace.csv
echo 'Kernel_Name,Counter_Name,Counter_Value
{kernel},FETCH_SIZE,2' > $folder/7_counter_collection.csv
"""


def test_profile_runs_the_prompt_under_the_profiler(gpu_only: Path, tmp_path: Path) -> None:
    with open_bundle(gpu_only) as bundle:
        layout = bundle.layout
        norm = next(launch for launch in layout.launches if launch.kernel.startswith("norm"))
        weight = norm.arguments[1]
        assert isinstance(weight, TensorRef)
        weights = next(tensor.n_bytes for tensor in layout.tensors if tensor.name == weight.name)
    program = tmp_path / "rocprofv3"
    program.write_text(PROFILER.format(log=tmp_path / "log", kernel=norm.kernel))
    program.chmod(0o755)
    done = rfc("profile", gpu_only, "-n", "3", "--", "ab", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"profiler: {program}\n"
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1] == ["0.002", "66.7%", "1", "2.00", "0.002", f"{weights / 1e6:.3f}", "1", norm.kernel]
    assert rows[2] == ["0.001", "33.3%", "1", "1.00", "-", "-", "-", "sample_1"]
    asked = (tmp_path / "log").read_text().splitlines()
    assert ["--kernel-trace" in line for line in asked] == [True, False]
    assert all(f"run {gpu_only} ab -n 3 --temperature 0 --device hip" in line for line in asked)


def test_F111_no_profiler(fat: Path, tmp_path: Path) -> None:
    done = rfc("profile", fat, "--", "ab", PATH=str(tmp_path), ROCM_PATH=str(tmp_path))
    refused(done, 4, "expected rocprofv3 or rocprof on PATH", "rocprofiler-sdk")
