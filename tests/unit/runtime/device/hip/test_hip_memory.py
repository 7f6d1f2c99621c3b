"""Memory of a GPU: what is taken is given back, and what is uploaded arrives whole."""

from __future__ import annotations

import ctypes
import dataclasses

import numpy as np
import pytest

from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.layout import BufferEntry
from rocmforge.runtime.device.hip.api import HipError
from rocmforge.runtime.device.hip.memory import DeviceMemory, Uploader, place_buffers, place_tensors
from rocmforge.runtime.device.hip.placement import aligned
from rocmforge.tests.support.fake_hip import LAUNCH_FAILURE, OUT_OF_MEMORY, FakeHip
from rocmforge.tests.support.hip_bundle import LAYOUT


def test_places_of_tensors_and_buffers() -> None:
    """Each begins with a piece of 256 bytes."""
    assert [aligned(n_bytes) for n_bytes in (0, 1, 256, 257)] == [0, 256, 256, 512]
    assert place_tensors(LAYOUT) == ({"embedding": 0, "norm": 12288, "table": 12544}, 16640)
    buffers = (BufferEntry("a", "float32", 1, 0), BufferEntry("b", "float32", 0, 65), BufferEntry("c", "float32", 2, 0))
    layout = dataclasses.replace(LAYOUT, buffers=buffers, tensors=())
    assert place_buffers(layout) == ({"a": 0, "b": 256, "c": 768}, 1024)
    assert place_tensors(layout) == ({}, 0)


def test_buffers_hold_the_rows_behind_the_last_token_that_tiles_read() -> None:
    """As of an image of 32 by 32 patches and the class: attention_tiled.h reads queries of 16 tokens at a time."""
    buffers = (BufferEntry("scores", "float32", 0, 100), BufferEntry("qkv", "float32", 192, 0))
    layout = dataclasses.replace(LAYOUT, buffers=buffers, max_batch_tokens=1025)
    offsets, end = place_buffers(layout)
    assert end - offsets["qkv"] >= -(-1025 // 16) * 16 * 192 * 4


def test_what_is_not_to_be_had_says_how_much_there_is() -> None:
    api = FakeHip(memory_bytes=1000)
    memory = DeviceMemory(api)
    memory.device(300, "first")
    with pytest.raises(HipError) as caught:
        memory.device(701, "rest")
    words = "hipErrorOutOfMemory (out of memory)"
    assert str(caught.value) == f"701 bytes for the rest are unavailable, 700 of 1000 are free: {words}"
    api.fail("hipHostMalloc", 1, OUT_OF_MEMORY)
    with pytest.raises(HipError) as caught:
        memory.pinned(64, "echo")
    assert str(caught.value) == f"64 bytes for the echo, pinned are unavailable, 700 of 1000 are free: {words}"
    api.fail("hipMalloc", 1, OUT_OF_MEMORY)
    api.fail("hipMemGetInfo", 1, LAUNCH_FAILURE)
    with pytest.raises(HipError) as caught:
        memory.device(1, "rest")
    assert str(caught.value) == f"1 bytes for the rest are unavailable: {words}"
    api.fail("hipMalloc", 1, LAUNCH_FAILURE)
    with pytest.raises(HipError, match=r"^1 bytes for the rest are unavailable: hipErrorLaunchFailure"):
        memory.device(1, "rest")
    api.fail("hipMemGetInfo", 1, LAUNCH_FAILURE)
    with pytest.raises(HipError, match=r"^free memory: hipErrorLaunchFailure"):
        memory.info()
    assert memory.device(700, "rest") in api.device_blocks  # just as much as there is
    memory.close()
    assert api.held() == 0


def test_each_is_given_back_once() -> None:
    api = FakeHip()
    memory = DeviceMemory(api)
    one, two, pinned = memory.device(1, "one"), memory.device(2, "two"), memory.pinned(3, "pinned")
    assert memory.allocations() == {"one": one, "two": two}
    for _ in range(2):
        memory.free(one)
        memory.free(pinned)
        assert (set(api.device_blocks), api.pinned_blocks) == ({two}, {})
    memory.free(12345)
    assert memory.allocations() == {"two": two}
    memory.pinned(3, "pinned")
    memory.close()
    memory.close()
    assert (api.held(), memory.allocations()) == (0, {})


class Nowhere(FakeHip):
    """Says that all is well, and gives no address."""

    def hipMalloc(self, pointer: object, size: int) -> int:
        return 0


def test_an_address_that_is_none() -> None:
    with pytest.raises(DeviceError, match=r"^HIP gave no address for the arena$"):
        DeviceMemory(Nowhere()).device(8, "arena")


@pytest.mark.parametrize("size", [1, 99, 100, 101, 250, 400])
def test_an_upload_goes_by_pieces_in_two_buffers(size: int) -> None:
    """The fake copies as late as it may: a buffer that was filled again too early would show."""
    api = FakeHip()
    memory = DeviceMemory(api)
    source = np.random.default_rng(3).integers(0, 256, size, np.uint8)
    goal, advanced = memory.device(size, "goal"), list[int]()
    uploader = Uploader(api, memory, 100)
    assert [block.size for block in api.pinned_blocks.values()] == [100, 100]
    assert len(api.streams) == 2
    uploader.copy(goal, source.ctypes.data, size, advanced.append)
    assert advanced == [100] * (size // 100) + [size % 100] * (size % 100 > 0)
    assert api.calls["hipMemcpyAsync"] == len(advanced)
    used = sum(bool(stream.queue) for stream in api.streams.values())
    assert used == min(len(advanced), 2)  # each may still be on its way, in a stream of its own
    uploader.finish()
    assert ctypes.string_at(goal, size) == source.tobytes()
    uploader.close()
    uploader.close()
    assert (api.streams, api.pinned_blocks) == ({}, {})
    memory.close()


@pytest.mark.parametrize("function", ["hipMemcpyAsync", "hipStreamSynchronize"])
def test_an_upload_that_fails(function: str) -> None:
    api = FakeHip()
    memory = DeviceMemory(api)
    goal, source = memory.device(100, "goal"), (ctypes.c_char * 100)()
    uploader = Uploader(api, memory, 50)
    api.fail(function, 2, LAUNCH_FAILURE)
    with pytest.raises(HipError, match=r"^upload of weights: hipErrorLaunchFailure"):
        uploader.copy(goal, ctypes.addressof(source), 100, lambda _: None)
    api.fail("hipStreamSynchronize", 2, LAUNCH_FAILURE)
    with pytest.raises(HipError, match=r"^upload of weights: hipErrorLaunchFailure"):
        uploader.finish()
    uploader.close()
    memory.close()
    assert api.held() == 0


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("function", ["hipHostMalloc", "hipStreamCreateWithFlags"])
def test_buffers_that_are_not_to_be_had_leave_nothing(function: str, call: int) -> None:
    api = FakeHip()
    api.fail(function, call, LAUNCH_FAILURE)
    with pytest.raises(HipError, match=r"^(50 bytes for the staging of weights, pinned|a stream for the weights)"):
        Uploader(api, DeviceMemory(api), 50)
    assert api.held() == 0
