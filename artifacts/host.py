"""What compiler and runtime agree on about the host target: its ISA levels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_V3_FEATURES = ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4_FEATURES = (*_V3_FEATURES, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni")

LEVEL_FEATURES: Final[Mapping[str, tuple[str, ...]]] = {
    "x86_64_v4": _V4_FEATURES,
    "x86_64_v3": _V3_FEATURES,
    "portable": (),
}
"""CPU features that a machine must have to run code of a level, as /proc/cpuinfo names them; best level first."""


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Features of this CPU, as /proc/cpuinfo names them; empty where there is no such file."""
    try:
        text = cpuinfo.read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())
