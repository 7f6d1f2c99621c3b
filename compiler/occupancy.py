"""How many waves of a kernel a GPU holds at once, by the registers and the LDS that it takes.

Source: LLVM's AMDGPUBaseInfo (register files, allocation granules, waves a SIMD) and AMD's ISA guides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..artifacts.code_object import KernelResources


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


_GFX9 = RegisterFile(256, 4, 10, 4)
_CDNA2 = RegisterFile(512, 8, 8, 4)
_CDNA4 = RegisterFile(512, 8, 8, 4, 160 << 10)
_RDNA2 = RegisterFile(1024, 16, 16, 2)
_RDNA3_SMALL = RegisterFile(1024, 16, 16, 2)
_RDNA3_LARGE = RegisterFile(1536, 24, 16, 2)

REGISTER_FILES: Final[Mapping[str, RegisterFile]] = {
    **dict.fromkeys(("gfx906", "gfx908"), _GFX9),
    **dict.fromkeys(("gfx90a", "gfx942", "gfx9-4-generic"), _CDNA2),
    "gfx950": _CDNA4,
    **dict.fromkeys(
        ("gfx1030", "gfx1031", "gfx1032", "gfx1034", "gfx1035", "gfx1036", "gfx10-3-generic"),
        _RDNA2,
    ),
    **dict.fromkeys(
        ("gfx1102", "gfx1103", "gfx1150", "gfx1152", "gfx1153", "gfx11-generic"),
        _RDNA3_SMALL,
    ),
    **dict.fromkeys(("gfx1100", "gfx1101", "gfx1151", "gfx1200", "gfx1201", "gfx12-generic"), _RDNA3_LARGE),
}
"""By arch; the generic ones as the smallest of their members. Of gfx1250 nothing is published yet."""


def waves_per_simd(kernel: KernelResources, arch: str) -> int | None:
    """Waves of a kernel that one SIMD holds when the GPU is full of them; None where the arch is not in the table."""
    file = REGISTER_FILES.get(arch)
    if file is None:
        return None
    allocated = max(-(-kernel.vgprs // file.granule) * file.granule, file.granule)
    by_registers = min(file.max_waves, file.vgprs // allocated)
    if not kernel.lds_bytes:
        return by_registers
    waves_of_group = -(-kernel.max_threads // kernel.wave_size)
    groups = file.lds_bytes // kernel.lds_bytes
    return min(by_registers, max(1, groups * waves_of_group // file.simds))
