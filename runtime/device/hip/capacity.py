"""Tells whether a bundle fits a card's memory, and how large a KV cache it leaves room for."""

from __future__ import annotations

from typing import Final

from ....artifacts.errors import DeviceError
from ....artifacts.layout import Layout
from ..memory import KvSize
from .memory import place_buffers, place_tensors

RESERVED_BYTES: Final = 1 << 30
RESERVED_SHARE: Final = 25
"""Left free when the KV cache takes the rest, and one part in so many at least: for graphs of longer contexts, what HIP
stages, and what else runs on the card. Where memory is gone, HIP's graphs write through null (rocm-systems #10021)."""
_MEBIBYTE: Final = 1 << 20


def check_fit(layout: Layout, size: KvSize, free: int, total: int, where: str) -> None:
    """Hold the memory contract before anything is taken.

    Args:
        layout: of the bundle.
        size: of the KV cache; one full context of it must fit beside weights and arena.
        free: bytes of the device's memory.
        total: bytes of the device's memory.
        where: the device, for the message.

    Raises:
        DeviceError: they do not fit; says how much is missing.
    """
    weights, arena = place_tensors(layout)[1], place_buffers(layout)[1]
    wanted = _context_blocks(layout, size) if size.blocks is None else size.blocks
    needed = weights + arena + wanted * layout.kv.bytes_per_block
    if needed > free:
        raise DeviceError(
            f"{where}: weights of {mebibytes(weights)} MiB, an arena of {mebibytes(arena)} MiB and a KV cache of "
            f"{wanted * layout.kv.block_size} tokens ({mebibytes(needed - weights - arena)} MiB) need "
            f"{mebibytes(needed)} MiB; {mebibytes(free)} of {mebibytes(total)} MiB are free, "
            f"{mebibytes(needed - free)} MiB too few; --kv-tokens or --max-context ask for less"
        )


def _context_blocks(layout: Layout, size: KvSize) -> int:
    return -(-size.max_context // layout.kv.block_size)


def reserved_bytes(total: int) -> int:
    """Return the bytes of a device's memory that the KV cache leaves free."""
    return max(RESERVED_BYTES, total // RESERVED_SHARE)


def fitting_blocks(layout: Layout, size: KvSize, free: int, total: int) -> int:
    """Return the blocks of KV cache that fit beside all else: no more than are of use, one context in any case."""
    context = _context_blocks(layout, size)
    fitting = (free - reserved_bytes(total)) // layout.kv.bytes_per_block
    return max(context, min(fitting, layout.max_sequences * context))


def mebibytes(n_bytes: int) -> int:
    """Return whole MiB of bytes, rounded up."""
    return -(-n_bytes // _MEBIBYTE)
