"""Runs a program on an emulated 64-bit ARM machine: Debian's Python for it, under QEMU's user emulation.

tools/aarch64 -- rfc verify BUNDLE

System calls are this machine's own, and what it starts that is no ARM program, as a compiler, runs as ever. Debian's
packages and those of PyPI lie in folders of their own (`root.py`); nothing is installed.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from rocmforge.artifacts.errors import RocmforgeError, ToolchainError, UsageError, printable
from rocmforge.artifacts.locked import locked
from rocmforge.tools.debian.amd_runtime import Launch, work_folder, write_program
from rocmforge.tools.debian.root import fetch_root

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKED: Final = ROOT / "deploy" / "serving.txt"
"""What serving needs, with the digests of all their files."""

_SUITE: Final = "trixie"
_PYTHON: Final = "3.13"  # of that suite
_GLIBC: Final = 41  # 2.41, of that suite: wheels may be for any up to it
_FIRST_GLIBC: Final = 17
_PIP_SECONDS: Final = 600.0


def fetch_machine() -> Path:
    """The folder whose `bin` has `python` and `rfc` of an emulated machine; made where it is not there.

    Raises:
        ToolchainError: Debian's packages or those of PyPI are unavailable.
    """
    folder = work_folder() / "aarch64"
    qemu = fetch_root(folder / "qemu", _SUITE, ["qemu-user"]).path / "usr/bin/qemu-aarch64"
    root = fetch_root(folder / "root", _SUITE, ["python3", "libstdc++6"], architecture="arm64").path
    if not (root / "lib").is_symlink():  # a script of base-files makes it
        (root / "lib").symlink_to("usr/lib")
    start = shlex.join([str(qemu), "-L", str(root)])
    key = hashlib.sha256(f"{ROOT} {start}".encode() + LOCKED.read_bytes()).hexdigest()[:12]
    home = folder / f"python-{key}"
    with locked(folder / f".python-{key}.lock"):
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            _make(home, root / "usr/bin", start)
            (home / "complete").touch()
    return home


def _make(home: Path, binaries: Path, start: str) -> None:
    """A virtual environment whose Python is a script, so that a child which is started by `sys.executable` runs too."""
    packages = home / "lib" / f"python{_PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "pyvenv.cfg").write_text(f"home = {binaries}\ninclude-system-site-packages = false\n", "utf-8")
    install(packages, ["--require-hashes", "-r", str(LOCKED)])
    (packages / "rocmforge").symlink_to(ROOT)
    binary = shlex.quote(str(binaries / f"python{_PYTHON}"))
    for name in ("python", "python3"):
        write_program(home / "bin" / name, f'#!/bin/sh\nexec {start} -0 "$0" {binary} "$@"\n')
    python = shlex.quote(str(home / "bin" / "python"))
    write_program(home / "bin" / "rfc", f'#!/bin/sh\nexec {python} -m rocmforge.cli "$@"\n')


def install(packages: Path, what: Sequence[str]) -> None:
    """Put wheels for such a machine into a folder, without what they depend on.

    Raises:
        ToolchainError: they are unavailable.
    """
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(_FIRST_GLIBC, _GLIBC + 1)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", *platforms]
    command += ["--platform=manylinux2014_aarch64", f"--python-version={_PYTHON}", f"--target={packages}", *what]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"pip gave no result within {_PIP_SECONDS:.0f} s") from None
    if done.returncode:
        raise ToolchainError(f"packages for aarch64: {printable(done.stderr.strip().splitlines()[-1], 600)}")


def launch(home: Path, command: Sequence[str]) -> Launch:
    """A program on the emulated machine: `rfc` and `python` are of `fetch_machine`.

    Raises:
        UsageError: there is no such program.
    """
    path = f"{home / 'bin'}:{os.environ.get('PATH', os.defpath)}"
    program = shutil.which(command[0], path=path)
    if program is None:
        raise UsageError(f"{printable(command[0])}: no such program")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return Launch((program, *command[1:]), environment | {"PATH": path})


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(command: tuple[str, ...]) -> None:
    """Run COMMAND, as `rfc verify BUNDLE`, on an emulated 64-bit ARM machine."""
    try:
        started = launch(fetch_machine(), command)
    except RocmforgeError as error:
        click.echo(f"aarch64: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    sys.stdout.flush()
    os.execve(started.command[0], started.command, dict(started.environment))


if __name__ == "__main__":
    main()
