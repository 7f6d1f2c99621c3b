"""The machine that is measured: its kind, and what its memory and processors give at most."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

from rocmforge.tools.emulator.library import build_shared

PROBE_BYTES: Final = 256 << 20
PROBE_SECONDS: Final = 0.15
_NATIVE: Final = Path(__file__).with_name("native")
_NAMES: Final = (("AMX", "amx_int8"), ("AVX-512 VNNI", "avx512_vnni"), ("AVX-512", "avx512f"), ("AVX2", "avx2"))


@dataclass(frozen=True, slots=True)
class Peaks:
    """What threads reach together, in 1e9 a second; None: the machine has no instructions of this kind.

    Attributes:
        read: bytes from memory.
        float32: multiplications and additions.
        int8: likewise, with AMX left aside.
        amx: likewise, with AMX.
    """

    read: float
    float32: float | None
    int8: float | None
    amx: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return plain values."""
        return asdict(self)


def machine_kind(cpuinfo: str, cpus: int) -> str:
    """Return what tells a kind of machine from another in a table: the processor, its number and its instructions.

    Args:
        cpuinfo: text of /proc/cpuinfo.
        cpus: that may be used.
    """
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    fields: dict[str, str] = {}
    for name, _, value in lines:
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    name = " ".join(fields.get("model name", platform.machine()).replace("(R)", "").split())
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    level = [title for title, flag in _NAMES if flag in flags][:1]
    return ", ".join([name, *numbers, *level, f"{cpus} CPUs"])


def this_kind() -> str:
    """Return the kind of this machine."""
    return machine_kind(Path("/proc/cpuinfo").read_text("utf-8", "replace"), len(os.sched_getaffinity(0)))


@cache
def _library() -> ctypes.CDLL:
    """Return the probe, compiled for this kind of machine by our own toolchain, and kept.

    Raises:
        ToolchainError: it could not be compiled.
    """
    kind = hashlib.sha256(this_kind().encode()).hexdigest()[:12]
    flags = ("-O2", "-fPIC", "-march=native")
    return ctypes.CDLL(str(build_shared(f"probe-{kind}", _NATIVE, ("probe.c",), flags, libc=True)))


def probe(threads: int, seconds: float = PROBE_SECONDS, size: int = PROBE_BYTES) -> Peaks:
    """Return what so many threads reach; each of the figures takes `seconds`, and `size` bytes are read.

    Raises:
        ToolchainError: the probe could not be compiled.
        MemoryError: there is no room for the bytes.
    """
    rates = (ctypes.c_double * 4)()
    if _library().probe(threads, ctypes.c_size_t(size), ctypes.c_double(seconds), rates):
        raise MemoryError(f"the probe has no room for {size} bytes")
    read, *peaks = rates
    return Peaks(read, *(rate if rate >= 0 else None for rate in peaks))
