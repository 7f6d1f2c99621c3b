"""How many waves a SIMD holds: by AMD's tables of registers, and by the memory that workgroups share."""

from __future__ import annotations

import dataclasses

import pytest

from rocmforge.artifacts.code_object import KernelResources
from rocmforge.artifacts.targets import GPU_ARCHES
from rocmforge.compiler.occupancy import waves_per_simd
from rocmforge.compiler.target import TARGETS


def kernel(vgprs: int, lds_bytes: int = 0, max_threads: int = 256, wave_size: int = 32) -> KernelResources:
    values = {field.name: 0 for field in dataclasses.fields(KernelResources)}
    given = {"vgprs": vgprs, "lds_bytes": lds_bytes, "max_threads": max_threads, "wave_size": wave_size}
    return KernelResources(**{**values, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arch, waves",
    [
        # Registers of a SIMD's lane, handed out in granules, over what a wave takes.
        ("gfx906", {0: 10, 24: 10, 25: 9, 64: 4, 65: 3, 128: 2, 256: 1}),
        ("gfx90a", {0: 8, 64: 8, 65: 7, 128: 4, 256: 2}),
        ("gfx950", {64: 8, 512: 1}),
        ("gfx1030", {0: 16, 64: 16, 65: 12, 128: 8, 256: 4}),
        ("gfx1102", {0: 16, 64: 16, 65: 12, 96: 10, 256: 4}),
        ("gfx1100", {0: 16, 96: 16, 97: 12, 120: 12, 121: 10, 256: 5}),
    ],
)
def test_registers(arch: str, waves: dict[int, int]) -> None:
    assert {vgprs: waves_per_simd(kernel(vgprs), arch) for vgprs in waves} == waves


def test_memory_of_workgroups() -> None:
    # Two groups of eight waves share the 64 KiB of a unit of two SIMDs; of four SIMDs, four groups of four waves.
    assert waves_per_simd(kernel(32, 32 << 10), "gfx1100") == 8
    assert waves_per_simd(kernel(32, (32 << 10) + 1), "gfx1100") == 4
    assert waves_per_simd(kernel(32, 16 << 10, 256, 64), "gfx942") == 4
    assert waves_per_simd(kernel(32, 16 << 10, 256, 64), "gfx950") == 8  # 160 KiB: registers decide
    assert waves_per_simd(kernel(32, 64 << 10, 64, 64), "gfx942") == 1
    assert waves_per_simd(kernel(256, 1 << 10), "gfx1100") == 5
    assert waves_per_simd(kernel(32, 32 << 10), "gfx1102") == waves_per_simd(kernel(32, 32 << 10), "gfx1030") == 8


def test_arches() -> None:
    assert waves_per_simd(kernel(32), "gfx1250") is None
    gpus = {arch for arch, target in TARGETS.items() if target.gpu is not None}
    assert {name for name, row in GPU_ARCHES.items() if row.registers} == gpus - {"gfx1250"}


# Vector registers of a lane, granule, most waves, SIMDs, LDS: by LLVM's AMDGPUBaseInfo, and AMD's ISA guides.
VEGA, CDNA, CDNA4 = (256, 4, 10, 4, 65536), (512, 8, 8, 4, 65536), (512, 8, 8, 4, 163840)
RDNA, RDNA_LARGE = (1024, 16, 16, 2, 65536), (1536, 24, 16, 2, 65536)
LARGE = {"gfx1100", "gfx1101", "gfx1151", "gfx1200", "gfx1201", "gfx12-generic"}


def test_register_files() -> None:
    for arch, row in GPU_ARCHES.items():
        if row.registers is None:
            continue
        if arch.startswith("gfx1"):
            expected = RDNA_LARGE if arch in LARGE else RDNA
        else:
            expected = {"gfx906": VEGA, "gfx908": VEGA, "gfx950": CDNA4}.get(arch, CDNA)
        assert dataclasses.astuple(row.registers) == expected, arch


def test_a_group_counts_with_all_its_waves_and_never_as_none() -> None:
    assert waves_per_simd(kernel(32, 32 << 10, max_threads=33), "gfx1100") == 2  # two waves, half empty
    assert waves_per_simd(kernel(32, 32 << 10, max_threads=32), "gfx1100") == 1
    assert waves_per_simd(kernel(32, 64 << 10, max_threads=32), "gfx1100") == 1
    assert waves_per_simd(kernel(0, 1, max_threads=32), "gfx1100") == 16
    assert waves_per_simd(kernel(1, 0), "gfx906") == waves_per_simd(kernel(4, 0), "gfx906") == 10
