"""Host C toolchains: the pinned clang of the `ziglang` wheel, or any `cc` by choice."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata, util
from pathlib import Path

from ..artifacts.errors import ToolchainError, printable
from .target import CodeVariant

COMPILE_TIMEOUT_SECONDS = 120
_CLANG_FLAGS = (
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
)
# GCC warns that vectors wider than the ISA's have no stable ABI; ours never cross a call.
_GCC_FLAGS = (
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-psabi",
)
_COMMON_FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-ffreestanding",
    "-fno-builtin-malloc",
    # A row's arithmetic must not depend on which instantiation the compiler fused: see vector.h.
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-fno-ident",
    "-g0",
)


@dataclass(frozen=True)
class Toolchain:
    """A C compiler and linker.

    Attributes:
        name: "zig", or the command that the user chose.
        compiler: command that compiles C, without the common flags.
        linker: command that makes a shared object of objects, up to `-o`.
        version: one line.
    """

    name: str
    compiler: tuple[str, ...]
    linker: tuple[str, ...]
    version: str
    warning_flags: tuple[str, ...]

    def flags(self, variant: CodeVariant) -> tuple[str, ...]:
        """Flags that decide the code; part of every cache key, free of paths."""
        return (*_COMMON_FLAGS, *self.warning_flags, *variant.flags)

    @cached_property
    def digest(self) -> str:
        """Identity for cache keys: name and version, never a path."""
        return hashlib.sha256(f"{self.name}\n{self.version}".encode()).hexdigest()

    def compile(self, source: Path, output: Path, include: Path, variant: CodeVariant) -> None:
        """Compile one C file to an object file.

        Raises:
            ToolchainError: the compiler failed, hung or is gone.
        """
        self._run((*self.compiler, *self.flags(variant), f"-I{include}", "-c", str(source), "-o", str(output)))

    def link(self, objects: list[Path], output: Path) -> None:
        """Link objects to a shared object whose undefined symbols the loading process supplies.

        Raises:
            ToolchainError: the linker failed, hung or is gone.
        """
        self._run((*self.linker, *(str(item) for item in objects), "-o", str(output)))

    def _run(self, command: tuple[str, ...]) -> None:
        # No HOME, no locale, no SOURCE_DATE_EPOCH: a compiler's output must not depend on who runs it.
        environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TMPDIR": tempfile.gettempdir()}
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMPILE_TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise ToolchainError(f"{command[0]}: compiler not found") from None
        except OSError as error:
            raise ToolchainError(f"{command[0]}: cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise ToolchainError(f"{command[0]}: gave no result within {COMPILE_TIMEOUT_SECONDS} s") from None
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
            raise ToolchainError(f"{Path(command[0]).name} failed ({done.returncode}): {printable(first, 400)}")


def _zig() -> Toolchain:
    spec = util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise ToolchainError("the Python package ziglang is not installed: pip install ziglang==0.17.0")
    root = Path(spec.submodule_search_locations[0])
    zig = str(root / "zig")
    machine = os.uname().machine
    return Toolchain(
        name="zig",
        compiler=(
            zig,
            "clang",
            "-target",
            f"{machine}-linux-gnu",
            "-isystem",
            str(root / "lib" / "include"),
        ),
        linker=(zig, "ld.lld", "-shared", "--build-id=none", "-z", "noexecstack"),
        version=f"ziglang {metadata.version('ziglang')}",
        warning_flags=_CLANG_FLAGS,
    )


def _system(command: str) -> Toolchain:
    path = shutil.which(command)
    if path is None:
        raise ToolchainError(f"--toolchain {command}: not found on PATH (zig needs nothing but pip)")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"{path}: cannot be run: {error}") from None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode or not lines:
        raise ToolchainError(f"{path}: --version failed: not a C compiler?")
    is_clang = "clang" in lines[0]
    return Toolchain(
        name=command,
        compiler=(path,),
        linker=(path, "-shared", "-nostdlib", "-Wl,--build-id=none", "-Wl,-z,noexecstack"),
        version=printable(lines[0]),
        warning_flags=_CLANG_FLAGS if is_clang else _GCC_FLAGS,
    )


def find_toolchain(name: str = "auto") -> Toolchain:
    """The C toolchain by name: "auto" and "zig" are the pinned wheel, anything else a command on PATH.

    Raises:
        ToolchainError: it is not there; says how to get one.
    """
    return _zig() if name in {"auto", "zig"} else _system(name)
