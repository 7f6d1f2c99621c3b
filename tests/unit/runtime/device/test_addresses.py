"""Where on a device what a launch is given lies."""

from __future__ import annotations

import dataclasses

from rocmforge.artifacts.arguments import BufferRef, KvRef, StateRef, StepRef, TensorRef
from rocmforge.artifacts.layout import StateEntry
from rocmforge.runtime.device.addresses import Addresses
from rocmforge.tests.support.bundle import LAYOUT


def test_each_kind_of_argument_has_its_place() -> None:
    """Five blocks of KV cache and seven slots of state, of three entries."""
    states = (StateEntry("a", 128), StateEntry("b", 64), StateEntry("c", 1 << 20))
    layout = dataclasses.replace(LAYOUT, states=states)
    places = Addresses({"norm": 64}, 1000, {"hidden": 256}, 1 << 20, 1 << 40, layout, 5, 7)
    assert places.of(TensorRef("norm")) == 64
    assert places.of(BufferRef("hidden")) == 1256
    half = 5 * layout.kv.bytes_per_block // 4  # two layers of keys and values alike
    found = [places.of(KvRef(layer, half)) for layer in (0, 1) for half in ("key", "value")]
    assert found == [(1 << 20) + half * n for n in range(4)]
    assert [places.of(StateRef(index)) for index in range(3)] == [1 << 40, (1 << 40) + 7 * 128, (1 << 40) + 7 * 192]
    assert places.of(None) is places.of(StepRef("image")) is None
