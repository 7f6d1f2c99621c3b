"""What the emulated HIP tells of its device, of errors and of what was run."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from ctypes import byref, c_char, c_int, c_size_t, c_void_p

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu, build
from rocmforge.tools.emulator import HipEmulator, dispatch

# hipDeviceAttribute_t of HIP 6, by hand.
ATTRIBUTES = {
    5: 2_500_000,  # kHz
    16: 0,
    19: 6 << 20,
    26: 1024,
    27: 1024,
    28: 1024,
    29: 0x7FFFFFFF,
    30: 0x7FFFFFFF,
    31: 0x7FFFFFFF,
    56: 1024,
    57: 2048,
    59: 384,
    60: 1_250_000,
    63: 48,
    67: 3,
    68: 0,
    69: 0,
    85: 1,
}
ERRORS = [
    (0, "hipSuccess", "no error"),
    (1, "hipErrorInvalidValue", "invalid argument"),
    (2, "hipErrorOutOfMemory", "out of memory"),
    (3, "hipErrorNotInitialized", "initialization error"),
    (4, "hipErrorDeinitialized", "driver shutting down"),
    (9, "hipErrorInvalidConfiguration", "invalid configuration argument"),
    (21, "hipErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"),
    (98, "hipErrorInvalidDeviceFunction", "invalid device function"),
    (100, "hipErrorNoDevice", "no ROCm-capable device is detected"),
    (101, "hipErrorInvalidDevice", "invalid device ordinal"),
    (200, "hipErrorInvalidImage", "device kernel image is invalid"),
    (201, "hipErrorInvalidContext", "invalid device context"),
    (209, "hipErrorNoBinaryForGpu", "no kernel image is available for execution on the device"),
    (214, "hipErrorECCNotCorrectable", "uncorrectable ECC error encountered"),
    (218, "hipErrorInvalidKernelFile", "invalid kernel file"),
    (303, "hipErrorSharedObjectInitFailed", "shared object initialization failed"),
    (400, "hipErrorInvalidHandle", "invalid resource handle"),
    (401, "hipErrorIllegalState", "the operation cannot be performed in the present state"),
    (500, "hipErrorNotFound", "named symbol not found"),
    (600, "hipErrorNotReady", "device not ready"),
    (700, "hipErrorIllegalAddress", "an illegal memory access was encountered"),
    (701, "hipErrorLaunchOutOfResources", "too many resources requested for launch"),
    (702, "hipErrorLaunchTimeOut", "the launch timed out and was terminated"),
    (709, "hipErrorContextIsDestroyed", "context is destroyed"),
    (710, "hipErrorAssert", "device-side assert triggered"),
    (719, "hipErrorLaunchFailure", "unspecified launch failure"),
    (720, "hipErrorCooperativeLaunchTooLarge", "too many blocks in cooperative launch"),
    (801, "hipErrorNotSupported", "operation not supported"),
    (900, "hipErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    (901, "hipErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"),
    (
        906,
        "hipErrorStreamCaptureImplicit",
        "operation would make the legacy stream depend on a capturing blocking stream",
    ),
    (999, "hipErrorUnknown", "unknown error"),
    (12345, "hipErrorUnknown", "unknown error"),
]
SOURCE = """
KERNEL work(u32 *out, const u32 *in) {
  __shared__ u32 kept[1024];
  kept[2 * THREAD] = in[THREAD];
  BARRIER;
  out[THREAD] = kept[2 * THREAD];
}
KERNEL other(u32 *out) { out[THREAD] = 1; }
"""


@pytest.fixture
def api() -> HipEmulator:
    return HipEmulator("gfx1100", memory_bytes=1 << 20, threads=1)


@pytest.mark.parametrize(("code", "name", "text"), ERRORS)
def test_errors_have_the_names_and_texts_of_hip(api: HipEmulator, code: int, name: str, text: str) -> None:
    for number in (code, c_int(code)):
        assert api.hipGetErrorName(number) == name.encode()
        assert api.hipGetErrorString(number) == text.encode()


def attribute(api: HipEmulator, number: object) -> int:
    value = c_int(-1)
    assert api.hipDeviceGetAttribute(byref(value), number, 0) == 0
    return value.value


@pytest.mark.parametrize(
    ("arch", "major", "minor", "wave", "lds"),
    [
        ("gfx1100", 11, 0, 32, 65536),
        ("gfx1103", 11, 0, 32, 65536),
        ("gfx1151", 11, 5, 32, 65536),
        ("gfx1201", 12, 0, 32, 65536),
        ("gfx942", 9, 4, 64, 65536),
        ("gfx950", 9, 5, 64, 163840),
    ],
)
def test_attributes(arch: str, major: int, minor: int, wave: int, lds: int) -> None:
    api = HipEmulator(arch, threads=1)
    own = {23: major, 61: minor, 87: wave, 74: lds, 10002: lds}
    for number, expected in (ATTRIBUTES | own).items():
        assert (number, attribute(api, number)) == (number, expected)
    assert attribute(api, c_int(87)) == wave


def test_attributes_that_are_not_told(api: HipEmulator) -> None:
    value = c_int(-1)
    assert api.hipDeviceGetAttribute(byref(value), 4242, 0) == 1
    assert api.hipGetLastError() == 1
    assert api.hipDeviceGetAttribute(byref(value), 87, 1) == 101
    assert api.hipGetLastError() == 101
    assert value.value == -1


def test_there_is_one_device(api: HipEmulator) -> None:
    count, device, total, out = c_int(-1), c_int(-1), c_size_t(77), (c_char * 64)()
    assert api.hipInit(0) == 0
    assert (api.hipGetDeviceCount(byref(count)), count.value) == (0, 1)
    assert (api.hipGetDevice(byref(device)), device.value) == (0, 0)
    assert (api.hipSetDevice(c_int(0)), api.hipSetDevice(-1)) == (0, 101)
    assert api.hipGetLastError() == 101
    assert (api.hipDeviceTotalMem(byref(total), 1), total.value) == (101, 77)
    assert (api.hipDeviceTotalMem(byref(total), 0), total.value) == (0, 1 << 20)
    for call in (api.hipDeviceGetName, api.hipDeviceGetPCIBusId):
        assert (call(out, 64, 1), out.value) == (101, b"")


@pytest.mark.parametrize(
    ("function", "text"), [("hipDeviceGetName", b"Emulated gfx1100"), ("hipDeviceGetPCIBusId", b"0000:03:00.0")]
)
def test_texts_are_cut_to_their_room(api: HipEmulator, function: str, text: bytes) -> None:
    """The last byte is always zero, and nothing is written behind it."""
    for size in (1, 5, len(text), len(text) + 1, len(text) + 2):
        out = (c_char * 40)(*[b"x"] * 40)
        assert getattr(api, function)(out, c_int(size), 0) == 0
        written = text[: size - 1] + b"\0"
        assert out.raw == written + b"x" * (40 - len(written))
    for size in (0, -1):
        assert getattr(api, function)(out, size, 0) == 1
        assert api.hipGetLastError() == 1


def test_versions_are_the_same(api: HipEmulator) -> None:
    runtime, driver = c_int(), c_int()
    assert (api.hipRuntimeGetVersion(byref(runtime)), api.hipDriverGetVersion(byref(driver))) == (0, 0)
    assert runtime.value == driver.value == 60_400_000


def test_a_device_that_nobody_described() -> None:
    api, pointer = HipEmulator(), c_void_p()
    assert (api.arch, api.fault, api.live_allocations, api.live_bytes) == ("gfx1100", None, 0, 0)
    assert api.hipPeekAtLastError() == 0
    assert api.hipMalloc(byref(pointer), 100) == 0
    assert (api.live_allocations, api.live_bytes) == (1, 100)
    total = c_size_t()
    assert (api.hipDeviceTotalMem(byref(total), 0), total.value) == (0, 8 << 30)


def test_labels_are_those_of_allocations(api: HipEmulator) -> None:
    pointer = c_void_p()
    with pytest.raises(KeyError, match="no allocation at 0x3039"):
        api.label(c_void_p(12345), "x")
    assert api.hipMalloc(byref(pointer), 100) == 0
    api.label(c_void_p((pointer.value or 0) + 99), "x")
    with pytest.raises(KeyError, match="no allocation at 0x"):
        api.label(c_void_p((pointer.value or 0) + 100), "x")


def test_counts_of_a_kernel_are_summed_over_its_modules() -> None:
    """32 lanes store and load every second word of LDS: two to a bank, one cycle more for each instruction."""
    gpu, second, function = Gpu(SOURCE, "gfx1100", threads=2), c_void_p(), c_void_p()
    out, values = np.zeros(64, np.uint32), np.arange(64, dtype=np.uint32)
    gpu.run("work", 1, 64, out, values)
    assert gpu.api.hipModuleLoadData(byref(second), build(SOURCE, "gfx1100")) == 0
    gpu.module = second
    gpu.run("work", 3, 64, out, values)
    gpu.check(gpu.api.hipModuleGetFunction(byref(function), gpu.module, b"other"))
    found = gpu.api.counters()
    assert set(found) == {"work", "other"}
    work = found["work"]
    assert (work.launches, work.waves, work.barriers) == (2, 8, 8)
    assert (work.lds_instructions, work.lds_bytes, work.lds_conflict_cycles) == (16, 16 * 128, 16)
    assert (work.instructions["lds"], work.instructions["vmem"]) == (16, 16)
    assert work.total_instructions == sum(work.instructions.values()) > 48
    loads, stores = work.by_allocation["array 1"][0], work.by_allocation["array 0"][1]
    for count in (loads, stores, work.stores):
        assert (count.instructions, count.bytes, count.transactions) == (8, 8 * 128, 8)
        assert count.full_transactions == 8
    assert (loads.distinct_lines, stores.distinct_lines, work.stores.distinct_lines) == (4, 4, 4)
    scalar = work.by_allocation["kernarg"][0]
    assert (work.loads.instructions, scalar.bytes > 0) == (8 + scalar.instructions, True)
    assert work.loads.bytes == loads.bytes + scalar.bytes
    assert work.by_allocation["array 0"][0].instructions == work.by_allocation["array 1"][1].instructions == 0
    assert 0 < work.seconds < 60
    idle = found["other"]
    assert (idle.launches, idle.waves, idle.barriers, idle.total_instructions) == (0, 0, 0, 0)
    assert (idle.lds_instructions, idle.lds_bytes, idle.lds_conflict_cycles, idle.seconds) == (0, 0, 0, 0)
    assert idle.loads.instructions == idle.stores.bytes == 0
    gpu.api.reset_counters()
    again = gpu.api.counters()["work"]
    assert (again.launches, again.seconds, again.by_allocation, again.total_instructions) == (0, 0, {}, 0)


def test_a_profile_is_that_of_the_last_module() -> None:
    gpu, second = Gpu(SOURCE, "gfx1100"), c_void_p()
    gpu.run("other", 2, 32, np.zeros(32, np.uint32))
    first = gpu.api.profile("other")
    assert first[0][0] == 0
    assert [offset for offset, _, _ in first] == sorted({offset for offset, _, _ in first})
    assert {count for _, name, count in first if name == "global_store_b32"} == {2}
    assert gpu.api.hipModuleLoadData(byref(second), build(SOURCE, "gfx1100")) == 0
    assert gpu.api.hipModuleGetFunction(byref(c_void_p()), second, b"other") == 0
    assert {count for _, _, count in gpu.api.profile("other")} == {0}
    with pytest.raises(KeyError):
        gpu.api.profile("nothing")


@pytest.mark.parametrize(
    ("asked", "processors", "expected"), [(0, 3, [3]), (2, 3, [2]), (5, 3, [5]), (1, 3, []), (0, None, []), (0, 1, [])]
)
def test_groups_run_on_as_many_threads_as_asked_for(
    asked: int, processors: int | None, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0: as many as there are processors. One alone is the caller's."""
    made = []

    def pool(max_workers: int) -> ThreadPoolExecutor:
        made.append(max_workers)
        return ThreadPoolExecutor(max_workers)

    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setattr(dispatch, "ThreadPoolExecutor", pool)
    gpu, out = Gpu(SOURCE, "gfx1100", threads=asked), np.zeros(32, np.uint32)
    gpu.run("other", 8, 32, out)
    assert set(out.tolist()) == {1}
    assert made == expected
    if not asked:
        HipEmulator()
        assert made == 2 * expected


def test_a_pool_that_takes_nothing_more_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is while the interpreter ends."""

    def submit(*_: object) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    gpu, out, values = Gpu(SOURCE, "gfx1100", threads=3), np.zeros(64, np.uint32), np.arange(64, dtype=np.uint32)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit)
    gpu.run("work", 5, 64, out, values)
    assert out.tolist() == values.tolist()
    assert gpu.api.counters()["work"].waves == 10


def test_a_reset_forgets_the_fault(api: HipEmulator) -> None:
    gpu = Gpu(SOURCE, "gfx1100")
    assert gpu.launch("other", 1, 64, np.zeros(32, np.uint32)) == 700
    assert gpu.api.fault is not None
    assert gpu.api.hipDeviceSynchronize() == 700
    assert gpu.api.hipDeviceReset() == 0
    assert gpu.api.hipDeviceSynchronize() == 0
    fault: object = gpu.api.fault
    assert fault is None
    assert b"memory access was encountered: kernel other+0x" in gpu.api.hipGetErrorString(700)
    gpu.run("other", 1, 32, np.zeros(32, np.uint32))
