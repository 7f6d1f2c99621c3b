"""Ranges for AMD's profilers: what a step says of itself, and nothing where no library is."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.runtime.device.hip import program as hip_program
from rocmforge.runtime.device.hip.roctx import Ranges, load_ranges
from rocmforge.tests.support.fake_hip import FakeHip
from rocmforge.tests.support.hip_bundle import batch, hip_bundle, load


class Library:
    """Takes what is pushed, as roctx does."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.seen: list[tuple[str, ...]] = []

    def roctxRangePushA(self, name: bytes) -> int:
        self.open.append(name.decode())
        self.seen.append(tuple(self.open))
        return len(self.open) - 1

    def roctxRangePop(self) -> int:
        self.open.pop()
        return len(self.open)


def test_steps_and_their_graphs_are_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(hip_program, "load_ranges", lambda: Ranges(library))
    with hip_bundle(tmp_path) as bundle:
        program = load(bundle, FakeHip())
        library.seen.clear()
        program.step(batch(20, new=20))
        program.step(batch(5, 6, 7))
        program.close()
    decode = "decode of 3 tokens"
    assert library.seen == [("prefill of 20 tokens",), (decode,), (decode, "graph of 4 tokens, context 32")]
    assert library.open == []


def test_a_range_ends_where_its_step_fails() -> None:
    library = Library()
    ranges = Ranges(library)
    with pytest.raises(ValueError, match="x"), ranges("outer"), ranges("inner"):
        raise ValueError("x")
    assert library.seen == [("outer",), ("outer", "inner")]
    assert library.open == []


def test_without_a_library_nothing_is_done() -> None:
    ranges = load_ranges(("libnone-at-all.so", "libc.so.6"))  # the second has no such functions
    with ranges("step"):
        pass
