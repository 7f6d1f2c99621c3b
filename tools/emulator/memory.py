"""Device memory: live allocations at real host addresses, with gaps between them that no kernel may touch."""

from __future__ import annotations

import bisect
import ctypes
import mmap
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from .structures import Allocation

_GAP = 64 << 10  # bytes kept free on both sides
_QUARANTINE = 64  # freed allocations whose addresses are not used again yet
_POISON = 0xA5  # what fresh memory holds: hipMalloc promises nothing


@dataclass
class Block:
    """One allocation.

    Attributes:
        address: first byte; a device pointer and a host pointer at once.
        size: bytes asked for, exactly; one byte more is out of bounds.
        kind: "device", "host" (pinned) or "code".
        label: for counters.
        fresh: the host wrote it, and has not waited for the device since: always so of pinned memory.
    """

    address: int
    size: int
    kind: str
    read_only: bool
    label: str
    lines: Any = field(repr=False)
    mapping: Any = None
    view: Any = None
    fresh: bool = False

    @property
    def end(self) -> int:
        """First byte behind."""
        return self.address + self.size


class Allocations:
    """Live allocations by address."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self._order: list[int] = []
        self._table: ctypes.Array[Allocation] | None = None
        self._table_blocks: list[Block] = []

    def find(self, address: int, size: int = 1) -> Block | None:
        """The allocation that holds all of [address, address + size)."""
        at = bisect.bisect_right(self._order, address) - 1
        if at < 0:
            return None
        block = self._blocks[self._order[at]]
        return block if address + size <= block.end and address < block.end else None

    def nearest(self, address: int) -> Block | None:
        """The allocation that an address lies in or most closely behind, for messages."""
        at = bisect.bisect_right(self._order, address) - 1
        near = [self._blocks[self._order[i]] for i in (at, at + 1) if 0 <= i < len(self._order)]
        return min(near, key=lambda b: min(abs(address - b.address), abs(address - b.end)), default=None)

    def blocks(self) -> list[Block]:
        """Live allocations by address."""
        return [self._blocks[address] for address in self._order]

    def table(self) -> tuple[ctypes.Array[Allocation], list[Block]]:
        """What native code needs of each allocation, sorted by address; slot i is block i."""
        if self._table is None:
            self._table_blocks = self.blocks()
            self._table = (Allocation * max(1, len(self._table_blocks)))()
            for slot, (row, block) in enumerate(zip(self._table, self._table_blocks, strict=False)):
                row.begin, row.end = block.address, block.end
                row.lines = ctypes.addressof(block.lines)
                row.read_only, row.slot = block.read_only | block.fresh << 1, slot
        return self._table, self._table_blocks


class Memory(Allocations):
    """The allocations of a device.

    Args:
        capacity: bytes of device memory.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity
        self.used = 0
        self._quarantine: deque[Block] = deque()

    def mark_fresh(self, address: int) -> None:
        """The host has written into the allocation at an address."""
        block = self.find(address)
        if block is not None and not block.fresh:
            block.fresh, self._table = True, None

    def settle(self) -> None:
        """The host has waited for the device."""
        for block in self._blocks.values():
            if block.fresh and block.kind != "host":
                block.fresh, self._table = False, None

    def allocate(self, size: int, kind: str = "device", read_only: bool = False, label: str = "") -> Block:
        """Reserve memory, filled with a pattern.

        Raises:
            MemoryError: the device has not that much left.
        """
        if kind == "device" and size > self.capacity - self.used:
            raise MemoryError
        mapping = mmap.mmap(-1, _GAP + size + _GAP)
        view = (ctypes.c_ubyte * len(mapping)).from_buffer(mapping)
        address = ctypes.addressof(view) + _GAP
        ctypes.memset(address, _POISON, size)
        lines = (ctypes.c_uint64 * (size // 8192 + 3))()
        name, fresh = label or f"{kind} {address:#x}", kind == "host"
        block = Block(address, size, kind, read_only, name, lines, mapping, view, fresh)
        self._blocks[address] = block
        bisect.insort(self._order, address)
        self.used += size if kind == "device" else 0
        self._table = None
        return block

    def free(self, address: int) -> bool:
        """Give memory back; false where no allocation starts there."""
        block = self._blocks.pop(address, None)
        if block is None:
            return False
        self._order.remove(address)
        self.used -= block.size if block.kind == "device" else 0
        self._table = None
        self._table_blocks = []
        # The pages go back at once, the addresses later: use after free must not find another allocation there.
        block.mapping.madvise(mmap.MADV_REMOVE)  # shared pages: DONTNEED would keep them
        self._quarantine.append(block)
        if len(self._quarantine) > _QUARANTINE:
            oldest = self._quarantine.popleft()
            oldest.view = None
            oldest.mapping.close()
        return True
