"""`rfc` and bundles with GPU code: on the emulator, and on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.artifacts.hip import installed_arches
from rocmforge.tests.end_to_end.process import refused, rfc
from rocmforge.tools.fixtures import write_model

no_gpu = pytest.mark.skipif(bool(installed_arches()), reason="this machine has an AMD GPU")


@pytest.fixture(scope="module")
def fat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model for a GPU and the host."""
    path = write_model(tmp_path_factory.mktemp("fat") / "fat.gguf", num_layers=1)
    done = rfc("compile", path, "--arch", "gfx1100", "--arch", "host", "--cache-dir", path.parent / "cache")
    assert done.returncode == 0, done.stderr
    return path.with_suffix(".rfb")


@pytest.fixture(scope="module")
def gpu_only(fat: Path) -> Path:
    """The same for the GPU alone."""
    goal = fat.parent / "gpu.rfb"
    done = rfc(
        "compile",
        fat.with_suffix(".gguf"),
        *("-o", goal, "--arch", "gfx1100", "--toolchain", "auto", "--cache-dir", fat.parent / "cache"),
    )
    assert done.returncode == 0, done.stderr
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
        refused(rfc(command, *arguments, "--device", device), 4, "; the bundle has code for gfx1100")
    refused(rfc("run", gpu_only, "ab", "--device", "host"), 4, "no code for the host")


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
