"""What watches over a mapping: which addresses it has, what comes in the file's place, and for how long."""

from __future__ import annotations

import gc
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts import bus_errors
from rocmforge.artifacts.bus_errors import BusErrorGuard


class Mapping(mmap.mmap):
    """Unlike mmap itself, weakly referable."""


@pytest.fixture
def mapping(tmp_path: Path) -> Mapping:
    (tmp_path / "file").write_bytes(b"weights!" * 1024)
    with (tmp_path / "file").open("rb") as file:
        return Mapping(file.fileno(), 8192, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


def address_of(mapping: Mapping) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def test_a_guard_has_the_addresses_of_its_mapping(mapping: Mapping) -> None:
    guard, start = BusErrorGuard(mapping), address_of(mapping)
    assert [guard.covers(start + at) for at in (-1, 0, 1, 8191, 8192)] == [False, True, True, True, False]
    assert not guard.broken


def test_zeros_in_the_place_of_the_file(mapping: Mapping) -> None:
    guard = BusErrorGuard(mapping)
    assert mapping[:8] == b"weights!"
    assert guard.give_zeros()
    assert guard.broken
    assert mapping[:] == bytes(8192)


def test_a_mapping_that_is_gone_is_watched_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4096))
    with (tmp_path / "file").open("rb") as file:
        mapping = Mapping(file.fileno(), 4096, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    start = address_of(mapping)
    guard = BusErrorGuard(mapping)
    assert bus_errors._guards.get(start) is guard
    del mapping
    gc.collect()
    assert guard not in bus_errors._guards.values()


def test_a_machine_that_is_not_known_has_no_handler(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    bus_errors._install.cache_clear()
    try:
        guard = BusErrorGuard(mapping)
        assert guard not in bus_errors._guards.values()
    finally:
        bus_errors._install.cache_clear()


# Two files, one cut: the other one keeps what it is, and so does the one that was there before.
TWO = """
import mmap, os, sys
from rocmforge.artifacts.mapped_weights import map_weights
from pathlib import Path

sound, cut = (os.open(name, os.O_RDWR) for name in sys.argv[1:])
maps = [map_weights(Path("m.rfb"), fd) for fd in (sound, cut, sound)]
os.ftruncate(cut, 4096)
assert maps[1][8000] == 0 and maps[1][0] == 0
assert [m[8000] for m in (maps[0], maps[2])] == [1, 1]
assert [m._guard.broken for m in maps] == [False, True, False]
os.ftruncate(cut, 8192)
assert maps[1][:] == bytes(8192)
print("alive")
"""


def test_other_mappings_keep_what_they_have(tmp_path: Path) -> None:
    for name in ("sound", "cut"):
        (tmp_path / name).write_bytes(b"\1" * 8192)
    done = subprocess.run(
        [sys.executable, "-c", TWO, *(os.fspath(tmp_path / name) for name in ("sound", "cut"))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr
