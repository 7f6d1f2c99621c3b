"""Node and the packages of `node/package-lock.json`, installed once into a folder outside the tree."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.locked import locked
from rocmforge.tests.support.process import PATIENCE_SECONDS

SOURCES = Path(__file__).parent / "node"
INSTALL_SECONDS = 900.0  # some 200 MB come from the registry
LEAST_NODE = 20


def find_node() -> str:
    """Path of Node 20 or newer. Without it and npm the tests are skipped, in CI they fail: there they are installed."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is not None and npm is not None:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.lstrip("v").split(".")[0]) >= LEAST_NODE:
            return node
    missing = f"no Node {LEAST_NODE} with npm here: apt-get install nodejs npm"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def install_packages() -> Path:
    """Return a folder with the packages and our scripts, made where that is not done yet.

    It is below `$ROCMFORGE_WORK`, which `tools/test` sets, else below the user's cache; its name tells the lock file.
    """
    find_node()
    lock = (SOURCES / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rocmforge-tests"
    folder = Path(os.environ.get("ROCMFORGE_WORK") or cache).resolve() / f"node-{hashlib.sha256(lock).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        done = folder / "installed"
        if not done.exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCES / name, folder)
            command = ["npm", "ci", "--no-audit", "--no-fund"]
            made = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            if made.returncode:
                pytest.fail(f"npm ci failed: {made.stderr}")
            done.touch()
        for script in SOURCES.glob("*.mjs"):
            shutil.copy(script, folder)
    return folder


def run_script(folder: Path, script: str, *arguments: str) -> dict[str, Any]:
    """What a script of ours reports."""
    done = subprocess.run(
        [find_node(), script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers
