"""Programs of others, each pinned and installed once in a folder of its own: what they need must not meet our own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rocmforge.artifacts.locked import locked
from rocmforge.tests.clients.node_packages import find_node

NODE = "node@22.22.0"  # for programs that want a newer one than Debian has: installed beside them
INSTALL_SECONDS = 1800.0  # the largest bring a gigabyte from the registry


def python_program(name: str, *requirements: str, without: tuple[str, ...] = ()) -> Path:
    """Return the `bin` folder of a virtual environment with the requirements, each pinned (`aider-chat==0.86.1`).

    Packages of `without` are left out, though others ask for them: gigabytes that what is tested never imports.
    """
    folder = _folder(name, (*requirements, *(f"without {package}" for package in without)))
    with locked(folder.with_suffix(".lock")):
        if not (folder / "installed").exists():
            uv = [sys.executable, "-m", "uv"]  # resolves in seconds what takes pip minutes
            _run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
            overrides = folder / "overrides.txt"
            overrides.write_text("".join(f"{package} ; sys_platform == 'none'\n" for package in without))
            install = [*uv, "pip", "install", "--quiet", "--override", str(overrides)]
            for wheels in os.environ.get("PIP_FIND_LINKS", "").split():  # a setting of pip's, which uv does not read
                install += ["--find-links", wheels]
            _run([*install, "--python", str(folder / "bin/python"), *requirements])
            (folder / "installed").touch()
    return folder / "bin"


def node_program(name: str, *packages: str) -> Path:
    """Return the `node_modules/.bin` folder of an installation of npm packages, each pinned (`promptfoo@0.118.0`)."""
    find_node()
    folder = _folder(name, packages)
    with locked(folder.with_suffix(".lock")):
        if not (folder / "installed").exists():
            folder.mkdir(exist_ok=True)
            _run(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", *packages])
            (folder / "installed").touch()
    return folder / "node_modules/.bin"


def offline(home: Path, bin_folder: Path) -> dict[str, str]:
    """Environment of a program that has a home of its own and reaches this machine alone: all else is sent to a proxy
    that is not there."""
    home.mkdir(exist_ok=True)
    nowhere, here = "http://127.0.0.1:9", "127.0.0.1,localhost"
    return {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "HOME": str(home),
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": here,
        "no_proxy": here,
    }


def _folder(name: str, wanted: tuple[str, ...]) -> Path:
    """Below `$ROCMFORGE_WORK`, which `tools/test` sets, else below the user's cache; its name tells what is in it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rocmforge-tests"
    programs = Path(os.environ.get("ROCMFORGE_WORK") or cache).resolve() / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    return programs / f"{name}-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}: {done.stderr[-4000:]}")
