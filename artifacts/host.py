"""What compiler and runtime agree on about CPUs: the target of each machine, and its ISA levels."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_V3_FEATURES = ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4_FEATURES = (*_V3_FEATURES, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni")
_AMX_FEATURES = (*_V4_FEATURES, "amx_tile", "amx_int8")

X86_64: Final = "x86_64"
HOST_ARCHES: Final[Mapping[str, str]] = {X86_64: "host", "aarch64": "aarch64"}
"""The target of each kind of machine, as `platform.machine` names it."""

HOST_LEVELS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "host": {
        "x86_64_amx": _AMX_FEATURES,
        "x86_64_v4": _V4_FEATURES,
        "x86_64_v3": _V3_FEATURES,
        "portable": (),
    },
    "aarch64": {"aarch64_i8mm": ("asimddp", "i8mm"), "aarch64_dotprod": ("asimddp",), "aarch64": ()},
}
"""Of each such target, the CPU features that code of a level needs, as /proc/cpuinfo names them; best level first."""


def host_arch() -> str:
    """Return the target of this machine; that of x86_64 where it is of a kind that no target is for."""
    return HOST_ARCHES.get(platform.machine(), HOST_ARCHES[X86_64])


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Features of this CPU, as /proc/cpuinfo names them; empty where there is no such file."""
    try:
        text = cpuinfo.read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())
