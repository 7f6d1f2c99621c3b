"""What compiler and runtime agree on about AMD GPUs: the ABI of kernels, names of arches, and what this machine has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

HIP_ABI_VERSION: Final = 2
"""Of kernels/hip: raised with any change to the step, the sampling or the arguments of a kernel."""

HIP_SONAMES: Final = ("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so")
"""Names of HIP's runtime library, of ROCm 7, 6 and 5: the newest first."""

GENERIC_ARCHES: Final[Mapping[str, tuple[str, ...]]] = {
    "gfx9-4-generic": ("gfx942", "gfx950"),
    "gfx10-3-generic": ("gfx1030", "gfx1031", "gfx1032", "gfx1033", "gfx1034", "gfx1035", "gfx1036"),
    "gfx11-generic": ("gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    "gfx12-generic": ("gfx1200", "gfx1201"),
}
"""Arches that run the code of a generic one: LLVM, "User Guide for AMDGPU Backend", Generic Processors."""

KFD_NODES: Final = Path("/sys/class/kfd/kfd/topology/nodes")


def generic_arch(arch: str) -> str | None:
    """The generic arch whose code `arch` runs; never guessed from its digits."""
    return next((name for name, members in GENERIC_ARCHES.items() if arch in members), None)


def arch_of_version(version: int) -> str:
    """The arch of a `gfx_target_version`: 110000 is gfx1100, 90010 is gfx90a."""
    return f"gfx{version // 10000}{version // 100 % 100}{version % 100:x}"


def installed_arches(nodes: Path = KFD_NODES) -> tuple[str, ...]:
    """Arches of the AMD GPUs here, by the KFD topology in sysfs: a node with a target version is a GPU."""
    found = []
    for properties in sorted(nodes.glob("*/properties")):
        try:
            pairs = (line.split() for line in properties.read_text("ascii").splitlines())
            version = int(dict(pair for pair in pairs if len(pair) == 2).get("gfx_target_version", "0"))
        except (OSError, ValueError):
            continue
        if version:
            found.append(arch_of_version(version))
    return tuple(found)
