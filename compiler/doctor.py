"""`rfc doctor`: what this machine has, what it lacks, and how to get it."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..artifacts.cache_dir import default_cache_dir
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import ToolchainError, UsageError
from ..artifacts.hip import HIP_SONAMES, KFD_NODES, installed_arches, library_paths, version_of, version_text
from ..artifacts.host import cpu_features, host_arch
from ..artifacts.processors import read_processors
from .hip_toolchain import find_hipcc
from .host_toolchain import find_host_toolchain
from .target import TARGETS, CodeVariant


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked for; `needed`: the host target does not work without it."""

    what: str
    ok: bool
    text: str
    needed: bool = False


def examine() -> tuple[Finding, ...]:
    """Look for all that compiling and serving can use."""
    return tuple(_examine())


def _examine() -> Iterator[Finding]:
    yield _try_toolchain()
    for command in ("cc", "clang"):
        path = shutil.which(command)
        yield Finding(
            command, path is not None, f"{path} (--toolchain {command})" if path else "not on PATH (optional)"
        )
    yield _hipcc()
    features = cpu_features()
    for variant in TARGETS[host_arch()].variants:
        missing = [name for name in variant.cpu_features if name not in features]
        text = f"this CPU lacks {', '.join(missing)}" if missing else "this CPU runs it"
        yield Finding(f"host {variant.level}", not missing, text, needed=not variant.cpu_features)
    yield _processors()
    yield _gpus()
    yield _hip_library()
    yield _build_cache()


def _processors() -> Finding:
    found = read_processors()
    quota = "" if found.quota is None else f", the time of {found.quota:g}"
    text = f"{len(found.cores)} cores, {sum(map(len, found.cores))} CPUs{quota}: threads: {found.whole}"
    hyperthreads = "" if found.most == found.whole else f", or {found.most} where hyperthreads are faster"
    return Finding("processors", True, text + hyperthreads)


def _try_toolchain() -> Finding:
    """Find the default toolchain, and have it compile something."""
    try:
        toolchain = find_host_toolchain()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text("int probe(void) { return 1; }\n")
            toolchain.compile(
                source, Path(folder, "probe.o"), Path(folder), CodeVariant("portable", (), (), "probe.so")
            )
    except ToolchainError as error:
        return Finding("zig toolchain", False, str(error), needed=True)
    return Finding("zig toolchain", True, toolchain.version, needed=True)


def _hipcc() -> Finding:
    """Look for hipcc, which is taken where it knows the arch; the wheel's clang builds GPU code of every arch."""
    try:
        hipcc = find_hipcc()
    except ToolchainError as error:
        return Finding("hipcc", False, f"{error} (optional: clang builds every arch)")
    return Finding(
        "hipcc", True, f"{hipcc.version} (knows {sum(arch in hipcc.arches for arch in TARGETS)} of our arches)"
    )


def _gpus() -> Finding:
    found = installed_arches()
    return Finding("AMD GPU", bool(found), ", ".join(found) or f"none found in {KFD_NODES} (the host target serves)")


def _hip_library() -> Finding:
    """Look for HIP's library: all that `rfc serve` needs of ROCm."""
    for path in library_paths():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        number = ctypes.c_int()
        known = hasattr(library, "hipRuntimeGetVersion") and library.hipRuntimeGetVersion(ctypes.byref(number)) == 0
        return Finding("HIP runtime", True, f"{path} ({version_text(version_of(number.value) if known else None)})")
    return Finding("HIP runtime", False, f"{HIP_SONAMES[0]} or older not found (GPUs need ROCm 5.7's or newer)")


def _build_cache() -> Finding:
    try:
        cache = default_cache_dir()
    except UsageError as error:
        return Finding("build cache", False, f"{error}, or --cache-dir")
    writable = _writable(cache)
    return Finding("build cache", writable, str(cache) if writable else f"{cache} cannot be written: --cache-dir")


def _writable(path: Path) -> bool:
    while not path.exists() and path != path.parent:
        path = path.parent
    return os.access(path, os.W_OK)
