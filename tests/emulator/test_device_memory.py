"""Allocations of the emulated device: room, lookup, what is read-only or fresh, and addresses that were freed."""

from __future__ import annotations

import ctypes

import pytest

from rocmforge.tools.emulator.memory import Memory


def test_an_address_belongs_to_the_allocation_that_holds_all_of_it() -> None:
    memory = Memory(1 << 20)
    first, second = memory.allocate(100), memory.allocate(50)
    for block in (first, second):
        assert memory.find(block.address) is block
        assert memory.find(block.end - 1) is block
        assert memory.find(block.address, block.size) is block
        assert memory.find(block.address + 1, block.size - 1) is block
        assert memory.find(block.end) is None
        assert memory.find(block.end, 0) is None
        assert memory.find(block.address, block.size + 1) is None
        assert memory.find(block.address - 1) is None
    assert memory.find(0) is None
    assert memory.find(2**63) is None


def test_what_is_left_of_the_device() -> None:
    """Pinned memory and code are not the device's; what is freed can be had again."""
    memory = Memory(1000)
    memory.allocate(500, kind="host")
    memory.allocate(600, kind="code")
    assert memory.used == 0
    first = memory.allocate(600)
    assert memory.used == 600
    with pytest.raises(MemoryError):
        memory.allocate(401)
    rest = memory.allocate(400)
    assert memory.used == 1000
    memory.allocate(5000, kind="host")
    assert memory.free(first.address)
    assert memory.used == 400
    assert memory.free(rest.address)
    assert memory.used == 0


def test_only_the_start_of_an_allocation_frees_it_once() -> None:
    memory = Memory(1 << 20)
    block = memory.allocate(64)
    assert memory.free(block.address + 1) is False
    assert memory.blocks() == [block]
    assert memory.free(block.address) is True
    assert memory.free(block.address) is False
    assert memory.blocks() == []
    assert memory.find(block.address) is None


def test_fresh_memory_holds_a_pattern_and_its_surroundings_nothing() -> None:
    memory = Memory(1 << 20)
    block = memory.allocate(10_000)
    assert ctypes.string_at(block.address, 10_000) == b"\xa5" * 10_000
    assert ctypes.string_at(block.address - 65536, 65536) == bytes(65536)
    assert ctypes.string_at(block.end, 65536) == bytes(65536)


def test_freed_addresses_are_not_given_again_at_once() -> None:
    memory = Memory(1 << 30)
    freed = []
    for _ in range(65):
        block = memory.allocate(4096)
        freed.append(block)
        memory.free(block.address)
    assert len({block.address for block in freed}) >= 64
    assert freed[0].mapping.closed
    assert not freed[1].mapping.closed
    assert not any(ctypes.string_at(freed[64].address, 4096))  # the pages are gone, the addresses are not


def test_labels() -> None:
    memory = Memory(1 << 20)
    assert memory.allocate(4, label="weights").label == "weights"
    block = memory.allocate(4, kind="host")
    assert block.label == f"host {block.address:#x}"


def test_the_table_that_native_code_reads() -> None:
    """Sorted by address; bit 0: read-only, bit 1: the host has written it and not waited since."""
    memory = Memory(1 << 20)
    assert len(memory.table()[0]) == 1
    made = [
        memory.allocate(100),
        memory.allocate(200, kind="host"),
        memory.allocate(300, kind="code", read_only=True),
        memory.allocate(400, kind="host", read_only=True),
    ]
    table, blocks = memory.table()
    assert blocks == sorted(made, key=lambda block: block.address)
    assert [row.slot for row in table] == [0, 1, 2, 3]
    assert [(row.begin, row.end) for row in table] == [(b.address, b.address + b.size) for b in blocks]
    assert [row.lines for row in table] == [ctypes.addressof(b.lines) for b in blocks]
    assert {b.size: row.read_only for b, row in zip(blocks, table, strict=True)} == {100: 0, 200: 2, 300: 1, 400: 3}
    assert memory.table()[0] is table
    memory.free(made[1].address)
    assert len(memory.table()[0]) == 3
    again = memory.allocate(10)
    assert again in memory.table()[1]
    assert len(memory.table()[0]) == 4


def fresh(memory: Memory) -> list[int]:
    table, blocks = memory.table()
    return [block.size for row, block in zip(table, blocks, strict=True) if row.read_only >> 1]


def test_what_the_host_wrote_is_fresh_until_it_has_waited() -> None:
    """Pinned memory is so always; a write into the middle counts for the whole allocation."""
    memory = Memory(1 << 20)
    one, two = memory.allocate(100), memory.allocate(200)
    memory.allocate(300, kind="host")
    assert fresh(memory) == [300]
    memory.mark_fresh(one.address + 50)
    assert sorted(fresh(memory)) == [100, 300]
    memory.mark_fresh(two.address)
    memory.mark_fresh(two.address)
    memory.mark_fresh(1)
    assert sorted(fresh(memory)) == [100, 200, 300]
    memory.settle()
    assert fresh(memory) == [300]


@pytest.mark.parametrize("size", [1, 128, 8192, 8193, 100_000])
def test_a_line_of_128_bytes_has_a_bit(size: int) -> None:
    memory = Memory(1 << 20)
    block = memory.allocate(size)
    first, last = block.address >> 7, block.end - 1 >> 7
    assert 8 * ctypes.sizeof(block.lines) > last - first
