"""Faults in words: what is said of each kind."""

from __future__ import annotations

import pytest

from rocmforge.tools.emulator.faults import describe
from rocmforge.tools.emulator.memory import Allocations, Memory
from rocmforge.tools.emulator.structures import Fault


def fault(code: int, **fields: int) -> Fault:
    values = {"lane": 5, "wave": 3, "size": 8, "address": 0x40, "other_wave": 2} | fields
    return Fault(code=code, group=(7, 8, 9), **values)


# Numbers as native/wave.h has them.
@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (1, "bounds", "out-of-bounds read of 8 bytes at 0x40 (nothing is allocated)"),
        (2, "alignment", "misaligned read of 8 bytes at 0x40"),
        (3, "uninitialised", "read of 8 bytes of uninitialised LDS at 0x40"),
        (4, "race", "LDS race: read of 8 bytes at 0x40 against wave 2"),
        (5, "read-only", "read of 8 bytes at 0x40: read-only"),
        (6, "lds-bounds", "out-of-bounds LDS read of 8 bytes at 0x40 of 0x100"),
        (7, "scratch-bounds", "out-of-bounds scratch read of 8 bytes at 0x40"),
        (8, "hang", "no end after 64 operations"),
        (9, "deadlock", "barrier that not all waves reach"),
        (10, "jump", "jump to 0x40, which is no known code"),
        (11, "trap", "trap 64"),
        (12, "wmma-layout", "A or B is not repeated in the upper lanes"),
        (13, "fresh", "scalar read of 8 bytes at 0x40, which the host has just written"),
    ],
)
def test_words_for_each_kind(code: int, kind: str, words: str) -> None:
    found = describe(fault(code), "norm", "v_nop", 16, 256, Allocations())
    assert found.message == f"kernel norm+0x10: v_nop: {words}; workgroup (7, 8, 9), wave 3, lane 5"
    assert (found.kind, found.kernel, found.instruction, found.offset) == (kind, "norm", "v_nop", 16)
    assert (found.lane, found.wave, found.group, found.address) == (5, 3, (7, 8, 9), 0x40)


def test_words_for_writes_and_several_waves() -> None:
    found = describe(fault(4, is_write=1, other_wave=255, size=4), "k", "i", 0, 0, Allocations())
    assert "LDS race: write of 4 bytes at 0x40 against several waves; " in found.message


def test_an_address_is_told_from_the_nearest_allocation() -> None:
    memory = Memory(1 << 20)
    block = memory.allocate(100, label="weights")
    for offset, words in (
        (-4, "4 bytes before weights, 100 bytes"),
        (0, "-100 bytes from the end of weights, 100 bytes"),
        (98, "-2 bytes from the end of weights, 100 bytes"),
        (100, "+0 bytes from the end of weights, 100 bytes"),
        (104, "+4 bytes from the end of weights, 100 bytes"),
    ):
        at = block.address + offset
        found = describe(fault(1, address=at), "k", "i", 0, 0, memory)
        assert f"out-of-bounds read of 8 bytes at {at:#x} ({words}); " in found.message
