"""Launching a kernel: its arguments and packet, written as HIP writes them."""

from __future__ import annotations

import ctypes
import threading

from .code_object import Kernel
from .dispatch import PACKET, Dispatcher, LoadedKernel, Size
from .errors import BadCodeObject
from .faults import TrappedFault
from .memory import Memory

_KERNARG_BYTES = 64 << 10
_DYNAMIC_STACK_BYTES = 16 << 10
_DISPATCH, _DIMENSIONS = 2, 3  # HIP tells of three, whatever the grid


class Launcher:
    """Gives kernels to a dispatcher, one at a time."""

    def __init__(self, dispatcher: Dispatcher, memory: Memory):
        self._dispatcher = dispatcher
        self._kernarg = memory.allocate(_KERNARG_BYTES + PACKET.size, kind="code", read_only=True, label="kernarg")
        self._lock = threading.Lock()

    def launch(
        self, loaded: LoadedKernel, grid: Size, block: Size, dynamic_lds: int, arguments: bytes
    ) -> TrappedFault | None:
        """Run a kernel to its end; the fault that stopped it, if one did.

        Args:
            grid, block: workgroups, and work-items of each, in x, y, z.
            arguments: the kernarg segment's explicit part.
        """
        with self._lock:
            packet = self._write_packet(loaded.kernel, grid, block, dynamic_lds, arguments)
            return self._dispatcher.dispatch(loaded, packet)

    def _write_packet(self, kernel: Kernel, grid: Size, block: Size, dynamic_lds: int, arguments: bytes) -> int:
        """Write arguments and packet as HIP would; the packet's address."""
        segment = memoryview(bytearray(arguments.ljust(kernel.kernarg_bytes, b"\0")))
        hidden: dict[str, int] = {
            "hidden_grid_dims": _DIMENSIONS,
            "hidden_dynamic_lds_size": dynamic_lds,
        }
        for axis, name in enumerate("xyz"):
            hidden[f"hidden_block_count_{name}"] = grid[axis]
            hidden[f"hidden_group_size_{name}"] = block[axis]
        for argument in kernel.arguments:
            if argument.kind.startswith("hidden_"):
                value = hidden.get(argument.kind, 0)
                segment[argument.offset : argument.offset + argument.size] = value.to_bytes(argument.size, "little")
        if len(segment) > _KERNARG_BYTES:
            raise BadCodeObject(f"kernel {kernel.name}: {len(segment)} bytes of arguments")
        items = [grid[axis] * block[axis] for axis in range(3)]
        scratch = kernel.scratch_bytes + (_DYNAMIC_STACK_BYTES if kernel.properties >> 11 & 1 else 0)
        lds, kernarg = kernel.lds_bytes + dynamic_lds, self._kernarg.address
        packet = PACKET.pack(_DISPATCH, _DIMENSIONS, *block, 0, *items, scratch, lds, 0, kernarg, 0, 0)
        ctypes.memmove(kernarg, bytes(segment), len(segment))
        ctypes.memmove(kernarg + _KERNARG_BYTES, packet, len(packet))
        return kernarg + _KERNARG_BYTES
