"""Which weights stay in the host's memory, and that a GPU is given their addresses there."""

from __future__ import annotations

import ctypes
import dataclasses

import pytest

from rocmforge.artifacts.arguments import BufferRef, TensorRef
from rocmforge.artifacts.errors import DeviceError, UsageError
from rocmforge.artifacts.layout import GridEntry, LaunchEntry, Layout, TensorEntry
from rocmforge.runtime.device.hip.capacity import RESERVED_BYTES, Room, host_weights, place_weights
from rocmforge.runtime.device.hip.memory import DeviceMemory, place_buffers, upload_weights
from rocmforge.runtime.device.hip.placement import WeightPlaces, describe, spill
from rocmforge.runtime.device.memory import KvSize
from rocmforge.tests.support.fake_hip import FakeHip
from rocmforge.tests.support.hip_bundle import LAYOUT

NAMES = ("norm@f32", "q@rows", "up_experts@rows", "down_experts@rows", "up_experts_bias@f32")
SIZES = {"norm@f32": 256, "q@rows": 512, "up_experts@rows": 2048, "down_experts@rows": 1024}
SIZE = KvSize(4, 64)


def mixture(layers: int = 3, tied: bool = False) -> Layout:
    """A layout of layers that each have vectors, a matrix and experts; the output matrix may be the embedding."""
    sizes = {"embedding@rows": 4096, "output@rows": 4096, "rope_table@rope_table": 512}
    sizes |= {f"layers.{layer}.{name}": SIZES.get(name, 256) for layer in range(layers) for name in NAMES}
    tensors, offset = [], 0
    for name, n_bytes in sizes.items():
        shape = (n_bytes,) if name.endswith("@f32") else (n_bytes // 16, 16)
        tensors.append(TensorEntry(name, name.partition("@")[2], shape, offset, n_bytes))
        offset += n_bytes
    output = "embedding@rows" if tied else "output@rows"
    launches = (
        LaunchEntry("embedding_1", (TensorRef("embedding@rows"), BufferRef("hidden")), GridEntry(64, 1, "tokens")),
        LaunchEntry("rope", (TensorRef("rope_table@rope_table"),), GridEntry(64, 1, "tokens")),
        LaunchEntry("gemv", (TensorRef(output), BufferRef("logits")), GridEntry(64, 1, "logits")),
    )
    return dataclasses.replace(LAYOUT, tensors=tuple(tensors), launches=launches)


def matrices(*layers: int) -> set[str]:
    return {f"layers.{layer}.q@rows" for layer in layers}


def experts(*layers: int) -> set[str]:
    return {f"layers.{layer}.{name}_experts@rows" for layer in layers for name in ("up", "down")}


@pytest.mark.parametrize(
    ("gpu_layers", "cpu_experts", "expected"),
    [
        (3, None, set()),
        (1, None, matrices(0, 1) | experts(0, 1)),
        (0, None, matrices(0, 1, 2) | experts(0, 1, 2)),
        (None, 0, set()),
        (None, 2, experts(0, 1)),
        (2, 3, matrices(0) | experts(0, 1, 2)),
    ],
)
def test_as_it_is_asked(gpu_layers: int | None, cpu_experts: int | None, expected: set[str]) -> None:
    """Vectors are never elsewhere, nor is what is no layer's."""
    assert WeightPlaces(gpu_layers, cpu_experts).chosen(mixture()) == expected


def test_layers_and_experts_that_a_model_has_not() -> None:
    with pytest.raises(UsageError, match=r"^--gpu-layers: expected at most the model's 3 layers, found 4$"):
        WeightPlaces(gpu_layers=4).chosen(mixture())
    with pytest.raises(UsageError, match=r"^--cpu-experts: expected at most the model's 0 layers, found 1$"):
        WeightPlaces(cpu_experts=1).chosen(LAYOUT)
    dense = mixture()
    dense = dataclasses.replace(dense, tensors=tuple(t for t in dense.tensors if "_experts" not in t.name))
    with pytest.raises(UsageError, match=r"^--cpu-experts 1: the model has no experts$"):
        WeightPlaces(cpu_experts=1).chosen(dense)


def test_what_is_read_least_goes_first() -> None:
    layout = mixture()
    assert spill(layout, 0) == set()
    assert spill(layout, 1) == spill(layout, 4096) == {"embedding@rows"}
    assert spill(layout, 4097) == {"embedding@rows", "layers.0.up_experts@rows"}
    assert spill(layout, 4096 + 3 * 3072) == {"embedding@rows"} | experts(0, 1, 2)
    assert spill(layout, 1 << 40) == {"embedding@rows"} | experts(0, 1, 2) | matrices(0, 1, 2)
    # An embedding that is the output matrix too is read whole for each token.
    assert spill(mixture(tied=True), 3072) == experts(0)


def test_in_words() -> None:
    layout = mixture()
    assert describe(layout, experts(1)) == "experts of layer 1"
    assert describe(layout, spill(layout, 1 << 40)) == (
        "the token embedding, experts of layers 0 to 2, matrices of layers 0 to 2"
    )
    assert host_weights(layout, experts(0, 1)) == (
        "1 MiB of weights stay in this machine's memory: experts of layers 0 to 1"
    )


def needed_bytes(layout: Layout) -> int:
    """By a count of its own: each tensor and buffer begins at a multiple of 256 bytes."""
    weights = sum(-(-tensor.n_bytes // 256) * 256 for tensor in layout.tensors)
    return weights + place_buffers(layout)[1] + 4 * layout.kv.bytes_per_block


def test_nothing_moves_where_all_fits() -> None:
    layout = mixture()
    room = Room(needed_bytes(layout), 1 << 34, 0)
    assert place_weights(layout, SIZE, room, "GPU 5", WeightPlaces()) == set()


def test_as_little_as_must_be_moves_and_the_usual_stays_free() -> None:
    """A byte too few, and room is made for what HIP itself needs."""
    layout = mixture()
    big = dataclasses.replace(
        layout,
        tensors=tuple(
            dataclasses.replace(tensor, n_bytes=RESERVED_BYTES) if tensor.name in experts(0) else tensor
            for tensor in layout.tensors
        ),
    )
    room = Room(needed_bytes(big) - 1, 1 << 34, 1 << 34)
    assert place_weights(big, SIZE, room, "GPU 5", WeightPlaces()) == {"embedding@rows"} | set(sorted(experts(0))[1:])


def test_what_fits_nowhere() -> None:
    layout = mixture()
    all_but = needed_bytes(layout) - sum(t.n_bytes for t in layout.tensors if t.name in spill(layout, 1 << 40))
    with pytest.raises(DeviceError, match=r"^GPU 5: weights of 1 MiB, .* 1 MiB too few; --kv-tokens"):
        place_weights(layout, SIZE, Room(all_but - 1, 1 << 34, 1 << 40), "GPU 5", WeightPlaces())
    with pytest.raises(DeviceError) as caught:
        place_weights(layout, SIZE, Room(1 << 33, 1 << 34, 9215), "GPU 5", WeightPlaces(cpu_experts=3))
    assert str(caught.value) == (
        "GPU 5: experts of layers 0 to 2, which it has no room for, need 1 MiB of this machine's memory, "
        "1 MiB are available"
    )
    room = Room(1 << 33, 1 << 34, 9216)
    assert place_weights(layout, SIZE, room, "GPU 5", WeightPlaces(cpu_experts=3)) == experts(0, 1, 2)


def test_bytes_arrive_wherever_they_go() -> None:
    layout, api = mixture(), FakeHip()
    weights = bytes(index * 7 % 251 for index in range(layout.weights_bytes))
    memory, host = DeviceMemory(api), experts(0, 2)
    progress: list[int] = []
    mapped = bytearray(weights)
    addresses = upload_weights(api, memory, layout, mapped, lambda done, _: progress.append(done), host)  # type: ignore[arg-type]
    for tensor in layout.tensors:
        found = ctypes.string_at(addresses[tensor.name], tensor.n_bytes)
        assert found == weights[tensor.offset : tensor.offset + tensor.n_bytes], tensor.name
    assert {addresses[name] for name in host} <= set(api.pinned_blocks)
    assert progress[-1] == len(weights)
    memory.close()
    assert api.held() == 0
