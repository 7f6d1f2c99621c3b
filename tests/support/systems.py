"""Files of a Linux system, made up below a folder, and a user without one of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

_NOBODY = 0x7FFFFFF1


def write_below(root: Path, name: str, text: str) -> None:
    """Write a file, its folders made."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def machine(root: Path, siblings: Sequence[str]) -> Path:
    """Write which CPUs each CPU shares its core with; return `root`."""
    for cpu, text in enumerate(siblings):
        write_below(root, f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list", f"{text}\n")
    return root


def leave_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process find no home, as a container's user that is only a number."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: _NOBODY)
