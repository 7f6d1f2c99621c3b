"""The native part of the emulator: its C compiled once for each wave size into a cached shared object."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

from ...artifacts.cache_dir import default_cache_dir
from ...artifacts.errors import ToolchainError, printable
from .structures import Allocation, Entry, Launch, Op, Operand, Traffic, Worker

NATIVE = Path(__file__).parent / "native"
_SOURCES = ("run.c", "valu.c", "masks.c", "salu.c", "memory.c", "lds.c", "cross_lane.c", "matrix.c")
_FLAGS = (
    "-std=gnu11",
    "-O2",
    "-fPIC",
    "-ffreestanding",
    "-fvisibility=hidden",
    "-fno-math-errno",
    # One rounding for each instruction of the GPU, whatever the host's own instructions could fuse.
    "-ffp-contract=off",
    "-Xclang",
    "-ffloat16-excess-precision=none",
    "-Wno-psabi",
)


@dataclass(frozen=True, eq=False)
class Library:
    """The loaded shared object of one wave size.

    Attributes:
        handlers: name of an operation to its index and its types, e.g. `"f32 f32 f32"` (destination, then sources).
    """

    wave_size: int
    handle: ctypes.CDLL
    handlers: dict[str, tuple[int, tuple[str, ...]]]

    def link(self, ops: ctypes.Array[Op]) -> None:
        """Replace handler indices by addresses, in place."""
        self.handle.emulator_link(ops, len(ops))

    def run(self, launch: Launch, worker: Worker) -> int:
        """Run workgroups until none is left: 0, or 2 where one faulted (see `worker.fault`), or -1 without memory."""
        return int(self.handle.emulator_run(ctypes.byref(launch), ctypes.byref(worker)))


def _host_level() -> tuple[str, ...]:
    """-march for this machine; results do not depend on it, only speed."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return ()
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"} <= flags:
        return ("-march=x86-64-v4", "-mprefer-vector-width=512")
    return ("-march=x86-64-v3",) if {"avx2", "fma", "f16c", "bmi2"} <= flags else ()


def cache_folder() -> Path:
    """Where what is built once is kept."""
    return default_cache_dir() / "emulator"


def _zig() -> tuple[Path, str]:
    spec = util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise ToolchainError("the emulator needs the Python package ziglang: pip install ziglang==0.17.0")
    return Path(spec.submodule_search_locations[0]), metadata.version("ziglang")


def _command(arguments: list[str]) -> None:
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"emulator: {arguments[0]} cannot be run: {error}") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").splitlines()
        first = next((line for line in lines if "error" in line), "no message")
        raise ToolchainError(f"emulator: its own C does not compile: {printable(first, 400)}")


def _libc_headers(root: Path, machine: str) -> list[str]:
    """Flags for C that calls the C library and the kernel: the headers of both come with ziglang."""
    folder = root / "lib" / "libc" / "include"
    family = "x86" if machine == "x86_64" else machine
    names = (f"{family}-linux-gnu", "generic-glibc", f"{family}-linux-any", "any-linux-any")
    return [flag for name in names for flag in ("-isystem", str(folder / name))]


def build_shared(name: str, folder: Path, sources: Sequence[str], flags: Sequence[str], libc: bool = False) -> Path:
    """A shared object of C sources: compiled, unless one of the same sources and flags is in the cache.

    Args:
        folder: holds the sources, and headers.
        libc: the sources call the C library.
    Raises:
        ToolchainError: the compiler is missing or failed.
    """
    root, version = _zig()
    machine = os.uname().machine
    digest = hashlib.sha256("\0".join((version, machine, *sources, *flags)).encode())
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    goal = cache_folder() / f"{name}-{digest.hexdigest()[:24]}.so"
    if goal.exists():
        return goal
    goal.parent.mkdir(parents=True, exist_ok=True)
    zig = str(root / "zig")
    compiler = [zig, "clang", "-target", f"{machine}-linux-gnu", "-isystem", str(root / "lib" / "include"), *flags]
    if libc:
        compiler += ["-nostdinc", *_libc_headers(root, machine)]
    with tempfile.TemporaryDirectory(dir=goal.parent) as built:
        objects = [str(Path(built) / f"{source}.o") for source in sources]
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            jobs = zip(sources, objects, strict=True)
            list(pool.map(lambda job: _command([*compiler, "-c", str(folder / job[0]), "-o", job[1]]), jobs))
        shared = str(Path(built) / "shared.so")
        _command([zig, "ld.lld", "-shared", "--build-id=none", "-z", "noexecstack", *objects, "-o", shared])
        # Renamed whole: another process may build the same one.
        Path(shared).replace(goal)
    return goal


def build(wave_size: int) -> Path:
    """The shared object for waves of 32 or 64 lanes, compiled at first use (seconds) and cached.

    Raises:
        ToolchainError: the compiler is missing or failed.
    """
    return build_shared(f"wave{wave_size}", NATIVE, _SOURCES, (*_FLAGS, *_host_level(), f"-DW={wave_size}"))


@cache
def load(wave_size: int) -> Library:
    """The native library for waves of 32 or 64 lanes, built if need be.

    Raises:
        ToolchainError: the compiler is missing or failed.
    """
    handle = ctypes.CDLL(str(build(wave_size)))
    handle.emulator_entry.restype = ctypes.POINTER(Entry)
    sizes = (ctypes.c_uint32 * 7)()
    handle.emulator_sizes(sizes)
    ours = [ctypes.sizeof(item) for item in (Op, Operand, Launch, Worker, Allocation, Traffic)]
    if list(sizes) != [*ours, wave_size]:
        raise ToolchainError(f"emulator: structures.py ({ours}) and wave.h ({list(sizes)}) disagree")
    handlers: dict[str, tuple[int, tuple[str, ...]]] = {}
    while entry := handle.emulator_entry(len(handlers)):
        name = entry.contents.name.decode()
        handlers[name] = (len(handlers), tuple(entry.contents.types.decode().split()))
    return Library(wave_size, handle, handlers)
