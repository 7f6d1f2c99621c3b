"""What a process has of a mapped file."""

from __future__ import annotations

import mmap
import re
import time
from pathlib import Path

import pytest

from rocmforge.library.mapped_pages import pages_given_back


def resident(path: Path) -> int:
    """KiB of a mapped file that are this process's now, by the kernel's own count."""
    maps = Path("/proc/self/smaps").read_text("utf-8")
    return int(re.search(rf"{re.escape(str(path))}\n.*?^Rss:\s+(\d+) kB", maps, re.S | re.M)[1])  # type: ignore[index]


@pytest.mark.parametrize("most", [0, 1 << 40])
def test_pages_of_a_file_are_given_back_past_a_limit(tmp_path: Path, most: int) -> None:
    path = tmp_path / "file"
    data = bytes(range(256)) * (4 << 12)
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        assert mapping[:] == data
        assert resident(path) == len(data) >> 10
        with pages_given_back(mapping, most):
            end = time.monotonic() + (10 if most == 0 else 0.1)
            while resident(path) and time.monotonic() < end:
                time.sleep(0.01)
            assert resident(path) == (0 if most == 0 else len(data) >> 10)
        assert mapping[:] == data
        assert resident(path) == len(data) >> 10
