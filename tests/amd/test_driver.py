"""The emulated driver through AMD's own HIP: small kernels against NumPy, and what a GPU's faults do to a process."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from rocmforge.tests.amd.driver_cases import SOURCE
from rocmforge.tests.amd.runtime import Runtime
from rocmforge.tests.emulator.gpu_build import build

ABORTED = -6  # by SIGABRT, as AMD's runtime ends a process whose GPU is lost
CASES = "kernels,partial,streams,threads,graphs,memory,churn"


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kernels of the cases, built by the toolchain that is not ROCm's."""
    folder = tmp_path_factory.mktemp("code")
    for arch in ("gfx1100", "gfx1201", "gfx942"):
        # Without the flag its grids must be whole workgroups, and `partial` would be refused.
        (folder / arch).write_bytes(build(SOURCE, arch, "-fno-offload-uniform-block"))
    return folder


def case(runtime: Runtime, name: str, code: Path, *archs: str) -> CompletedProcess[str]:
    """Run a case on GPUs; a wave of more than a million operations hangs."""
    command = ("python", "-m", "rocmforge.tests.amd.driver_cases", name, *[code / arch for arch in archs])
    return runtime.run(",".join(archs), *command, ROCMFORGE_KFD_MAX_OPS="1000000")


@pytest.mark.parametrize("arch", ["gfx1100", "gfx942"])
def test_what_kernels_streams_graphs_and_memory_do(trixie: Runtime, code: Path, arch: str) -> None:
    done = case(trixie, CASES, code, arch)
    assert done.returncode == 0, done.stderr[-3000:]


def test_kernels_run_until_the_last_thread_has_ended(trixie: Runtime, code: Path) -> None:
    done = case(trixie, "last_words", code, "gfx1100")
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr[-3000:]


def test_two_gpus_at_once(trixie: Runtime, code: Path) -> None:
    done = case(trixie, "devices", code, "gfx1100", "gfx942")
    assert done.returncode == 0, done.stderr[-3000:]


PAGE_FAULT = ("kernel poke+", "out-of-bounds write of 4 bytes", "Memory access fault by GPU node-1", "Page not present")
FAULTS = {
    "F115-wild_pointer": (*PAGE_FAULT, "on address 0x123456789000"),
    "F115-behind_the_end": PAGE_FAULT,
    "F115-use_after_free": PAGE_FAULT,
    "F116-hang": ("kernel forever+", "HW Exception by GPU node-1", "reason :GPU Hang"),
    "F117-race": ("kernel race+", "LDS race: write of 4 bytes at 0x0", "HSA_STATUS_ERROR_EXCEPTION"),
    "F117-unset": ("kernel unset+", "4 bytes of uninitialised LDS at 0x20", "HSA_STATUS_ERROR_EXCEPTION"),
}
"""What the emulator says of each, and AMD's runtime."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_the_process_as_on_a_real_gpu(trixie: Runtime, code: Path, fault: str) -> None:
    done = case(trixie, fault.partition("-")[2], code, "gfx1100")
    assert done.returncode == ABORTED, (done.returncode, done.stderr[-3000:])
    assert done.stdout == "reached\n"  # no call has returned since
    for part in FAULTS[fault]:
        assert part in done.stderr


def test_F118_memory_of_another_gpu(trixie: Runtime, code: Path) -> None:
    done = case(trixie, "other_device", code, "gfx1100", "gfx942")
    assert (done.returncode, done.stdout) == (ABORTED, "reached\n"), done.stderr[-3000:]
    assert "Memory access fault by GPU node-1" in done.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("arch", ["gfx1100", "gfx942", "gfx1201"])
@pytest.mark.parametrize("suite", ["sid", "experimental"])
def test_newer_runtimes(suite: str, arch: str, code: Path, request: pytest.FixtureRequest) -> None:
    runtime: Runtime = request.getfixturevalue(suite)
    done = case(runtime, CASES, code, arch)
    assert done.returncode == 0, done.stderr[-3000:]
