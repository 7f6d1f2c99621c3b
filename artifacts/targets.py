"""AMD's GPU arches: all that compiler, loader, emulator and model of costs must know of each, a row an arch.

Sources: LLVM, "User Guide for AMDGPU Backend" (ELF machines, generic processors) and its GCNProcessors (instructions);
LLVM's AMDGPUBaseInfo and AMD's ISA guides (register files). A test builds each row and reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .dataclass import dataclass


@dataclass(frozen=True, slots=True)
class GpuFeatures:
    """What kernels for a GPU may use.

    Attributes:
        wave_size: lanes of a wave, 32 or 64.
        dot: the int8 dot instruction: `sudot4`, `sdot4` or `none`.
        matrix: the int8 matrix instruction with 16 columns a step: `wmma_gfx11`, `wmma_gfx12`,
            `mfma_16x16x16_i8`, `mfma_32x32x16_i8` or `none`.
        lds_bytes: of a workgroup.
        max_threads: of a workgroup.
    """

    wave_size: int
    dot: str
    matrix: str
    lds_bytes: int = 64 << 10
    max_threads: int = 1024


@dataclass(frozen=True, slots=True)
class RegisterFile:
    """What a SIMD and a compute unit have for their waves.

    Attributes:
        vgprs: vector registers of a SIMD, for one lane.
        granule: in which they are given out.
        max_waves: of a SIMD.
        simds: of a compute unit.
        lds_bytes: of a compute unit.
    """

    vgprs: int
    granule: int
    max_waves: int
    simds: int
    lds_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class GpuArch:
    """An arch, or the generic one of several.

    Attributes:
        name: its gfx name.
        machine: the low byte of `e_flags` in the ELF header of its code.
        isa: the instruction set, as the ISA guides name it.
        features: of its kernels; None: it runs generic code, and none is built for it alone.
        generic: the arch whose code it runs too.
        registers: a generic arch has those of its smallest member; None: nothing is published.
    """

    name: str
    machine: int
    isa: str
    features: GpuFeatures | None
    generic: str | None = None
    registers: RegisterFile | None = None


_VEGA = GpuFeatures(64, "sdot4", "none")
_CDNA = GpuFeatures(64, "sdot4", "mfma_16x16x16_i8")
_CDNA3 = GpuFeatures(64, "sdot4", "mfma_32x32x16_i8")
_RDNA2 = GpuFeatures(32, "sdot4", "none")
_RDNA3 = GpuFeatures(32, "sudot4", "wmma_gfx11")
_RDNA4 = GpuFeatures(32, "sudot4", "wmma_gfx12")
_GFX1250 = GpuFeatures(32, "sudot4", "none")  # its int8 matrix instruction takes 64 columns at once

_GFX9_FILE = RegisterFile(256, 4, 10, 4)
_CDNA2_FILE = RegisterFile(512, 8, 8, 4)
_CDNA4_FILE = RegisterFile(512, 8, 8, 4, 160 << 10)
_SMALL_FILE = RegisterFile(1024, 16, 16, 2)
_LARGE_FILE = RegisterFile(1536, 24, 16, 2)

_GFX9_4, _GFX10_3, _GFX11, _GFX12 = "gfx9-4-generic", "gfx10-3-generic", "gfx11-generic", "gfx12-generic"

_ROWS: Final = (
    GpuArch("gfx906", 0x2F, "vega", _VEGA, None, _GFX9_FILE),
    GpuArch("gfx908", 0x30, "cdna1", _CDNA, None, _GFX9_FILE),
    GpuArch("gfx90a", 0x3F, "cdna2", _CDNA, None, _CDNA2_FILE),
    GpuArch("gfx942", 0x4C, "cdna3", _CDNA3, _GFX9_4, _CDNA2_FILE),
    GpuArch("gfx950", 0x4F, "cdna4", _CDNA3, _GFX9_4, _CDNA4_FILE),
    GpuArch(_GFX9_4, 0x5F, "cdna3", _CDNA3, None, _CDNA2_FILE),
    GpuArch("gfx1030", 0x36, "rdna2", _RDNA2, _GFX10_3, _SMALL_FILE),
    GpuArch("gfx1031", 0x37, "rdna2", _RDNA2, _GFX10_3, _SMALL_FILE),
    GpuArch("gfx1032", 0x38, "rdna2", _RDNA2, _GFX10_3, _SMALL_FILE),
    GpuArch("gfx1033", 0x39, "rdna2", None, _GFX10_3),
    GpuArch("gfx1034", 0x3E, "rdna2", _RDNA2, _GFX10_3, _SMALL_FILE),
    GpuArch("gfx1035", 0x3D, "rdna2", _RDNA2, _GFX10_3, _SMALL_FILE),
    GpuArch("gfx1036", 0x45, "rdna2", _RDNA2, _GFX10_3, _SMALL_FILE),
    GpuArch(_GFX10_3, 0x53, "rdna2", _RDNA2, None, _SMALL_FILE),
    GpuArch("gfx1100", 0x41, "rdna3", _RDNA3, _GFX11, _LARGE_FILE),
    GpuArch("gfx1101", 0x46, "rdna3", _RDNA3, _GFX11, _LARGE_FILE),
    GpuArch("gfx1102", 0x47, "rdna3", _RDNA3, _GFX11, _SMALL_FILE),
    GpuArch("gfx1103", 0x44, "rdna3", _RDNA3, _GFX11, _SMALL_FILE),
    GpuArch("gfx1150", 0x43, "rdna3", _RDNA3, _GFX11, _SMALL_FILE),
    GpuArch("gfx1151", 0x4A, "rdna3", _RDNA3, _GFX11, _LARGE_FILE),
    GpuArch("gfx1152", 0x55, "rdna3", _RDNA3, _GFX11, _SMALL_FILE),
    GpuArch("gfx1153", 0x58, "rdna3", _RDNA3, _GFX11, _SMALL_FILE),
    GpuArch(_GFX11, 0x54, "rdna3", _RDNA3, None, _SMALL_FILE),
    GpuArch("gfx1200", 0x48, "rdna4", _RDNA4, _GFX12, _LARGE_FILE),
    GpuArch("gfx1201", 0x4E, "rdna4", _RDNA4, _GFX12, _LARGE_FILE),
    GpuArch(_GFX12, 0x59, "rdna4", _RDNA4, None, _LARGE_FILE),
    GpuArch("gfx1250", 0x49, "gfx1250", _GFX1250),
)

GPU_ARCHES: Final[Mapping[str, GpuArch]] = {row.name: row for row in _ROWS}

ARCH_OF_MACHINE: Final[Mapping[int, str]] = {row.machine: row.name for row in _ROWS if row.features is not None}
"""Of code that is built."""

GENERIC_ARCHES: Final[Mapping[str, tuple[str, ...]]] = {
    generic: tuple(row.name for row in _ROWS if row.generic == generic)
    for generic in dict.fromkeys(row.generic for row in _ROWS)
    if generic is not None
}
"""Arches that run the code of a generic one."""


def generic_arch(arch: str) -> str | None:
    """Return the generic arch whose code `arch` runs; never guessed from its digits."""
    row = GPU_ARCHES.get(arch)
    return None if row is None else row.generic
