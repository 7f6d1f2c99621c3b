"""The emulator as HIP: memory, streams, events, graphs, attributes, errors, called as ctypes would call the library."""

from __future__ import annotations

import ctypes
import threading
from ctypes import byref, c_char, c_float, c_int, c_size_t, c_void_p

import numpy as np
import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.tests.emulator.gpu_build import build
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.emulator import hip_constants as hip

SOURCE = """
KERNEL scale(float *x, float by, u32 n) { if (GLOBAL < n) x[GLOBAL] *= by; }
__device__ u32 counter = 7;
KERNEL bump(u32 *out) { out[THREAD] = counter; BARRIER; if (!THREAD) counter += 1; }
"""
N = 100


class Session:
    """A loaded module and a buffer of ones."""

    def __init__(self) -> None:
        self.api, self.module, self.function = HipEmulator("gfx1100", memory_bytes=1 << 20), c_void_p(), c_void_p()
        self.stream, self.pointer = c_void_p(), c_void_p()
        assert self.api.hipInit(0) == 0
        # As ctypes would pass a code object that was read into a buffer, not only bytes.
        image = ctypes.create_string_buffer(build(SOURCE, "gfx1100"))
        assert self.api.hipModuleLoadData(byref(self.module), ctypes.cast(image, c_void_p)) == 0
        assert self.api.hipModuleGetFunction(byref(self.function), self.module, b"scale") == 0
        assert self.api.hipStreamCreate(byref(self.stream)) == 0
        assert self.api.hipMalloc(byref(self.pointer), 4 * N) == 0
        ones = np.ones(N, np.float32)
        assert self.api.hipMemcpy(self.pointer, c_void_p(ones.ctypes.data), 4 * N, 1) == 0

    def scale(self, by: float, stream: c_void_p | None = None) -> int:
        values = (c_void_p(self.pointer.value), c_float(by), ctypes.c_uint32(N))
        table = (c_void_p * 3)(*(ctypes.addressof(v) for v in values))
        code = self.api.hipModuleLaunchKernel(self.function, 1, 1, 1, 128, 1, 1, 0, stream, table, None)
        # A capture must have copied the arguments.
        values[1].value = 1e9
        return code

    def values(self) -> list[float]:
        out = np.zeros(N, np.float32)
        assert self.api.hipMemcpy(c_void_p(out.ctypes.data), self.pointer, 4 * N, 2) == 0
        return sorted(set(out.tolist()))


@pytest.fixture
def session() -> Session:
    return Session()


def test_launch_and_copies(session: Session) -> None:
    assert session.scale(3.0) == 0
    assert session.scale(2.0, session.stream) == 0
    assert session.api.hipStreamSynchronize(session.stream) == 0
    assert session.values() == [6.0]
    assert session.api.hipMemsetAsync(session.pointer, 0, 4 * N, session.stream) == 0
    assert session.values() == [0.0]
    pinned = c_void_p()
    assert session.api.hipHostMalloc(byref(pinned), 4 * N, 0) == 0
    ctypes.memmove(pinned.value or 0, np.full(N, 5, np.float32).tobytes(), 4 * N)
    assert session.api.hipMemcpyAsync(session.pointer, pinned, 4 * N, 1, session.stream) == 0
    assert session.values() == [5.0]
    assert session.api.hipHostFree(pinned) == 0


def test_launch_with_a_buffer_of_arguments(session: Session) -> None:
    class Arguments(ctypes.Structure):
        _fields_ = [("x", c_void_p), ("by", c_float), ("n", ctypes.c_uint32)]

    arguments, size = Arguments(session.pointer, 4.0, N), c_size_t(16)
    extra = (c_void_p * 5)(1, ctypes.addressof(arguments), 2, ctypes.addressof(size), 3)
    assert session.api.hipModuleLaunchKernel(session.function, 1, 1, 1, 128, 1, 1, 0, None, None, extra) == 0
    assert session.values() == [4.0]


def test_graph_replays_what_was_captured(session: Session) -> None:
    graph, executable = c_void_p(), c_void_p()
    assert session.api.hipStreamBeginCapture(session.stream, 0) == 0
    assert session.scale(2.0, session.stream) == 0
    assert session.scale(3.0, session.stream) == 0
    assert session.api.hipStreamEndCapture(session.stream, byref(graph)) == 0
    assert session.values() == [1.0]
    assert session.api.hipGraphInstantiate(byref(executable), graph, None, None, 0) == 0
    assert session.api.hipGraphDestroy(graph) == 0
    for _ in range(2):
        assert session.api.hipGraphLaunch(executable, session.stream) == 0
    assert session.values() == [36.0]
    assert session.api.hipGraphExecDestroy(executable) == 0
    assert session.api.hipGraphLaunch(executable, session.stream) == 1
    assert session.api.hipStreamEndCapture(session.stream, byref(graph)) == 401
    assert session.api.hipStreamBeginCapture(None, 0) == 900


@pytest.mark.parametrize("call", ["hipStreamSynchronize", "hipStreamQuery", "hipDeviceSynchronize", "hipMalloc"])
def test_a_capture_that_is_spoilt_ends_with_the_next(session: Session, call: str) -> None:
    """So it is on AMD's runtime from 6.4 on (tests/amd)."""
    graph, pointer = c_void_p(), c_void_p()
    arguments = {"hipDeviceSynchronize": (), "hipMalloc": (byref(pointer), 64)}.get(call, (None,))
    assert session.api.hipStreamBeginCapture(session.stream, 1) == 0
    assert getattr(session.api, call)(*arguments) == 900
    assert session.scale(2.0, session.stream) == 901
    assert session.api.hipStreamEndCapture(session.stream, byref(graph)) == 901
    assert session.api.hipStreamSynchronize(session.stream) == 900
    assert session.api.hipStreamBeginCapture(session.stream, 1) == 0
    assert session.api.hipStreamEndCapture(session.stream, byref(graph)) == 0
    assert session.scale(3.0, session.stream) == 0
    assert session.values() == [3.0]


def test_a_capture_does_not_mind_what_other_threads_do(session: Session) -> None:
    graph, found = c_void_p(), list[int]()
    assert session.api.hipStreamBeginCapture(session.stream, 1) == 0
    other = threading.Thread(target=lambda: found.append(session.api.hipStreamSynchronize(None)))
    other.start()
    other.join()
    assert found == [0]
    assert session.api.hipStreamEndCapture(session.stream, byref(graph)) == 0


def test_events(session: Session) -> None:
    start, stop, milliseconds = c_void_p(), c_void_p(), c_float()
    assert session.api.hipEventCreate(byref(start)) == 0
    assert session.api.hipEventCreateWithFlags(byref(stop), 0) == 0
    assert session.api.hipEventElapsedTime(byref(milliseconds), start, stop) == 400
    assert session.api.hipEventRecord(start, session.stream) == 0
    assert session.scale(1.0, session.stream) == 0
    assert session.api.hipEventRecord(stop, session.stream) == 0
    assert session.api.hipEventSynchronize(stop) == 0
    assert session.api.hipEventElapsedTime(byref(milliseconds), start, stop) == 0
    assert milliseconds.value > 0
    assert session.api.hipEventDestroy(start) == 0
    assert session.api.hipEventDestroy(start) == 400


def test_arguments_lie_where_the_kernel_reads_them() -> None:
    """Behind a number of four bytes is a gap before a pointer."""
    source = "KERNEL put(u32 value, u32 *out, u32 other) { out[THREAD] = value + other; }"
    api, module, function, pointer = HipEmulator("gfx1100"), c_void_p(), c_void_p(), c_void_p()
    assert api.hipModuleLoadData(byref(module), build(source, "gfx1100")) == 0
    assert api.hipModuleGetFunction(byref(function), module, b"put") == 0
    assert api.hipMalloc(byref(pointer), 4 * 32) == 0
    values = (ctypes.c_uint32(40), pointer, ctypes.c_uint32(2))
    table = (c_void_p * 3)(*(ctypes.addressof(value) for value in values))
    assert api.hipModuleLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, table, None) == 0
    out = np.zeros(32, np.uint32)
    assert api.hipMemcpyDtoH(c_void_p(out.ctypes.data), pointer, out.nbytes) == 0
    assert set(out.tolist()) == {42}


def test_copies_by_their_own_names(session: Session) -> None:
    fives, out = np.full(N, 5, np.float32), np.zeros(N, np.float32)
    assert session.api.hipMemcpyHtoD(session.pointer, c_void_p(fives.ctypes.data), fives.nbytes) == 0
    assert session.values() == [5.0]
    assert session.api.hipMemcpyDtoH(c_void_p(out.ctypes.data), session.pointer, out.nbytes) == 0
    assert np.array_equal(out, fives)
    assert session.api.hipMemcpyHtoD(session.pointer, c_void_p(fives.ctypes.data), fives.nbytes + 1) != 0


def test_device_variables_that_are_not_there(session: Session) -> None:
    place, size = c_void_p(), c_size_t()
    assert session.api.hipModuleGetGlobal(byref(place), byref(size), session.module, b"nothing") == hip.NOT_FOUND
    assert session.api.hipModuleGetGlobal(byref(place), byref(size), c_void_p(12345), b"counter") == hip.INVALID_HANDLE
    assert (place.value, size.value) == (None, 0)


def test_device_variables(session: Session) -> None:
    function, pointer, size = c_void_p(), c_void_p(), c_size_t()
    assert session.api.hipModuleGetFunction(byref(function), session.module, b"bump") == 0
    table = (c_void_p * 1)(ctypes.addressof(session.pointer))
    for _ in range(3):
        assert session.api.hipModuleLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, None, table, None) == 0
    assert session.api.hipModuleGetGlobal(byref(pointer), byref(size), session.module, b"counter") == 0
    assert size.value == 4
    value = ctypes.c_uint32()
    assert session.api.hipMemcpy(byref(value), pointer, 4, 2) == 0
    assert value.value == 10


def test_memory_runs_out_and_comes_back() -> None:
    api, first, second, free, total = (
        HipEmulator("gfx1100", memory_bytes=1 << 20),
        c_void_p(),
        c_void_p(),
        c_size_t(),
        c_size_t(),
    )
    assert api.hipMalloc(byref(first), 600 << 10) == 0
    assert api.hipMalloc(byref(second), 600 << 10) == 2
    assert api.hipGetErrorName(2) == b"hipErrorOutOfMemory"
    assert api.hipMemGetInfo(byref(free), byref(total)) == 0
    assert (free.value, total.value) == (424 << 10, 1 << 20)
    assert api.hipFree(first) == 0
    assert api.hipFree(first) == 1
    assert api.hipMalloc(byref(second), 600 << 10) == 0
    assert api.hipFree(None) == 0
    assert api.live_bytes == 600 << 10


def test_copies_that_leave_their_allocation(session: Session) -> None:
    other = np.zeros(2 * N, np.float32)
    host = c_void_p(other.ctypes.data)
    assert session.api.hipMemcpy(session.pointer, host, 4 * N + 1, 1) == 1
    assert session.api.hipMemcpy(host, session.pointer, 4 * N + 1, 2) == 1
    assert session.api.hipMemcpy(host, c_void_p((session.pointer.value or 0) - 4), 8, 2) == 1
    assert session.api.hipMemset(session.pointer, 1, 4 * N + 1) == 1
    assert session.api.hipMemcpy(host, session.pointer, 4 * N, 9) == 21


def test_bad_launches(session: Session) -> None:
    launch = session.api.hipModuleLaunchKernel
    values = (c_void_p(session.pointer.value), c_float(1), ctypes.c_uint32(N))
    table = (c_void_p * 3)(*(ctypes.addressof(v) for v in values))
    assert launch(session.function, 0, 1, 1, 64, 1, 1, 0, None, table, None) == 1
    assert launch(session.function, 1, 1, 1, 1024, 2, 1, 0, None, table, None) == 1
    assert launch(session.function, 1 << 31, 1, 1, 64, 1, 1, 0, None, table, None) == 1
    assert launch(session.function, 1, 1, 1, 64, 1, 1, 1 << 20, None, table, None) == 1
    assert launch(session.function, 1, 1, 1, 64, 1, 1, 0, None, None, None) == 1
    assert launch(c_void_p(12345), 1, 1, 1, 64, 1, 1, 0, None, table, None) == 400
    assert session.api.hipModuleGetFunction(byref(c_void_p()), session.module, b"nothing") == 500
    assert session.api.hipModuleUnload(session.module) == 0
    assert launch(session.function, 1, 1, 1, 64, 1, 1, 0, None, table, None) == 400
    assert session.api.hipGetLastError() == 400
    assert session.api.hipGetLastError() == 0


def test_injected_failures(session: Session) -> None:
    session.api.inject("hipMalloc", session.api.calls["hipMalloc"] + 2, 2)
    pointers = [c_void_p() for _ in range(3)]
    assert [session.api.hipMalloc(byref(p), 64) for p in pointers] == [0, 2, 0]
    session.api.inject("hipModuleLaunchKernel", 0, 719)
    assert session.scale(2.0) == 719
    assert session.values() == [1.0]


def test_device_queries() -> None:
    api, count, value, name, bus = HipEmulator("gfx1201"), c_int(), c_int(), (c_char * 64)(), (c_char * 13)()
    assert api.hipGetDeviceCount(byref(count)) == 0
    assert count.value == 1
    assert (api.hipSetDevice(0), api.hipSetDevice(1)) == (0, 101)
    assert api.hipDeviceGetName(name, 64, 0) == 0
    assert b"gfx1201" in name.value
    assert api.hipDeviceGetPCIBusId(bus, 13, 0) == 0
    assert bus.value == b"0000:03:00.0"
    attributes = {87: 32, 74: 65536, 56: 1024, 23: 12, 61: 0}
    for attribute, expected in attributes.items():
        assert api.hipDeviceGetAttribute(byref(value), attribute, 0) == 0
        assert value.value == expected
    assert api.hipDeviceGetAttribute(byref(value), 4242, 0) == 1
    assert api.hipRuntimeGetVersion(byref(value)) == 0
    assert value.value >= 60_000_000
    assert api.hipDriverGetVersion(byref(value)) == 0
    assert api.hipGetErrorName(700) == b"hipErrorIllegalAddress"
    assert api.hipGetErrorString(0) == b"no error"


def test_unknown_arch_is_refused() -> None:
    with pytest.raises(ToolchainError, match="the emulator has no gfx803; it has gfx1100"):
        HipEmulator("gfx803")
