"""Files of a Linux system, made up below a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def write_below(root: Path, name: str, text: str) -> None:
    """Write a file, its folders made."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "ascii")


def machine(root: Path, siblings: Sequence[str]) -> Path:
    """Write which CPUs each CPU shares its core with; return `root`."""
    for cpu, text in enumerate(siblings):
        write_below(root, f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list", f"{text}\n")
    return root
