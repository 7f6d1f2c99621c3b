"""How many slots of recurrent state are taken, what is said where they do not fit, and batches of one sequence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rocmforge.artifacts.errors import DeviceError, UsageError
from rocmforge.artifacts.layout import KvLayout, StateEntry
from rocmforge.runtime.device.hip.capacity import check_fit, fitting_blocks, fitting_slots
from rocmforge.runtime.device.hip.self_test import self_test_batches
from rocmforge.runtime.device.memory import KvSize, check_memory, host_state_slots, kv_blocks, state_slots
from rocmforge.runtime.device.solo import Solo
from rocmforge.tests.support.hip_bundle import LAYOUT

MIB, GIB = 1 << 20, 1 << 30
EACH = 48 * MIB
STATEFUL = dataclasses.replace(LAYOUT, states=(StateEntry("a", 16 * MIB), StateEntry("b", 32 * MIB)))
CACHELESS = dataclasses.replace(STATEFUL, kv=KvLayout.of([], 16, "f16"))
ALL = 2 * LAYOUT.max_sequences + 64


def test_two_slots_a_sequence_and_snapshots_as_far_as_they_fit() -> None:
    budgets = {0: 2, 2 * EACH: 2, 3 * EACH - 1: 2, 3 * EACH: 3, ALL * EACH: ALL, 1 << 60: ALL}
    assert {budget: state_slots(STATEFUL, None, budget) for budget in budgets} == budgets
    assert [state_slots(STATEFUL, asked, 0) for asked in (2, 3, 1000)] == [2, 3, 1000]
    assert state_slots(LAYOUT, 7, 1 << 60) == state_slots(LAYOUT, None, 0) == 0  # a model without state
    with pytest.raises(UsageError, match=r"^--state-slots: expected at least 2, found 1$"):
        state_slots(STATEFUL, 1, 1 << 60)


def test_the_host_takes_2_gib_and_a_quarter_of_what_is_available_at_most() -> None:
    assert host_state_slots(STATEFUL, None, None) == 2 * GIB // EACH == 42
    assert host_state_slots(STATEFUL, None, 100 * GIB) == 42
    assert host_state_slots(STATEFUL, None, GIB) == GIB // 4 // EACH == 5


def test_F72_slots_that_do_not_fit_are_said() -> None:
    needed = LAYOUT.arena_bytes() + 10 * LAYOUT.kv.bytes_per_block + 3 * EACH
    check_memory(STATEFUL, 10, needed, 3)
    with pytest.raises(DeviceError) as caught:
        check_memory(STATEFUL, 10, needed - 1, 3)
    assert str(caught.value) == (
        "host: a KV cache of 160 tokens, 3 slots of state (144 MiB) and the arena need 145 MiB, 145 MiB are available "
        "(weights of 1 MiB are mapped, not counted); --kv-tokens, --max-context or --state-slots ask for less"
    )


def test_F72_slots_that_a_gpu_has_no_room_for_are_said() -> None:
    size = KvSize(20, 128, 5)
    weights, arena = 4 * 48 * 64 + 256 + 4096, 8448 + 4 * 8 * 48
    needed = weights + arena + 20 * LAYOUT.kv.bytes_per_block + 5 * EACH
    check_fit(STATEFUL, size, needed, GIB, "GPU 5")
    with pytest.raises(DeviceError) as caught:
        check_fit(STATEFUL, size, needed - 1, GIB, "GPU 5")
    assert str(caught.value) == (
        "GPU 5: weights of 1 MiB, an arena of 1 MiB, 5 slots of state (240 MiB) and a KV cache of 320 tokens (1 MiB) "
        "need 241 MiB; 241 of 1024 MiB are free, 1 MiB too few; --kv-tokens, --max-context or --state-slots ask for "
        "less"
    )
    least = needed - 20 * LAYOUT.kv.bytes_per_block - 3 * EACH
    check_fit(STATEFUL, KvSize(0, 128), least, GIB, "GPU 5")  # two slots, where none are asked for
    with pytest.raises(DeviceError, match="2 slots of state"):
        check_fit(STATEFUL, KvSize(0, 128), least - 1, GIB, "GPU 5")


def test_a_gpu_gives_a_quarter_of_what_is_left_to_slots() -> None:
    """After 1 GiB that stays free, and only beside one context."""
    context = 8 * LAYOUT.kv.bytes_per_block
    for free, expected in ((GIB, 2), (GIB + 40 * EACH, 10), (GIB + 40 * EACH - 1, 9), (GIB + context + 2 * EACH, 2)):
        assert fitting_slots(STATEFUL, KvSize(None, 128), free, GIB) == expected, free
    assert fitting_slots(STATEFUL, KvSize(None, 128, 33), 0, GIB) == 33


def test_pages_without_bytes_are_as_many_as_four_contexts_take() -> None:
    assert fitting_blocks(CACHELESS, KvSize(None, 128), 0, GIB) == 4 * 8
    assert kv_blocks(CACHELESS, 128, None, GIB) == kv_blocks(CACHELESS, 128, None, None) == 4 * 8


def test_a_sequence_alone_goes_from_one_slot_to_the_other() -> None:
    solo, found = Solo(STATEFUL), []
    for ids, start in (([1, 2, 3], 0), ([4], 3), ([5, 6], 4), ([7], 0)):
        batch = solo.batch(ids, start)
        assert batch.state_from is not None
        assert batch.state_to is not None
        found.append((batch.state_from.tolist(), batch.state_to.tolist()))
    assert found == [([-1], [-1, -1, 0]), ([0], [1]), ([1], [-1, 0]), ([-1], [0])]
    assert Solo(LAYOUT).batch([1], 0).state_to is None


def test_steps_that_try_graphs_read_only_what_one_before_them_wrote() -> None:
    written: set[int] = set()
    batches = self_test_batches(STATEFUL, 8)
    assert [len(batch.rows) for batch in batches] == [1, 2, 1, 2]
    for batch in batches:
        assert batch.state_from is not None
        assert batch.state_to is not None
        read = {int(slot) for slot in batch.state_from if slot >= 0}
        assert read <= written
        assert not read & set(batch.state_to.tolist())
        assert set(batch.state_to.tolist()) <= {0, 1}
        written |= set(batch.state_to.tolist())
    assert any((np.asarray(batch.state_from) >= 0).any() for batch in batches)
    assert all(batch.state_from is None for batch in self_test_batches(LAYOUT, 8))
