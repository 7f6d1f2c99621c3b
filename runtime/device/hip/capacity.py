"""Tells whether a bundle fits a card's memory, and how large a KV cache it leaves room for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import DeviceError
from ....artifacts.layout import Layout
from ..memory import DEFAULT_KV_CONTEXTS, LEAST_SLOTS, KvSize, describe_slots, state_slots
from .memory import place_buffers, place_tensors
from .placement import WeightPlaces, describe, host_bytes, spill

RESERVED_BYTES: Final = 1 << 30
RESERVED_SHARE: Final = 25
"""Left free when the KV cache takes the rest, and one part in so many at least: for graphs of longer contexts, what HIP
stages, and what else runs on the card. Where memory is gone, HIP's graphs write through null (rocm-systems #10021)."""
_MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a device's memory, free and in all; `host`: of this machine's that are available, None: unknown."""

    free: int
    total: int
    host: int | None = None


@dataclass(frozen=True, slots=True)
class _Needs:
    """Bytes that a bundle takes of a device's memory, with those of what is loaded beside it."""

    weights: int
    arena: int
    states: int
    cache: int

    @classmethod
    def of(cls, layout: Layout, size: KvSize, host: Collection[str] = frozenset()) -> _Needs:
        """Of a bundle with such a KV cache, whose tensors in `host` are elsewhere."""
        weights = place_tensors(layout, host)[1] + size.bytes_beside(_weights_bytes)
        arena = _arena_bytes(layout) + size.bytes_beside(_arena_bytes) + size.cache_bytes_apart
        cache = _wanted_blocks(layout, size) * size.bytes_of_block(layout)
        return cls(weights, arena, _wanted_slots(size) * layout.bytes_per_slot + size.state_bytes_beside, cache)

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.arena + self.states + self.cache


def place_weights(layout: Layout, size: KvSize, room: Room, where: str, places: WeightPlaces) -> frozenset[str]:
    """Hold the memory contract, and return the names of tensors that stay in this machine's memory.

    Args:
        layout: of the bundle.
        size: of the KV cache.
        room: that there is.
        where: the device, for messages.
        places: that are asked for; where none are, tensors stay only where all do not fit.

    Raises:
        DeviceError: it does not fit; says how much is missing.
        UsageError: see `WeightPlaces.chosen`.
    """
    if places.asked:
        host = places.chosen(layout)
    else:
        missing = _Needs.of(layout, size).total - room.free
        host = spill(layout, missing + reserved_bytes(room.total)) if missing > 0 else frozenset()
    check_fit(layout, size, room.free, room.total, where, host)
    n_bytes = host_bytes(layout, host)
    if room.host is not None and n_bytes > room.host:
        raise DeviceError(
            f"{where}: {describe(layout, host)}, which it has no room for, need {mebibytes(n_bytes)} MiB of this "
            f"machine's memory, {mebibytes(room.host)} MiB are available"
        )
    return host


def host_weights(layout: Layout, host: Collection[str]) -> str:
    """Return what is said of weights that stay in this machine's memory."""
    n_bytes = host_bytes(layout, host)
    return f"{mebibytes(n_bytes)} MiB of weights stay in this machine's memory: {describe(layout, host)}"


def check_fit(
    layout: Layout, size: KvSize, free: int, total: int, where: str, host: Collection[str] = frozenset()
) -> None:
    """Hold the memory contract before anything is taken.

    Args:
        layout: of the bundle.
        size: of the KV cache; one full context of it must fit beside weights and arena.
        free: bytes of the device's memory.
        total: bytes of the device's memory.
        where: the device, for the message.
        host: names of tensors that are elsewhere.

    Raises:
        DeviceError: they do not fit; says how much is missing.
    """
    needs = _Needs.of(layout, size, host)
    wanted, needed = _wanted_blocks(layout, size), needs.total
    slots, less = "", "--kv-tokens or --max-context ask"
    if layout.states:
        slots = f", {describe_slots(layout, _wanted_slots(size))}"
        less = "--kv-tokens, --max-context or --state-slots ask"
    if needed > free:
        raise DeviceError(
            f"{where}: weights of {mebibytes(needs.weights)} MiB, an arena of {mebibytes(needs.arena)} MiB{slots} and "
            f"a KV cache of {wanted * layout.kv.block_size} tokens ({mebibytes(needs.cache)} MiB){size.beside_note} "
            f"need {mebibytes(needed)} MiB; {mebibytes(free)} of {mebibytes(total)} MiB are free, "
            f"{mebibytes(needed - free)} MiB too few; {less} for less"
        )


def _wanted_slots(size: KvSize) -> int:
    return LEAST_SLOTS if size.state_slots is None else size.state_slots


def _wanted_blocks(layout: Layout, size: KvSize) -> int:
    return _context_blocks(layout, size) if size.blocks is None else size.blocks


def _weights_bytes(layout: Layout) -> int:
    return place_tensors(layout)[1]


def _arena_bytes(layout: Layout) -> int:
    return place_buffers(layout)[1]


def _beside_bytes(size: KvSize) -> int:
    """Of what is loaded beside it, but its KV cache."""
    arena = size.bytes_beside(_arena_bytes) + size.cache_bytes_apart
    return size.bytes_beside(_weights_bytes) + arena + size.state_bytes_beside


def _context_blocks(layout: Layout, size: KvSize) -> int:
    return -(-size.max_context // layout.kv.block_size)


def reserved_bytes(total: int) -> int:
    """Return the bytes of a device's memory that the KV cache leaves free."""
    return max(RESERVED_BYTES, total // RESERVED_SHARE)


def fitting_blocks(layout: Layout, size: KvSize, free: int, total: int) -> int:
    """Return the blocks of KV cache that fit beside all else: no more than are of use, one context in any case."""
    context = _context_blocks(layout, size)
    if not size.bytes_of_block(layout):  # blocks take no memory, and what counts them does
        return DEFAULT_KV_CONTEXTS * context
    fitting = (free - _beside_bytes(size) - reserved_bytes(total)) // size.bytes_of_block(layout)
    return max(context, min(fitting, layout.max_sequences * context))


def fitting_slots(layout: Layout, size: KvSize, free: int, total: int) -> int:
    """Return the slots of state: by default those that fit into a quarter of what is left beside weights and arena,
    and leave room for a context. Raises as `state_slots`."""
    left = free - _beside_bytes(size) - reserved_bytes(total)
    context = _wanted_blocks(layout, size) * size.bytes_of_block(layout)
    return state_slots(layout, size.state_slots, max(0, min(left // 4, left - context)))


def mebibytes(n_bytes: int) -> int:
    """Return whole MiB of bytes, rounded up."""
    return -(-n_bytes // _MEBIBYTE)
