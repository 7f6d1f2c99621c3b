"""Memory functions of the emulated HIP: what they do, and what they refuse."""

from __future__ import annotations

import ctypes
import mmap
from ctypes import byref, c_int, c_size_t, c_void_p

import pytest

from rocmforge.tools.emulator import HipEmulator

SIZE = 64
CAPACITY = 1 << 20


@pytest.fixture
def api() -> HipEmulator:
    return HipEmulator("gfx1100", memory_bytes=CAPACITY, threads=1)


def allocate(api: HipEmulator, size: int = SIZE, fill: int = 0) -> c_void_p:
    pointer = c_void_p()
    assert api.hipMalloc(byref(pointer), size) == 0
    assert api.hipMemset(pointer, fill, size) == 0
    return pointer


def inside(pointer: c_void_p, offset: int) -> c_void_p:
    return c_void_p((pointer.value or 0) + offset)


def content(pointer: c_void_p, size: int = SIZE) -> list[int]:
    return list(ctypes.string_at(pointer.value or 0, size))


@pytest.mark.parametrize("function", ["hipMalloc", "hipHostMalloc"])
def test_allocations_need_a_place_for_their_address(api: HipEmulator, function: str) -> None:
    pointer = c_void_p(5)
    assert getattr(api, function)(None, 16) == 1
    assert api.hipGetLastError() == 1
    assert getattr(api, function)(byref(pointer), 0) == 0
    assert (pointer.value, api.live_allocations) == (None, 0)
    assert getattr(api, function)(byref(pointer), c_size_t(1)) == 0
    assert (bool(pointer.value), api.live_allocations) == (True, 1)


def test_only_device_memory_is_taken_from_the_device(api: HipEmulator) -> None:
    pinned, free, total = c_void_p(), c_size_t(), c_size_t()
    assert api.hipHostMalloc(byref(pinned), 2 * CAPACITY) == 0
    first = allocate(api, CAPACITY)
    assert (api.live_allocations, api.live_bytes) == (2, CAPACITY)
    assert api.hipMemGetInfo(byref(free), byref(total)) == 0
    assert (free.value, total.value) == (0, CAPACITY)
    assert api.hipMalloc(byref(c_void_p()), 1) == 2
    assert api.hipGetLastError() == 2
    # Either function frees either kind.
    assert (api.hipFree(pinned), api.hipHostFree(first)) == (0, 0)
    assert (api.live_allocations, api.live_bytes) == (0, 0)


def test_a_host_without_memory_is_out_of_memory(api: HipEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Cannot allocate memory")

    pointer = c_void_p()
    monkeypatch.setattr(mmap, "mmap", refuse)
    assert api.hipHostMalloc(byref(pointer), 16) == 2
    assert (pointer.value, api.live_allocations, api.hipGetLastError()) == (None, 0, 2)


@pytest.mark.parametrize("function", ["hipFree", "hipHostFree"])
def test_only_the_beginning_of_an_allocation_is_freed(api: HipEmulator, function: str) -> None:
    free, pointer = getattr(api, function), allocate(api)
    host = ctypes.create_string_buffer(8)
    for wrong in (inside(pointer, 4), inside(pointer, -4), inside(pointer, SIZE), host):
        assert free(wrong) == 1
        assert api.hipGetLastError() == 1
    assert free(None) == 0
    api.inject(function, 0, 700)  # a lost device: cleaning up hides nothing
    assert free(pointer) == 0
    assert free(pointer) == 1
    assert free(None) == 0
    assert api.calls[function] == 8


DEVICE, OTHER, HOST = range(3)


@pytest.mark.parametrize("function", ["hipMemcpy", "hipMemcpyAsync"])
@pytest.mark.parametrize(
    ("kind", "works"),
    [
        (0, {(HOST, HOST), (HOST, DEVICE), (DEVICE, HOST), (DEVICE, OTHER)}),
        (1, {(DEVICE, HOST), (DEVICE, OTHER)}),
        (2, {(HOST, DEVICE), (DEVICE, OTHER)}),
        (3, {(DEVICE, OTHER)}),
        (4, {(HOST, HOST), (HOST, DEVICE), (DEVICE, HOST), (DEVICE, OTHER)}),
    ],
)
def test_a_copy_touches_device_memory_where_its_kind_says_so(
    api: HipEmulator, function: str, kind: int, works: set[tuple[int, int]]
) -> None:
    """Device pointers are host addresses: where no side must be of the device, both may."""
    for to, origin in ((HOST, HOST), (HOST, DEVICE), (DEVICE, HOST), (DEVICE, OTHER)):
        one, two = (ctypes.create_string_buffer(bytes([n]) * SIZE, SIZE) for n in (1, 2))
        places = {DEVICE: (allocate(api, fill=1), allocate(api, fill=2)), HOST: (one, two)}
        destination = ctypes.cast(places[to][0], c_void_p)
        source = ctypes.cast(places[DEVICE if origin == OTHER else origin][1], c_void_p)
        expected = (to, origin) in works
        assert getattr(api, function)(destination, source, c_size_t(SIZE), kind) == (0 if expected else 1)
        assert content(destination) == [2 if expected else 1] * SIZE
        assert content(source) == [2] * SIZE
        assert api.hipGetLastError() == (0 if expected else 1)


@pytest.mark.parametrize("function", ["hipMemcpy", "hipMemcpyAsync"])
def test_copies_that_are_refused(api: HipEmulator, function: str) -> None:
    pointer, host = allocate(api, fill=1), ctypes.create_string_buffer(bytes([2]) * 4 * SIZE)
    copy, data = getattr(api, function), ctypes.cast(host, c_void_p)
    for code, *arguments in (
        (1, None, data, SIZE, 1),
        (1, pointer, None, SIZE, 1),
        (21, pointer, data, SIZE, 5),
        (21, pointer, data, SIZE, -1),
        (1, inside(pointer, 1), data, SIZE, 1),
        (1, inside(pointer, -1), data, SIZE, 1),
        (1, pointer, data, SIZE + 1, 1),
        (1, pointer, data, SIZE + 1, 4),
        (1, pointer, data, SIZE + 1, 0),
        (1, data, inside(pointer, 1), SIZE, 4),
    ):
        assert copy(*arguments) == code
        assert api.hipGetLastError() == code
    assert content(pointer) == [1] * SIZE
    for null in (None, 0):
        assert copy(null, null, 0, 1) == 0
    assert copy(pointer, data, 0, 9) == 0
    assert content(pointer) == [1] * SIZE


def test_the_message_of_a_copy_says_which_bytes(api: HipEmulator) -> None:
    pointer, host = allocate(api), ctypes.create_string_buffer(4 * SIZE)
    at = pointer.value or 0
    assert api.hipMemcpy(inside(pointer, 8), host, SIZE, 1) == 1
    assert api.hipGetErrorString(1).decode() == f"invalid argument: 64 bytes at {at + 8:#x} are not in one allocation"
    assert api.hipMemcpy(host, inside(pointer, 16), SIZE, 4) == 1
    assert api.hipGetErrorString(1).decode() == f"invalid argument: 64 bytes at {at + 16:#x} are not in one allocation"


def test_a_copy_in_a_capture_is_checked_again_when_it_is_replayed(api: HipEmulator) -> None:
    stream, graph, executable = c_void_p(), c_void_p(), c_void_p()
    one, two = allocate(api, fill=1), allocate(api, fill=2)
    assert api.hipStreamCreate(byref(stream)) == 0
    assert api.hipStreamBeginCapture(stream, 1) == 0
    assert api.hipMemcpyAsync(one, two, SIZE, 3, stream) == 0
    assert api.hipStreamEndCapture(stream, byref(graph)) == 0
    assert api.hipGraphInstantiate(byref(executable), graph) == 0
    assert content(one) == [1] * SIZE
    assert api.hipGraphLaunch(executable, stream) == 0
    assert content(one) == [2] * SIZE
    assert api.hipFree(two) == 0
    assert api.hipGraphLaunch(executable, stream) == 1


@pytest.mark.parametrize("function", ["hipMemset", "hipMemsetAsync"])
def test_fills(api: HipEmulator, function: str) -> None:
    """Of the value, the low byte is what is written."""
    fill, pointer = getattr(api, function), allocate(api, fill=1)
    for value, expected in ((0x1FF, 0xFF), (-2, 0xFE), (0x203, 3)):
        assert fill(inside(pointer, 1), value, c_size_t(SIZE - 2)) == 0
        assert content(pointer) == [1, *[expected] * (SIZE - 2), 1]
    for wrong in (c_void_p(), inside(pointer, 1), inside(pointer, -1), ctypes.create_string_buffer(SIZE)):
        assert fill(wrong, 9, SIZE) == 1
        assert api.hipGetLastError() == 1
    assert fill(None, 9, 0) == 0
    assert 9 not in content(pointer)


def test_numbers_may_be_those_of_c(api: HipEmulator) -> None:
    pointer, out = allocate(api, fill=3), ctypes.create_string_buffer(SIZE)
    assert api.hipMemcpyDtoH(out, pointer, c_size_t(SIZE)) == 0
    assert out.raw == bytes([3]) * SIZE
    assert api.hipMemcpyHtoD(pointer, bytes([4]) * SIZE, c_size_t(SIZE)) == 0
    assert content(pointer) == [4] * SIZE
    assert api.hipSetDevice(c_int(0)) == 0
    assert api.hipSetDevice(c_int(1)) == 101
