"""HIP toolchains: hipcc of ROCm or Debian, or the clang and lld of the `ziglang` wheel.

Both go two steps: HIP to an object of the device alone, objects to one raw ELF. No ROCm header and no device library
enters.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import field
from functools import cache, cached_property
from pathlib import Path

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import ToolchainError, printable
from .code_object_notes import merge_metadata_notes
from .target import TARGETS, CodeVariant
from .toolchain import run_compiler, ziglang_folder, ziglang_version

PROBE_TIMEOUT_SECONDS = 60
_SOURCE_FLAGS = (
    "-x",
    "hip",
    "-std=c++17",
    "--offload-device-only",
    # The driver would link a device's object to a code object of its own: asked for bitcode it stops before that, and
    # what compiles then is told to make an object.
    "-emit-llvm",
    "-Xclang",
    "-emit-obj",
    "-nogpulib",
    "-nogpuinc",
    "-nostdinc",
    "-fno-exceptions",
    "-fno-rtti",
    # A row's arithmetic must not depend on which kernel the compiler fused: kernels write their FMAs themselves.
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-unused-command-line-argument",
)
_COMMON_FLAGS = ("-O3", "-g0", "-fno-ident")


@dataclass(frozen=True)
class HipToolchain:
    """clang for AMD GPUs, under one of its names.

    Attributes:
        name: "hipcc" or "clang".
        hip: command that compiles HIP.
        linker: command that links, up to the objects.
        version: one line.
        arches: arches that it knows.
        programs: see `Toolchain`.
    """

    name: str
    hip: tuple[str, ...]
    linker: tuple[str, ...]
    version: str
    arches: frozenset[str]
    programs: tuple[Path, ...] = ()
    _commands: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

    def flags(self, variant: CodeVariant) -> tuple[str, ...]:
        """See `Toolchain`."""
        return (*_SOURCE_FLAGS, *_COMMON_FLAGS, *variant.flags)

    @cached_property
    def digest(self) -> str:
        """See `Toolchain`."""
        return hashlib.sha256(f"{self.name}\n{self.version}".encode()).hexdigest()

    def compile(self, source: Path, output: Path, include: Path, variant: CodeVariant) -> None:
        """See `Toolchain`. Sources are named without their folder, which would enter the object.

        hipcc is a script that takes twice as long as the clang that it calls: the first time it says what it calls, and
        from then on that is called, where all it does to the unit is to pass it on. One that runs elsewhere, in a
        container, names a clang that is not there, or is another one: it is called each time.
        """
        # clang would otherwise derive the id of the unit from the path of the source.
        unit = (f"-cuid={source.stem}", f"-I{include}", "-c", source.name, "-o", output.name)
        flags = self.flags(variant)
        command = self._commands.get(flags)
        if command is None:
            asked = (*self.hip, *flags)
            called = _called(run_compiler((*asked, *unit), source.parent), unit) or asked
            is_own = Path(os.path.realpath(called[0])) in self.programs
            self._commands[flags] = called if is_own else asked
        else:
            run_compiler((*command, *unit), source.parent)

    def link(self, objects: list[Path], output: Path) -> None:
        """See `Toolchain`. The symbol table stays: AMD's loader looks kernels up in it, not in the dynamic one."""
        command = (
            *self.linker,
            "-shared",
            "--build-id=none",
            "--strip-debug",
            *(str(item) for item in objects),
            "-o",
            str(output),
        )
        run_compiler(command, output.parent)
        output.write_bytes(merge_metadata_notes(output.read_bytes()))


def _called(said: str, unit: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the command that hipcc says it called, up to the unit; None where it says none, or of another end."""
    found = re.search(r"^hipcc-cmd: (.+)$", said, re.MULTILINE)
    try:
        command = tuple(shlex.split(found[1])) if found else ()
    except ValueError:
        return None
    head = command[: -len(unit)]
    return head if head and (*head, *unit) == command else None


def _output(command: tuple[str, ...]) -> str:
    """Return what a command prints.

    Raises:
        ToolchainError: it cannot be run, fails or hangs.
    """
    environment = {**os.environ, "HIP_PLATFORM": "amd", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"{command[0]}: cannot be run: {error}") from None
    if done.returncode:
        raise ToolchainError(f"{command[0]}: {' '.join(command[1:])} failed ({done.returncode})")
    return done.stdout.decode("utf-8", "replace") + done.stderr.decode("utf-8", "replace")


def _known_arches(clang: tuple[str, ...]) -> frozenset[str]:
    try:
        found = os.stat(clang[0])
    except OSError as error:
        raise ToolchainError(f"{clang[0]}: cannot be run: {error}") from None
    return _arches_of(clang, (found.st_ino, found.st_size, found.st_mtime_ns))


@cache
def _arches_of(clang: tuple[str, ...], _stamp: tuple[int, ...]) -> frozenset[str]:
    """Asked once, as long as the program is the same file: each build of a GPU's code asks."""
    text = _output((*clang, "--target=amdgcn-amd-amdhsa", "-nogpulib", "--print-supported-cpus"))
    return frozenset(re.findall(r"^\s+(gfx[0-9a-z-]+)\s*$", text, re.MULTILINE))


def find_clang() -> HipToolchain:
    """Return clang and lld of the `ziglang` wheel, which know every arch of the target table.

    Raises:
        ToolchainError: the wheel is not installed.
    """
    zig = str(ziglang_folder() / "zig")
    clang = (zig, "clang")
    return HipToolchain("clang", clang, (zig, "ld.lld"), ziglang_version(), _known_arches(clang), (Path(zig),))


def hipcc_path() -> Path | None:
    """Return $HIPCC, else $ROCM_PATH/bin/hipcc, else hipcc on PATH."""
    asked = os.environ.get("HIPCC")
    if asked:
        return Path(asked)
    root = os.environ.get("ROCM_PATH")
    if root and Path(root, "bin", "hipcc").is_file():
        return Path(root, "bin", "hipcc")
    found = shutil.which("hipcc")
    return Path(found).absolute() if found else None


def find_hipcc() -> HipToolchain:
    """Return hipcc, with the clang and lld that it calls.

    Raises:
        ToolchainError: it is not there, or its clang is not.
    """
    path = hipcc_path()
    if path is None:
        raise ToolchainError(
            "hipcc: not found by HIPCC, ROCM_PATH or PATH: apt-get install hipcc, or --toolchain clang"
        )
    text = _output((str(path), "--version"))
    folder = re.search(r"^InstalledDir: (.+)$", text, re.MULTILINE)
    major = re.search(r"clang version (\d+)", text)
    if folder is None or major is None:
        raise ToolchainError(f"{path}: --version names no clang: not hipcc?")
    folders = (Path(folder[1]), Path(f"/usr/lib/llvm-{major[1]}/bin"))
    clang = _first(path, [item / name for item in folders for name in (f"clang-{major[1]}", "clang")])
    linker = _first(path, [item / name for item in folders for name in (f"ld.lld-{major[1]}", "ld.lld")])
    lines = [line for line in text.splitlines() if "version" in line]
    # hipcc is a script that guesses its platform: it takes nvcc where it sees one.
    hip = ("/usr/bin/env", "HIP_PLATFORM=amd", "HIPCC_VERBOSE=1", str(path))
    version = printable("; ".join(line.strip() for line in lines))
    programs = tuple(Path(os.path.realpath(one)) for one in (path, clang, linker))
    return HipToolchain("hipcc", hip, (linker,), version, _known_arches((clang,)), programs)


def _first(hipcc: Path, candidates: list[Path]) -> str:
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return str(candidate)
    raise ToolchainError(f"{hipcc}: its {candidates[0].name} is not found; looked for {candidates[0]} and others")


def find_hip_toolchain(name: str, arch: str) -> HipToolchain:
    """Return a toolchain that can build `arch`.

    Args:
        name: "auto" (hipcc where it knows the arch, else clang), "hipcc" or "clang".
        arch: a row of the target table.
    Raises:
        ToolchainError: it is not there, or does not know the arch.
    """
    if name == "auto" and hipcc_path() is not None:
        try:
            hipcc = find_hipcc()
        except ToolchainError:
            hipcc = None
        if hipcc is not None and arch in hipcc.arches:
            return hipcc
    toolchain = find_hipcc() if name == "hipcc" else find_clang()
    if arch not in toolchain.arches:
        known = ", ".join(name for name in TARGETS if name in toolchain.arches)
        raise ToolchainError(f"--arch {arch}: unknown to {toolchain.name} ({toolchain.version}), which knows: {known}")
    return toolchain
