"""The shim that is loaded in this process, as Python calls it."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int, c_uint32, c_uint64, c_void_p
from typing import Any

from ....artifacts.errors import ToolchainError
from ..memory import Allocations, Block


class Range(ctypes.Structure):
    """Addresses that a GPU may reach: see native/memory.c."""

    _fields_ = [("begin", c_uint64), ("end", c_uint64), ("read_only", c_uint32), ("is_vram", c_uint32)]


# GPU, address of the packet, and where to write the address of a fault; the result is one of native/kfd.h's.
Execute = ctypes.CFUNCTYPE(c_int, c_uint32, c_uint64, POINTER(c_uint64))
RAN, PAGE_FAULT, READ_ONLY_FAULT, HUNG, BAD_CODE, EXCEPTION = range(6)


class Shim:
    """Its functions.

    Raises:
        ToolchainError: this process was started without it.
    """

    def __init__(self) -> None:
        try:
            loaded = ctypes.CDLL(None)
            self._attach, self._generation = loaded.rocmforge_kfd_attach, loaded.rocmforge_kfd_generation
            self._ranges = loaded.rocmforge_kfd_ranges
        except AttributeError:
            raise ToolchainError("kfd: this process was started without the preload of the emulated driver") from None
        self._attach.argtypes, self._attach.restype = [c_void_p], None
        self._generation.argtypes, self._generation.restype = [], c_uint64
        self._ranges.argtypes, self._ranges.restype = [c_uint32, POINTER(Range), c_uint32], c_uint32

    def attach(self, execute: Any | None) -> None:
        """Give kernels to a callback (an `Execute`, which the caller keeps); None: to nobody, once all have ended."""
        self._attach(ctypes.cast(execute, c_void_p) if execute is not None else None)

    def generation(self) -> int:
        """Goes up with every change of what GPUs may reach."""
        return int(self._generation())

    def ranges(self, gpu: int) -> list[Range]:
        """What a GPU may reach, by address."""
        capacity = 1024
        while True:
            rows = (Range * capacity)()
            found = self._ranges(gpu, rows, capacity)
            if found <= capacity:
                return list(rows[:found])
            capacity = 2 * found


class DriverMemory(Allocations):
    """What the driver has mapped for one GPU, in whole pages as a GPU sees it."""

    def __init__(self, shim: Shim, gpu: int):
        super().__init__()
        self._shim, self._gpu = shim, gpu
        self._generation = -1

    def refresh(self) -> None:
        """Take over what has changed. No kernel may be running."""
        generation = self._shim.generation()
        if generation == self._generation:
            return
        self._generation = generation
        self._blocks = {row.begin: _block(row) for row in self._shim.ranges(self._gpu)}
        self._order = sorted(self._blocks)
        self._table = None


def _block(row: Range) -> Block:
    kind = "device" if row.is_vram else "host"
    lines = (c_uint64 * 1)()  # nothing is counted
    return Block(row.begin, row.end - row.begin, kind, bool(row.read_only), f"{kind} {row.begin:#x}", lines)
