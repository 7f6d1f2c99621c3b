"""`rfc doctor`: what this machine has, what it lacks, and how to get it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..artifacts.errors import ToolchainError
from ..artifacts.host import cpu_features
from .build_cache import default_cache_dir
from .host_toolchain import find_host_toolchain
from .target import TARGETS, CodeVariant

KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")


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
    features = cpu_features()
    for variant in TARGETS["host"].variants:
        missing = [name for name in variant.cpu_features if name not in features]
        text = f"this CPU lacks {', '.join(missing)}" if missing else "this CPU runs it"
        yield Finding(f"host {variant.level}", not missing, text, needed=not variant.cpu_features)
    yield _gpus()
    cache = default_cache_dir()
    writable = _writable(cache)
    yield Finding("build cache", writable, str(cache) if writable else f"{cache} cannot be written: --cache-dir", False)


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


def _gpus() -> Finding:
    """AMD GPUs by the KFD topology in sysfs: a node with a gfx_target_version is one."""
    found = []
    for properties in sorted(KFD_NODES.glob("*/properties")):
        try:
            fields = dict(line.split()[:2] for line in properties.read_text().splitlines() if " " in line)
        except (OSError, ValueError):
            continue
        version = int(fields.get("gfx_target_version", "0"))
        if version:
            major, minor, step = version // 10000, version // 100 % 100, version % 100
            found.append(f"gfx{major}{minor}{step:x}")
    return Finding("AMD GPU", bool(found), ", ".join(found) or "none found (no GPU target in this version yet)")


def _writable(path: Path) -> bool:
    while not path.exists() and path != path.parent:
        path = path.parent
    return os.access(path, os.W_OK)
