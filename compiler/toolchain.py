"""What every toolchain offers the build, and how compilers are run."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata, util
from pathlib import Path
from typing import Protocol

from ..artifacts.errors import ToolchainError, printable
from .target import CodeVariant

COMPILE_TIMEOUT_SECONDS = 120


class Toolchain(Protocol):
    """A compiler and linker for one backend."""

    @property
    def name(self) -> str:
        """Return the name, as the user asks for it."""

    @property
    def version(self) -> str:
        """Return the version, in one line."""

    @property
    def digest(self) -> str:
        """Return the identity for cache keys: name and version, never a path."""

    @property
    def programs(self) -> tuple[Path, ...]:
        """Return the files, and folders of headers, whose content decides what it makes."""

    def flags(self, variant: CodeVariant) -> tuple[str, ...]:
        """Return the flags that decide the code; part of every cache key, free of paths."""

    def compile(self, source: Path, output: Path, include: Path, variant: CodeVariant) -> None:
        """Compile one source to an object file.

        Raises:
            ToolchainError: the compiler failed, hung or is gone.
        """

    def link(self, objects: list[Path], output: Path) -> None:
        """Link objects to a code object.

        Raises:
            ToolchainError: the linker failed, hung or is gone.
        """


def run_compiler(command: tuple[str, ...], folder: Path) -> str:
    """Run a compiler or linker in `folder`, where its own temporary files go too; returns what it printed.

    Raises:
        ToolchainError: it failed, hung or is gone.
    """
    name = printable(command[0])
    # No HOME, no locale, no SOURCE_DATE_EPOCH: a compiler's output must not depend on who runs it.
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TMPDIR": str(folder)}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMPILE_TIMEOUT_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise ToolchainError(f"{name}: compiler not found") from None
    except OSError as error:
        raise ToolchainError(f"{name}: cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{name}: gave no result within {COMPILE_TIMEOUT_SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise ToolchainError(f"{Path(name).name} failed ({done.returncode}): {printable(first, 400)}")
    return done.stdout.decode("utf-8", "replace")


def ziglang_folder() -> Path:
    """Return where the wheel `ziglang` lies, which brings clang and lld.

    Raises:
        ToolchainError: it is not installed.
    """
    spec = util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise ToolchainError("the Python package ziglang is not installed: pip install ziglang==0.17.0")
    return Path(spec.submodule_search_locations[0])


def ziglang_version() -> str:
    """Return the version of the wheel `ziglang`, in one line."""
    return f"ziglang {metadata.version('ziglang')}"
