"""Streams, events and graphs of the emulator without a kernel: the work is to fill memory."""

from __future__ import annotations

import ctypes
import threading
import time
from ctypes import byref, c_float, c_int, c_size_t, c_uint, c_void_p

import pytest

from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.emulator import hip_constants as hip

UNKNOWN = c_void_p(12345)
SIZE = 64


class Device:
    """A device with a stream and a buffer of zeros."""

    def __init__(self) -> None:
        self.api = HipEmulator("gfx1100", memory_bytes=1 << 20, threads=1)
        self.stream, self.pointer = c_void_p(), c_void_p()
        assert self.api.hipStreamCreate(byref(self.stream)) == 0
        self.pointer = self.allocate()

    def allocate(self) -> c_void_p:
        pointer = c_void_p()
        assert self.api.hipMalloc(byref(pointer), SIZE) == 0
        assert self.api.hipMemset(pointer, 0, SIZE) == 0
        return pointer

    def fill(self, value: int, stream: c_void_p | None = None, pointer: c_void_p | None = None) -> int:
        return self.api.hipMemsetAsync(pointer or self.pointer, value, SIZE, stream)

    def value(self, pointer: c_void_p | None = None) -> int:
        """What all bytes of a buffer hold."""
        found = set(ctypes.string_at((pointer or self.pointer).value or 0, SIZE))
        assert len(found) == 1
        return found.pop()

    def event(self) -> c_void_p:
        event = c_void_p()
        assert self.api.hipEventCreate(byref(event)) == 0
        return event

    def begin(self, mode: int = 1) -> None:
        assert self.api.hipStreamBeginCapture(self.stream, mode) == 0

    def end(self) -> c_void_p:
        graph = c_void_p()
        assert self.api.hipStreamEndCapture(self.stream, byref(graph)) == 0
        return graph

    def executable(self, graph: c_void_p) -> c_void_p:
        executable = c_void_p()
        assert self.api.hipGraphInstantiate(byref(executable), graph, None, None, 0) == 0
        return executable

    def capturing(self, stream: c_void_p | None) -> int:
        status = c_int(9)
        assert self.api.hipStreamIsCapturing(stream, byref(status)) == 0
        return status.value


@pytest.fixture
def device() -> Device:
    return Device()


def test_streams_are_made_and_end(device: Device) -> None:
    other = c_void_p()
    assert device.api.hipStreamCreate(byref(other)) == 0
    assert (other.value or 0) not in (0, device.stream.value)
    for call in (device.api.hipStreamSynchronize, device.api.hipStreamQuery):
        assert (call(None), call(device.stream), call(other), call(UNKNOWN)) == (0, 0, 0, 400)
    assert device.api.hipStreamDestroy(other) == 0
    assert device.api.hipStreamDestroy(other) == 400
    assert device.api.hipGetLastError() == 400
    for call in (device.api.hipStreamSynchronize, device.api.hipStreamQuery):
        assert (call(None), call(device.stream), call(other)) == (0, 0, 400)
        assert device.api.hipGetLastError() == 400


def test_the_default_stream_cannot_be_ended(device: Device) -> None:
    assert device.api.hipStreamDestroy(None) == 400
    assert device.api.hipStreamDestroy(UNKNOWN) == 400
    assert device.fill(7, None) == 0
    assert device.value() == 7


def test_a_stream_needs_a_place_for_its_handle(device: Device) -> None:
    assert device.api.hipStreamCreate(None) == 1
    assert device.api.hipGetLastError() == 1


@pytest.mark.parametrize(("flags", "code"), [(0, 0), (1, 0), (c_uint(1), 0), (2, 1), (-1, 1)])
def test_flags_of_streams(device: Device, flags: object, code: int) -> None:
    stream = c_void_p()
    assert device.api.hipStreamCreateWithFlags(byref(stream), flags) == code
    assert (stream.value is None) == bool(code)
    assert device.api.hipGetLastError() == code
    assert device.api.hipStreamQuery(stream) == 0


def test_work_on_streams_that_are_not_there(device: Device) -> None:
    event = device.event()
    assert device.fill(5, UNKNOWN) == 400
    assert device.api.hipMemcpyAsync(device.pointer, device.allocate(), SIZE, 3, UNKNOWN) == 400
    assert device.api.hipEventRecord(event, UNKNOWN) == 400
    assert device.api.hipGetLastError() == 400
    assert device.value() == 0


def test_streams_wait_for_events(device: Device) -> None:
    assert device.api.hipStreamWaitEvent(device.stream, device.event(), 0) == 0
    assert device.api.calls["hipStreamWaitEvent"] == 1


def test_events_that_are_not_there(device: Device) -> None:
    event, milliseconds = device.event(), c_float(9)
    assert device.api.hipEventRecord(event) == 0
    for call in (device.api.hipEventRecord, device.api.hipEventSynchronize, device.api.hipEventQuery):
        assert (call(event), call(UNKNOWN), device.api.hipGetLastError()) == (0, 400, 400)
    for pair in ((event, UNKNOWN), (UNKNOWN, event)):
        assert device.api.hipEventElapsedTime(byref(milliseconds), *pair) == 400
    assert milliseconds.value == 9
    assert device.api.hipEventDestroy(UNKNOWN) == 400
    assert device.api.hipGetLastError() == 400
    assert device.api.hipEventDestroy(event) == 0
    for call in (device.api.hipEventRecord, device.api.hipEventSynchronize, device.api.hipEventQuery):
        assert call(event) == 400


def test_events_that_were_not_recorded_have_no_time(device: Device) -> None:
    early, late, milliseconds = device.event(), device.event(), c_float(9)
    assert early.value != late.value
    assert device.api.hipEventRecord(early) == 0
    for pair in ((early, late), (late, early)):
        assert device.api.hipEventElapsedTime(byref(milliseconds), *pair) == 400
    assert device.api.hipGetLastError() == 400
    assert milliseconds.value == 9
    assert device.api.hipEventDestroy(late) == 0


def test_time_between_events_is_in_milliseconds(device: Device) -> None:
    start, stop, milliseconds = device.event(), device.event(), c_float()
    begun = time.perf_counter()
    assert device.api.hipEventRecord(start, device.stream) == 0
    time.sleep(0.05)
    assert device.api.hipEventRecord(stop, device.stream) == 0
    most = 1e3 * (time.perf_counter() - begun)
    assert device.api.hipEventElapsedTime(byref(milliseconds), start, stop) == 0
    assert 50 <= milliseconds.value <= most
    before = milliseconds.value
    assert device.api.hipEventElapsedTime(byref(milliseconds), stop, start) == 0
    assert milliseconds.value == -before
    assert device.api.hipEventElapsedTime(byref(milliseconds), start, start) == 0
    assert milliseconds.value == 0


def test_an_event_in_a_capture_is_recorded_by_the_graph(device: Device) -> None:
    event, milliseconds = device.event(), c_float()
    device.begin()
    assert device.api.hipEventRecord(event, device.stream) == 0
    executable = device.executable(device.end())
    assert device.api.hipEventElapsedTime(byref(milliseconds), event, event) == 400
    assert device.api.hipGraphLaunch(executable, None) == 0
    assert device.api.hipEventElapsedTime(byref(milliseconds), event, event) == 0


@pytest.mark.parametrize(("mode", "code"), [(0, 0), (1, 0), (2, 0), (c_int(2), 0), (3, 1), (-1, 1)])
def test_modes_of_captures(device: Device, mode: object, code: int) -> None:
    assert device.api.hipStreamBeginCapture(device.stream, mode) == code
    assert device.api.hipGetLastError() == code
    assert device.capturing(device.stream) == (0 if code else 1)


def test_captures_that_cannot_begin(device: Device) -> None:
    for stream in (None, UNKNOWN):
        assert device.api.hipStreamBeginCapture(stream, 1) == 900
        assert device.api.hipGetLastError() == 900
        assert device.capturing(stream) == 0
    device.begin()
    assert device.fill(3, device.stream) == 0
    assert device.api.hipStreamBeginCapture(device.stream, 1) == 401
    assert device.api.hipGetLastError() == 401
    assert device.api.hipGraphLaunch(device.executable(device.end()), None) == 0
    assert device.value() == 3


def test_captures_that_cannot_end(device: Device) -> None:
    graph = c_void_p()
    for stream in (None, UNKNOWN, device.stream):
        assert device.api.hipStreamEndCapture(stream, byref(graph)) == 401
        assert device.api.hipGetLastError() == 401
    device.begin()
    assert device.api.hipMalloc(byref(c_void_p()), 64) == 900
    assert device.api.hipGetLastError() == 900
    assert device.api.hipStreamEndCapture(device.stream, byref(graph)) == 901
    assert device.api.hipGetLastError() == 901
    assert graph.value is None


def test_a_stream_captures_from_its_beginning_to_its_end(device: Device) -> None:
    assert device.capturing(device.stream) == 0
    device.begin()
    assert device.capturing(device.stream) == 1
    assert device.capturing(None) == 0
    device.end()
    assert device.capturing(device.stream) == 0


def test_a_capture_records_and_bears_what_other_streams_do(device: Device) -> None:
    device.begin()
    assert device.fill(2, device.stream) == 0
    assert device.value() == 0
    assert device.fill(4, None) == 0
    assert device.value() == 4
    graph = device.end()
    assert device.value() == 4
    assert device.api.hipGraphLaunch(device.executable(graph), None) == 0
    assert device.value() == 2


def test_what_is_wrong_with_work_is_said_while_it_is_captured(device: Device) -> None:
    device.begin()
    assert device.api.hipMemsetAsync(device.pointer, 1, SIZE + 1, device.stream) == 1
    assert device.api.hipMemcpyAsync(device.pointer, device.pointer, SIZE + 1, 3, device.stream) == 1
    assert device.api.hipMemcpyAsync(device.pointer, device.pointer, SIZE, 5, device.stream) == 21
    device.end()


def test_every_capture_of_the_thread_is_spoilt_and_no_other(device: Device) -> None:
    second, third = c_void_p(), c_void_p()
    for stream in (second, third):
        assert device.api.hipStreamCreate(byref(stream)) == 0
    device.begin()
    assert device.api.hipStreamBeginCapture(second, 1) == 0
    other = threading.Thread(target=lambda: device.api.hipStreamBeginCapture(third, 1))
    other.start()
    other.join()
    assert device.capturing(third) == 1
    assert device.api.hipStreamQuery(third) == 900
    graph = c_void_p()
    assert device.api.hipStreamEndCapture(device.stream, byref(graph)) == 901
    assert device.api.hipStreamEndCapture(second, byref(graph)) == 901
    assert device.api.hipStreamEndCapture(third, byref(graph)) == 0


def test_after_a_capture_the_thread_may_wait_and_allocate(device: Device) -> None:
    device.begin()
    device.end()
    assert device.api.hipStreamSynchronize(device.stream) == 0
    assert device.api.hipDeviceSynchronize() == 0
    assert device.api.hipMalloc(byref(c_void_p()), 64) == 0


def test_graphs_that_are_not_there(device: Device) -> None:
    executable = c_void_p()
    assert device.api.hipGraphInstantiate(byref(executable), UNKNOWN, None, None, 0) == 1
    assert device.api.hipGraphInstantiateWithFlags(byref(executable), UNKNOWN, 0) == 1
    assert executable.value is None
    for call in (device.api.hipGraphDestroy, device.api.hipGraphExecDestroy):
        assert (call(UNKNOWN), device.api.hipGetLastError()) == (1, 1)
    assert device.api.hipGraphLaunch(UNKNOWN, None) == 1
    assert device.api.hipGetLastError() == 1
    device.begin()
    graph = device.end()
    launchable = device.executable(graph)
    assert device.api.hipGraphLaunch(launchable, UNKNOWN) == 400
    assert device.api.hipGraphDestroy(graph) == 0
    assert device.api.hipGraphDestroy(graph) == 1
    assert device.api.hipGraphInstantiate(byref(executable), graph, None, None, 0) == 1
    assert device.api.hipGraphExecDestroy(launchable) == 0
    assert device.api.hipGraphExecDestroy(launchable) == 1


def test_each_graph_has_a_handle_of_its_own(device: Device) -> None:
    graphs = []
    for value in (3, 5):
        device.begin()
        assert device.fill(value, device.stream) == 0
        graphs.append(device.end())
    executables = [c_void_p(), c_void_p()]
    for executable, graph in zip(executables, graphs, strict=True):
        assert device.api.hipGraphInstantiateWithFlags(byref(executable), graph, 0) == 0
    for executable, value in zip(executables, (3, 5), strict=True):
        assert device.api.hipGraphLaunch(executable, device.stream) == 0
        assert device.value() == value


def test_a_replay_stops_at_the_first_error(device: Device) -> None:
    buffers = [device.allocate() for _ in range(4)]
    device.begin()
    for pointer in buffers:
        assert device.fill(6, device.stream, pointer) == 0
    executable = device.executable(device.end())
    assert device.api.hipFree(buffers[2]) == 0
    assert device.api.hipGraphLaunch(executable, None) == 1
    assert device.api.hipGetLastError() == 1
    assert [device.value(buffers[i]) for i in (0, 1, 3)] == [6, 6, 0]


def test_a_graph_that_is_launched_into_a_capture_becomes_part_of_it(device: Device) -> None:
    device.begin()
    assert device.fill(8, device.stream) == 0
    inner = device.executable(device.end())
    device.begin()
    assert device.api.hipGraphLaunch(inner, device.stream) == 0
    outer = device.executable(device.end())
    assert device.value() == 0
    assert device.api.hipGraphLaunch(outer, None) == 0
    assert device.value() == 8


def test_errors_are_remembered_until_they_are_asked_for(device: Device) -> None:
    assert device.api.hipPeekAtLastError() == 0
    assert device.api.hipStreamQuery(UNKNOWN) == 400
    assert device.api.hipStreamQuery(None) == 0
    assert (device.api.hipPeekAtLastError(), device.api.hipPeekAtLastError()) == (400, 400)
    assert (device.api.hipGetLastError(), device.api.hipPeekAtLastError()) == (400, 0)


ACTS = [
    "hipInit",
    "hipGetDeviceCount",
    "hipSetDevice",
    "hipGetDevice",
    "hipDeviceGetName",
    "hipDeviceGetPCIBusId",
    "hipDeviceTotalMem",
    "hipDeviceGetAttribute",
    "hipMemGetInfo",
    "hipMalloc",
    "hipHostMalloc",
    "hipMemcpy",
    "hipMemcpyAsync",
    "hipMemset",
    "hipMemsetAsync",
    "hipStreamCreate",
    "hipStreamSynchronize",
    "hipStreamQuery",
    "hipStreamWaitEvent",
    "hipDeviceSynchronize",
    "hipEventCreate",
    "hipEventRecord",
    "hipEventSynchronize",
    "hipEventQuery",
    "hipEventElapsedTime",
    "hipStreamBeginCapture",
    "hipStreamEndCapture",
    "hipStreamIsCapturing",
    "hipGraphInstantiate",
    "hipGraphLaunch",
]


@pytest.mark.parametrize("name", ACTS)
def test_an_injected_error_comes_instead_of_acting(device: Device, name: str) -> None:
    """Each function is called as it would succeed, and writes nothing."""
    start, stop = device.event(), device.event()
    assert device.api.hipEventRecord(start) == device.api.hipEventRecord(stop) == 0
    if name != "hipStreamBeginCapture":
        device.begin()
        graph = device.end()
        executable = device.executable(graph)
    if name == "hipStreamEndCapture":
        device.begin()
    out, size = (ctypes.c_uint64 * 8)(*[77] * 8), c_size_t(77)
    arguments: dict[str, tuple[object, ...]] = {
        "hipInit": (0,),
        "hipSetDevice": (0,),
        "hipDeviceGetName": (out, 64, 0),
        "hipDeviceGetPCIBusId": (out, 64, 0),
        "hipDeviceTotalMem": (out, 0),
        "hipDeviceGetAttribute": (out, hip.ATTRIBUTE_WARP_SIZE, 0),
        "hipMemGetInfo": (out, byref(size)),
        "hipMalloc": (out, 64),
        "hipHostMalloc": (out, 64),
        "hipMemcpy": (out, device.pointer, SIZE, 2),
        "hipMemcpyAsync": (out, device.pointer, SIZE, 2, None),
        "hipMemset": (device.pointer, 1, SIZE),
        "hipMemsetAsync": (device.pointer, 1, SIZE, None),
        "hipStreamSynchronize": (None,),
        "hipStreamQuery": (None,),
        "hipStreamWaitEvent": (None, start, 0),
        "hipDeviceSynchronize": (),
        "hipEventRecord": (start, None),
        "hipEventSynchronize": (start,),
        "hipEventQuery": (start,),
        "hipEventElapsedTime": (out, start, stop),
        "hipStreamBeginCapture": (device.stream, 1),
        "hipStreamEndCapture": (device.stream, out),
        "hipStreamIsCapturing": (None, out),
    }
    if name.startswith("hipGraph"):
        arguments |= {"hipGraphInstantiate": (out, graph), "hipGraphLaunch": (executable, None)}
    call, count = getattr(device.api, name), device.api.calls.get(name, 0)
    device.api.inject(name, count + 1, hip.NOT_READY)
    assert call(*arguments.get(name, (out,))) == 600
    assert device.api.calls[name] == count + 1
    assert device.api.hipGetLastError() == 600
    assert (list(out), size.value, device.value()) == ([77] * 8, 77, 0)
    assert call(*arguments.get(name, (out,))) == 0


@pytest.mark.parametrize("name", ["hipStreamDestroy", "hipEventDestroy", "hipGraphDestroy", "hipGraphExecDestroy"])
def test_what_is_ended_ends_on_a_lost_device_too(device: Device, name: str) -> None:
    device.begin()
    graph = device.end()
    handles = {"Stream": device.stream, "Event": device.event(), "Graph": graph, "GraphExec": device.executable(graph)}
    handle = handles[name.removeprefix("hip").removesuffix("Destroy")]
    device.api.inject(name, 0, hip.LAUNCH_FAILURE)
    assert getattr(device.api, name)(handle) == 0
    assert getattr(device.api, name)(handle) != 0
    assert device.api.calls[name] == 2


def test_an_error_may_be_injected_for_one_call_or_for_all(device: Device) -> None:
    device.api.inject("hipStreamQuery", 0, 719)
    device.api.inject("hipStreamQuery", 2, 700)
    assert [device.api.hipStreamQuery(None) for _ in range(3)] == [719, 700, 719]
    assert device.api.hipDeviceSynchronize() == 0
    device.api.calls.clear()  # a copy
    assert device.api.calls["hipStreamQuery"] == 3
