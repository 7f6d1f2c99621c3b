"""Runs a program on AMD's own HIP and ROCr libraries, unmodified, over an emulated kernel driver.

tools/amd_runtime [--suite trixie|sid|experimental] [--gpu gfx1100[,gfx942]] -- rfc verify BUNDLE --device hip

The libraries come from Debian's suites and lie in a folder of their own (`root.py`); the driver and the GPUs
behind it are `emulator/kfd`, preloaded into the program. It runs on that folder's own loader and C library: those of
this machine may be older than the libraries need.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from rocmforge.artifacts.errors import RocmforgeError, ToolchainError, UsageError, printable
from rocmforge.artifacts.locked import locked
from rocmforge.tools.debian.root import LIBRARIES, Root, fetch_root

PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "trixie": ("libamdhip64-5", "libhsa-runtime64-1"),
    "sid": ("libamdhip64-6", "libhsa-runtime64-1"),
    "experimental": ("libamdhip64-7", "libhsa-runtime64-1"),
}
"""HIP by suite; stable does not change, the others do."""
NO_GPU: Final = "none"

_NAMED: Final = ("libamdhip64", "libhsa-runtime64", "libamd-comgr")
_LOADER: Final = "ld-linux-x86-64.so.2"


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a program: its command line, and its environment whole."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


def work_folder() -> Path:
    """Where libraries and launchers are kept: below `$ROCMFORGE_WORK`, else below the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rocmforge"
    return Path(os.environ.get("ROCMFORGE_WORK") or cache).resolve() / "amd"


def fetch_runtime(suite: str, update: bool = False) -> Root:
    """AMD's libraries of a suite.

    Raises:
        ToolchainError: they are unavailable.
    """
    return fetch_root(work_folder() / suite, suite, PACKAGES[suite], update)


def describe(root: Root) -> str:
    """AMD's libraries in a root and their versions, on a line."""
    found = (f"{name} {root.versions[name]}" for name in sorted(root.versions) if name.startswith(_NAMED))
    return ", ".join(found)


def launch(root: Root, gpus: Sequence[str], command: Sequence[str]) -> Launch:
    """A program on the libraries of a root, with emulated GPUs.

    `rfc` and `python` are this environment's, also where the program starts them again.

    Args:
        root: of `fetch_runtime`.
        gpus: gfx names; none: no driver is emulated, and AMD's libraries find what this machine has.
        command: program and arguments.

    Raises:
        ToolchainError: the libraries do not run here, or the driver cannot be built.
        UsageError: there is no such program.
    """
    _check_c_library(root)
    libraries = root.path / LIBRARIES
    loader = [str(libraries / _LOADER), "--library-path", str(libraries)]
    environment = dict(os.environ)
    if gpus:
        from rocmforge.tools.emulator import kfd  # noqa: PLC0415 - builds what it preloads

        environment.update(kfd.environment(gpus))
        loader += ["--preload", str(kfd.preload())]
    hip = sorted(libraries.glob("libamdhip64.so.[0-9]"))
    environment["ROCMFORGE_HIP_LIBRARY"] = str(hip[-1])
    programs = _programs(loader)
    environment["PATH"] = f"{programs}:{os.environ.get('PATH', os.defpath)}"
    program = shutil.which(command[0], path=environment["PATH"])
    if program is None:
        raise UsageError(f"{printable(command[0])}: no such program")
    with Path(program).open("rb") as file:
        binary = file.read(4) == b"\x7fELF"
    return Launch((*(loader if binary else ()), program, *command[1:]), environment)


def _check_c_library(root: Root) -> None:
    own, found = platform.libc_ver()[1], root.versions["libc6"].partition("-")[0]
    if _numbers(own) > _numbers(found):
        why = f"its C library is {found}, older than this machine's {own}: a newer suite may do"
        raise ToolchainError(f"{root.path.name}: {why}")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _programs(loader: Sequence[str]) -> Path:
    """A folder with `python` and `rfc` that run on a loader.

    It is a virtual environment with the packages of this one, so that `sys.executable` is its `python` and every child
    that Python starts by it runs on the loader too.
    """
    prefix, binary = Path(sys.prefix), Path(sys.executable).resolve()
    start = f'#!/bin/sh\nexec {shlex.join([loader[0], "--argv0"])} "$0" {shlex.join([*loader[1:], str(binary)])}'
    key = hashlib.sha256(f"{prefix} {start}".encode()).hexdigest()[:12]
    folder = work_folder() / f"python-{key}"
    programs = folder / "bin"
    with locked(folder.with_name(f".{folder.name}.lock")):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            programs.mkdir(parents=True)
            for name in ("lib", "lib64", "pyvenv.cfg"):
                if (prefix / name).exists():
                    (folder / name).symlink_to(prefix / name)
            for name in ("python", "python3"):
                write_program(programs / name, f'{start} "$@"\n')
            python = shlex.quote(str(programs / "python"))
            write_program(programs / "rfc", f'#!/bin/sh\nexec {python} -m rocmforge.cli "$@"\n')
            (folder / "complete").touch()
    return programs


def write_program(path: Path, text: str) -> None:
    """A script that can be run."""
    path.write_text(text, "utf-8")
    path.chmod(0o755)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--suite", type=click.Choice(sorted(PACKAGES)), default="trixie", show_default=True)
@click.option(
    "--gpu",
    "gpus",
    default="gfx1100",
    show_default=True,
    help=f"Emulated GPUs, by commas; {NO_GPU}: no driver is emulated.",
)
@click.option("--update", is_flag=True, help="Fetch the suite's newest libraries, also where some are there.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(suite: str, gpus: str, update: bool, command: tuple[str, ...]) -> None:
    """Run COMMAND on AMD's own HIP libraries from Debian's SUITE, on emulated GPUs."""
    try:
        root = fetch_runtime(suite, update)
        click.echo(f"{suite}: {describe(root)}", err=True)
        started = launch(root, [] if gpus == NO_GPU else gpus.split(","), command)
    except RocmforgeError as error:
        click.echo(f"amd_runtime: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    sys.stdout.flush()
    os.execve(started.command[0], started.command, dict(started.environment))


if __name__ == "__main__":
    main()
