"""Host C toolchains: the pinned clang of the `ziglang` wheel, or any `cc` by choice."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import ToolchainError, printable
from ..artifacts.host import X86_64
from .target import CodeVariant
from .toolchain import run_compiler, ziglang_folder, ziglang_version

VERSION_TIMEOUT_SECONDS = 20
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
class HostToolchain:
    """A C compiler and linker.

    Attributes:
        name: "zig", or the command that the user chose.
        compiler: command that compiles C, without the common flags.
        linker: command that makes a shared object of objects, up to `-o`.
        version: one line.
        programs: see `Toolchain`.
        native: it builds for this machine's kind alone.
    """

    name: str
    compiler: tuple[str, ...]
    linker: tuple[str, ...]
    version: str
    warning_flags: tuple[str, ...]
    programs: tuple[Path, ...] = ()
    native: bool = False

    def flags(self, variant: CodeVariant) -> tuple[str, ...]:
        """Return the flags that decide the code; part of every cache key, free of paths."""
        chosen = (flag for flag in variant.flags if not (self.native and flag.startswith("--target=")))
        return (*_COMMON_FLAGS, *self.warning_flags, *chosen)

    @cached_property
    def digest(self) -> str:
        """Return the identity for cache keys: name and version, never a path."""
        return hashlib.sha256(f"{self.name}\n{self.version}".encode()).hexdigest()

    def compile(self, source: Path, output: Path, include: Path, variant: CodeVariant) -> None:
        """Compile one C file to an object file.

        Raises:
            ToolchainError: the compiler failed, hung or is gone.
        """
        command = (*self.compiler, *self.flags(variant), f"-I{include}", "-c", str(source), "-o", str(output))
        run_compiler(command, source.parent)

    def link(self, objects: list[Path], output: Path) -> None:
        """Link objects to a shared object whose undefined symbols the loading process supplies.

        Raises:
            ToolchainError: the linker failed, hung or is gone.
        """
        run_compiler((*self.linker, *(str(item) for item in objects), "-o", str(output)), output.parent)


def _zig() -> HostToolchain:
    root = ziglang_folder()
    zig = str(root / "zig")
    return HostToolchain(
        name="zig",
        compiler=(
            zig,
            "clang",
            "-target",
            f"{X86_64}-linux-gnu",  # unless a target says another
            "-isystem",
            str(root / "lib" / "include"),
        ),
        linker=(zig, "ld.lld", "-shared", "--build-id=none", "-z", "noexecstack"),
        version=ziglang_version(),
        warning_flags=_CLANG_FLAGS,
        programs=(root / "zig", root / "lib" / "include"),
    )


def _system(command: str) -> HostToolchain:
    found = shutil.which(command)
    path = None if found is None else os.path.abspath(found)
    if path is None:
        raise ToolchainError(f"--toolchain {printable(command)}: not found on PATH (zig needs nothing but pip)")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=VERSION_TIMEOUT_SECONDS, check=False)
    except OSError as error:
        raise ToolchainError(f"{printable(path)}: cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ToolchainError(
            f"{printable(path)}: --version gave no result within {VERSION_TIMEOUT_SECONDS} s"
        ) from None
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode or not lines:
        raise ToolchainError(f"{printable(path)}: --version failed: not a C compiler?")
    is_clang = "clang" in lines[0]
    return HostToolchain(
        name=command,
        compiler=(path,),
        linker=(path, "-shared", "-nostdlib", "-Wl,--build-id=none", "-Wl,-z,noexecstack"),
        version=printable(lines[0]),
        warning_flags=_CLANG_FLAGS if is_clang else _GCC_FLAGS,
        programs=_system_programs(Path(path)),
        native=True,
    )


def _system_programs(command: Path) -> tuple[Path, ...]:
    """Return a compiler's driver, and those of the programs and headers that it says it calls that are files."""
    asked = ("-print-prog-name=cc1", "-print-prog-name=as", "-print-prog-name=ld", "-print-file-name=include")
    found = [command.resolve()]
    for question in asked:
        try:
            answer = subprocess.run(
                [command, question], capture_output=True, timeout=VERSION_TIMEOUT_SECONDS, check=True
            )
        except (OSError, subprocess.TimeoutExpired):
            break  # one that hangs would hang at each question
        except subprocess.CalledProcessError:
            continue  # what it does not say is not recorded; the driver is
        name = answer.stdout.decode("utf-8", "surrogateescape").strip()
        named = shutil.which(name) or name
        if os.path.isabs(named) and os.path.exists(named):
            found.append(Path(named).resolve())
    return tuple(dict.fromkeys(found))


def find_host_toolchain(name: str = "auto") -> HostToolchain:
    """Return the C toolchain by name: "auto" and "zig" are the pinned wheel, anything else a command on PATH.

    Raises:
        ToolchainError: it is not there; says how to get one.
    """
    return _zig() if name in {"auto", "zig"} else _system(name)
