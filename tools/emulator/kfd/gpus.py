"""The GPUs that can be emulated: what a driver and its sysfs say of each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ....artifacts.errors import ToolchainError, printable

_GIB = 1 << 30


@dataclass(frozen=True)
class Kind:
    """What GPUs of one design share.

    Attributes:
        arrays: shader arrays of a shader engine.
        simds: of a compute unit.
        waves: most of a SIMD.
        xcc: compute dies that share the device.
    """

    arrays: int
    simds: int
    waves: int
    wave_size: int
    xcc: int


@dataclass(frozen=True)
class Gpu:
    """What the runtime is told of a GPU.

    Attributes:
        target: `gfx_target_version` of the topology: major * 10000 + minor * 100 + stepping.
        family: libdrm's number of the chip family.
        compute_units: of the whole device.
        engines: shader engines.
    """

    arch: str
    name: str
    target: int
    device_id: int
    family: int
    compute_units: int
    engines: int
    l2_kib: int
    lds_kib: int
    kind: Kind


_RDNA = Kind(arrays=2, simds=2, waves=16, wave_size=32, xcc=1)
_CDNA = Kind(arrays=1, simds=4, waves=8, wave_size=64, xcc=8)

_TABLE = (
    Gpu("gfx1100", "AMD Radeon RX 7900 XTX", 110000, 0x744C, 145, 96, 6, 6144, 64, _RDNA),
    Gpu("gfx1101", "AMD Radeon RX 7800 XT", 110001, 0x747E, 145, 60, 3, 4096, 64, _RDNA),
    Gpu("gfx1102", "AMD Radeon RX 7600", 110002, 0x7480, 145, 32, 2, 2048, 64, _RDNA),
    Gpu("gfx1103", "AMD Radeon 780M", 110003, 0x15BF, 148, 12, 1, 2048, 64, _RDNA),
    Gpu("gfx1150", "AMD Radeon 890M", 110500, 0x150E, 150, 16, 1, 2048, 64, _RDNA),
    Gpu("gfx1151", "AMD Radeon 8060S", 110501, 0x1586, 150, 40, 2, 2048, 64, _RDNA),
    Gpu("gfx1152", "AMD Radeon 840M", 110502, 0x1114, 150, 8, 1, 2048, 64, _RDNA),
    Gpu("gfx1153", "AMD Radeon 820M", 110503, 0x1115, 150, 4, 1, 2048, 64, _RDNA),
    Gpu("gfx1200", "AMD Radeon RX 9060 XT", 120000, 0x7590, 152, 32, 2, 4096, 64, _RDNA),
    Gpu("gfx1201", "AMD Radeon RX 9070 XT", 120001, 0x7550, 152, 64, 4, 8192, 64, _RDNA),
    Gpu("gfx942", "AMD Instinct MI300X", 90402, 0x74A1, 141, 304, 32, 4096, 64, _CDNA),
    Gpu("gfx950", "AMD Instinct MI355X", 90500, 0x75A0, 141, 256, 32, 4096, 160, _CDNA),
)
# Code for these can be loaded, and no kernel run: the emulator does not know their instructions.
_VEGA = Kind(arrays=1, simds=4, waves=10, wave_size=64, xcc=1)
_LOADED = (
    Gpu("gfx906", "AMD Instinct MI50", 90006, 0x66A1, 141, 60, 4, 4096, 64, _VEGA),
    Gpu("gfx908", "AMD Instinct MI100", 90008, 0x738C, 141, 120, 8, 8192, 64, _VEGA),
    Gpu("gfx90a", "AMD Instinct MI210", 90010, 0x740F, 141, 104, 8, 8192, 64, _VEGA),
    *(
        Gpu(f"gfx103{last}", "AMD Radeon RX 6000", 100300 + last, device, 143, 40, 2, 4096, 64, _RDNA)
        for last, device in enumerate((0x73BF, 0x73DF, 0x73FF, 0x163F, 0x743F, 0x1681, 0x164E))
    ),
)
GPUS = {gpu.arch: gpu for gpu in (*_TABLE, *_LOADED)}


def vram_bytes() -> int:
    """Memory of each GPU: far less than on a card, for it is this machine's, and programs fill all that they find.

    Raises:
        ToolchainError: `ROCMFORGE_KFD_VRAM_GIB` is no number of GiB.
    """
    text = os.environ.get("ROCMFORGE_KFD_VRAM_GIB", "4")
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise ToolchainError(f"ROCMFORGE_KFD_VRAM_GIB: expected 1 to 1024, found {printable(text)}")
    return int(text) * _GIB


def gpu_of(arch: str) -> Gpu:
    """The GPU of a gfx name.

    Raises:
        ToolchainError: none that is known.
    """
    if arch not in GPUS:
        raise ToolchainError(f"kfd: no GPU {arch!r}; there are {', '.join(GPUS)}")
    return GPUS[arch]
