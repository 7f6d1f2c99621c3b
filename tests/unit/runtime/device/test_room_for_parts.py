"""Room that is left for a part of a bundle, which is loaded behind the model."""

from __future__ import annotations

import pytest

from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.layout import BufferEntry, KvLayout, Layout
from rocmforge.runtime.device.hip.capacity import check_fit, fitting_blocks, reserved_bytes
from rocmforge.runtime.device.memory import KvSize, check_memory

KV = KvLayout(num_layers=1, num_kv_heads=1, head_dim=8, block_size=16, dtype="f16")
TOTAL = 1 << 34


def layout(columns: int, tokens: int) -> Layout:
    buffer = BufferEntry("hidden", "float32", columns, 0)
    return Layout((), (buffer,), (), KV, tokens, 8, 100, 8, 256)


MODEL = layout(1000, 32)
EYES = (layout(3000, 100), layout(2000, 100))
SIZE = KvSize(4, 64, apart=EYES)
ARENA, CACHE = 4 * 3000 * 100, 7 * KV.bytes_per_block  # 100 tokens are 7 blocks


def test_the_host_keeps_room_for_the_larger_layout() -> None:
    assert SIZE.bytes_beside(Layout.arena_bytes) == EYES[0].arena_bytes()
    assert EYES[0].arena_bytes() >= ARENA
    assert (SIZE.cache_bytes_apart, KvSize(4, 64).cache_bytes_apart) == (CACHE, 0)
    needed = 4 * KV.bytes_per_block + MODEL.arena_bytes() + EYES[0].arena_bytes() + CACHE
    check_memory(MODEL, 4, needed, size=SIZE)
    with pytest.raises(DeviceError, match="the arena need"):
        check_memory(MODEL, 4, needed - 1, size=SIZE)
    check_memory(MODEL, 4, needed - 1, size=KvSize(4, 64))


def test_a_gpu_keeps_room_before_the_cache_takes_the_rest() -> None:
    free = reserved_bytes(TOTAL) + 8 * KV.bytes_per_block
    plain, apart = KvSize(None, 64), KvSize(None, 64, apart=EYES)
    assert fitting_blocks(MODEL, plain, free, TOTAL) == 8
    assert fitting_blocks(MODEL, apart, free, TOTAL) == 4  # one context in any case
    arena = 4 * 3000 * 112  # 100 tokens are 7 tiles of 16
    more = free + CACHE + 256 * -(-arena // 256)
    assert fitting_blocks(MODEL, apart, more, TOTAL) == 8
    with pytest.raises(DeviceError, match="MiB too few"):
        check_fit(MODEL, apart, ARENA, TOTAL, "gpu")
