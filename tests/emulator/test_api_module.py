"""Modules, kernels and launches of the emulated HIP: what is found, what is refused, and in which words."""

from __future__ import annotations

import ctypes
import mmap
from ctypes import byref, c_size_t, c_uint, c_uint32, c_uint64, c_void_p

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu, build
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.emulator.code_object import parse
from rocmforge.tools.emulator.library import Library

SOURCE = """
__device__ u32 counter = 7;
__device__ u64 pair[2] = {3, 4};
extern __shared__ u32 dynamic[];
KERNEL put(u32 *out, u32 value) { out[THREAD] = value + counter; }
KERNEL none() { }
KERNEL shared(u32 *out) { __shared__ u32 kept[1000]; kept[THREAD] = 1; dynamic[THREAD] = 2; out[THREAD] = kept[0]; }
extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(1, 64))) void narrow() { }
KERNEL first_of(u32 *out, const u32 *in) { out[THREAD] = in[1]; }
"""
UNKNOWN = c_void_p(12345)


class Device:
    """A device with the module and 64 numbers."""

    def __init__(self) -> None:
        self.api, self.module, self.out = (
            HipEmulator("gfx1100", memory_bytes=1 << 20, threads=1),
            c_void_p(),
            c_void_p(),
        )
        assert self.api.hipModuleLoadData(byref(self.module), build(SOURCE, "gfx1100")) == 0
        assert self.api.hipMalloc(byref(self.out), 256) == 0
        assert self.api.hipMemset(self.out, 0, 256) == 0

    def function(self, name: bytes) -> c_void_p:
        function = c_void_p()
        assert self.api.hipModuleGetFunction(byref(function), self.module, name) == 0
        return function

    def launch(self, name: bytes, *numbers: object, stream: c_void_p | None = None) -> int:
        """Launch with grid, block and bytes of LDS; the kernels take an output and perhaps a number."""
        values = (self.out, c_uint32(30))
        table = (c_void_p * 2)(*(ctypes.addressof(value) for value in values))
        call = [self.function(name), *numbers, stream, table, None]
        return self.api.hipModuleLaunchKernel(*call)

    def message(self, code: int = 1) -> str:
        return self.api.hipGetErrorString(code).decode()

    def values(self) -> set[int]:
        return set(np.frombuffer(ctypes.string_at(self.out.value or 0, 256), np.uint32).tolist())


@pytest.fixture
def device() -> Device:
    return Device()


def test_kernels_are_found_by_name(device: Device) -> None:
    function, again, other = c_void_p(), c_void_p(), c_void_p()
    find = device.api.hipModuleGetFunction
    assert find(byref(function), device.module, b"put") == 0
    assert find(byref(again), device.module, ctypes.c_char_p(b"put")) == 0
    assert find(byref(other), device.module, b"none") == 0
    assert function.value == again.value != other.value
    nowhere = c_void_p()
    assert find(byref(nowhere), device.module, b"nothing") == 500
    assert (device.message(500), device.api.hipGetLastError()) == ("named symbol not found: no kernel 'nothing'", 500)
    assert find(byref(nowhere), device.module, b"") == 1
    assert device.api.hipGetLastError() == 1
    assert find(byref(nowhere), UNKNOWN, b"put") == 400
    assert device.api.hipGetLastError() == 400
    assert nowhere.value is None


def test_variables_are_found_by_name(device: Device) -> None:
    place, size, one = c_void_p(), c_size_t(), c_uint64()
    find = device.api.hipModuleGetGlobal
    for name in (b"pair", "pair"):
        assert find(byref(place), byref(size), device.module, name) == 0
        assert size.value == 16
    assert device.api.hipMemcpyDtoH(byref(one), c_void_p((place.value or 0) + 8), 8) == 0
    assert one.value == 4
    for module, name, code in ((device.module, b"nothing", 500), (UNKNOWN, b"pair", 400)):
        assert find(byref(c_void_p()), byref(c_size_t()), module, name) == code
        assert device.api.hipGetLastError() == code


def test_a_module_that_is_unloaded_is_gone(device: Device) -> None:
    place, size, copy = c_void_p(), c_size_t(), c_uint64()
    assert device.api.hipModuleGetGlobal(byref(place), byref(size), device.module, b"pair") == 0
    image = c_void_p((place.value or 0) - parse(build(SOURCE, "gfx1100")).symbols["pair"][0])
    for free in (device.api.hipFree, device.api.hipHostFree):
        assert (free(image), free(place)) == (1, 1)
    functions = [device.function(b"put"), device.function(b"none")]
    device.api.inject("hipModuleUnload", 0, 719)  # a lost device too is cleaned up
    assert device.api.hipModuleUnload(device.module) == 0
    assert device.api.hipModuleUnload(device.module) == 400
    assert device.api.hipGetLastError() == 400
    assert device.api.calls["hipModuleUnload"] == 2
    for function in functions:
        assert device.api.hipModuleLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 400
    assert device.api.hipMemcpyDtoH(byref(copy), place, 8) == 1
    assert device.api.hipModuleGetFunction(byref(c_void_p()), device.module, b"put") == 400


@pytest.mark.parametrize("name", ["hipModuleLoadData", "hipModuleGetFunction", "hipModuleGetGlobal"])
def test_an_injected_error_comes_instead_of_a_handle(device: Device, name: str) -> None:
    out, size = c_void_p(77), c_size_t(77)
    arguments = {
        "hipModuleLoadData": (byref(out), build(SOURCE, "gfx1100")),
        "hipModuleGetFunction": (byref(out), device.module, b"put"),
        "hipModuleGetGlobal": (byref(out), byref(size), device.module, b"pair"),
    }[name]
    device.api.inject(name, device.api.calls.get(name, 0) + 1, 719)
    assert getattr(device.api, name)(*arguments) == 719
    assert (out.value, size.value) == (77, 77)
    assert getattr(device.api, name)(*arguments) == 0
    assert out.value != 77


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((1, 1, 1, 64, 1, 1, 0), 0),
        ((c_uint(1), 1, 1, c_uint(64), 1, 1, c_uint(4)), 0),
        ((0, 1, 1, 64, 1, 1, 0), 1),
        ((1, 0, 1, 64, 1, 1, 0), 1),
        ((1, 1, 0, 64, 1, 1, 0), 1),
        ((1, 1, 1, 0, 1, 1, 0), 1),
        ((1, 1, 1, 64, 0, 1, 0), 1),
        ((1, 1, 1, 64, 1, 0, 0), 1),
        ((1, 1, 1, 64, 1, -1, 0), 1),
        ((1, 1, 1, 1024, 1, 1, 0), 0),
        ((1, 1, 1, 2, 16, 32, 0), 0),
        ((1, 1, 1, 1025, 1, 1, 0), 9),
        ((1, 1, 1, 32, 32, 2, 0), 9),
        ((1, 1, 1, 2, 32, 32, 0), 9),
        ((0xFFFFFFFF, 1, 1, 1, 1, 1, 0), 0),
        ((1 << 32, 1, 1, 1, 1, 1, 0), 1),
        ((1 << 26, 1, 1, 64, 1, 1, 0), 1),
        ((1, 1 << 26, 1, 1, 64, 1, 0), 1),
        ((1, 1, 1 << 26, 1, 1, 64, 0), 1),
        ((1 << 31, 1 << 31, 1 << 31, 1, 1, 1, 0), 0),
        ((1, 1, 1, 64, 1, 1, 65536), 0),
        ((1, 1, 1, 64, 1, 1, 65537), 1),
    ],
)
def test_sizes_of_launches(device: Device, numbers: tuple[object, ...], code: int) -> None:
    """They are looked at while a stream captures, which spares running those that are right."""
    stream = c_void_p()
    assert device.api.hipStreamCreate(byref(stream)) == 0
    assert device.api.hipStreamBeginCapture(stream, 1) == 0
    assert device.launch(b"put", *numbers, stream=stream) == code
    assert device.api.hipGetLastError() == code
    assert device.api.hipStreamEndCapture(stream, byref(c_void_p())) == 0


def test_a_launch_that_is_refused_says_why(device: Device) -> None:
    assert device.launch(b"put", 2, 3, 0, 4, 5, 6, 0) == 1
    assert device.message() == "invalid argument: grid (2, 3, 0), block (4, 5, 6)"
    # The kernel has 4000 bytes of its own.
    assert device.launch(b"shared", 1, 1, 1, 32, 1, 1, 65536 - 4000) == 0
    assert device.launch(b"shared", 1, 1, 1, 32, 1, 1, 65536 - 4000 + 4) == 1
    assert device.message() == "invalid argument: 65540 bytes of LDS"
    assert (device.launch(b"narrow", 1, 1, 1, 64, 1, 1, 0), device.launch(b"narrow", 1, 1, 1, 65, 1, 1, 0)) == (0, 1)
    assert device.api.hipModuleLaunchKernel(UNKNOWN, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 400
    assert device.api.hipGetLastError() == 400


def test_a_block_that_is_too_large_has_another_error_in_a_capture(device: Device) -> None:
    """As HIP 7.2.4 has it."""
    stream, graph = c_void_p(), c_void_p()
    assert device.api.hipStreamCreateWithFlags(byref(stream), 1) == 0
    assert device.launch(b"put", 1, 1, 1, 1025, 1, 1, 0, stream=stream) == 1
    assert device.api.hipStreamBeginCapture(stream, 1) == 0
    assert device.launch(b"put", 1, 1, 1, 1025, 1, 1, 0, stream=stream) == 9
    assert device.launch(b"put", 0, 1, 1, 32, 1, 1, 0, stream=stream) == 1
    assert device.api.hipStreamEndCapture(stream, byref(graph)) == 0
    assert device.launch(b"put", 1, 1, 1, 1025, 1, 1, 0, stream=stream) == 1


def test_a_launch_on_a_lost_device(device: Device) -> None:
    device.api.inject("hipModuleLaunchKernel", 1, 719)
    assert device.launch(b"put", 1, 1, 1, 64, 1, 1, 0) == 719
    assert device.values() == {0}
    assert device.launch(b"put", 1, 1, 1, 64, 1, 1, 0) == 0
    assert device.values() == {37}
    assert device.launch(b"put", 1, 1, 1, 64, 1, 1, 0, stream=UNKNOWN) == 400


def test_variables_are_counted_as_code(device: Device) -> None:
    assert device.launch(b"put", 1, 1, 1, 64, 1, 1, 0) == 0
    traffic = device.api.counters()["put"].by_allocation
    assert set(traffic) == {"kernarg", "code", f"device {device.out.value:#x}"}
    assert (traffic["code"][0].bytes >= 4, traffic["code"][1].bytes) == (True, 0)


def test_arguments_that_are_missing(device: Device) -> None:
    function, launch = device.function(b"put"), device.api.hipModuleLaunchKernel
    value = c_uint32(1)
    for table in (None, (c_void_p * 2)(), (c_void_p * 2)(ctypes.addressof(device.out))):
        assert launch(function, 1, 1, 1, 64, 1, 1, 0, None, table, None) == 1
        assert device.api.hipGetLastError() == 1
    assert launch(function, 1, 1, 1, 64, 1, 1, 0, None, (c_void_p * 2)(0, ctypes.addressof(value)), None) == 1
    assert device.values() == {0}


def test_a_buffer_of_arguments_in_any_order(device: Device) -> None:
    function, launch = device.function(b"put"), device.api.hipModuleLaunchKernel
    buffer = np.array([device.out.value or 0, 50], np.uint64)
    at, size = buffer.ctypes.data, c_size_t(12)
    pointer, length = (1, at), (2, ctypes.addressof(size))
    for words, code in (
        ((*pointer, *length, 3), 0),
        ((*length, *pointer, 3), 0),
        ((*length, *pointer, 0), 0),
        ((*length, 3, *pointer), 1),
        ((*length, 0, *pointer, 3), 1),
        ((3, *length, *pointer), 1),
        ((1, 0, *length, 3), 1),
    ):
        assert device.api.hipMemset(device.out, 0, 256) == 0
        extra = (c_void_p * 8)(*words)
        assert launch(function, 1, 1, 1, 64, 1, 1, 0, None, None, extra) == code
        assert device.values() == {0 if code else 57}
    # The buffer counts where both are given.
    table = (c_void_p * 2)(ctypes.addressof(device.out), ctypes.addressof(c_uint32(1)))
    extra = (c_void_p * 5)(*pointer, *length, 3)
    assert launch(function, 1, 1, 1, 64, 1, 1, 0, None, table, extra) == 0
    assert device.values() == {57}


def test_a_buffer_that_is_too_short_is_filled_with_zeros(device: Device) -> None:
    function, launch = device.function(b"put"), device.api.hipModuleLaunchKernel
    assert device.launch(b"put", 1, 1, 1, 64, 1, 1, 0) == 0
    at, size = c_uint64(device.out.value or 0), c_size_t(8)
    extra = (c_void_p * 5)(1, ctypes.addressof(at), 2, ctypes.addressof(size), 3)
    assert launch(function, 1, 1, 1, 64, 1, 1, 0, None, None, extra) == 0
    assert device.values() == {7}


def test_a_host_without_memory_cannot_load_or_run(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Cannot allocate memory")

    module = c_void_p()
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", refuse)
        assert device.api.hipModuleLoadData(byref(module), build(SOURCE, "gfx1100")) == 2
        assert (module.value, device.api.hipGetLastError()) == (None, 2)
    monkeypatch.setattr(Library, "run", lambda *_: -1)
    assert device.launch(b"put", 1, 1, 1, 64, 1, 1, 0) == 2
    assert device.api.fault is None


def test_images_that_are_none(device: Device) -> None:
    module, good = c_void_p(), build(SOURCE, "gfx1100")
    for image, words in (
        (None, "not an ELF"),
        (ctypes.cast(ctypes.create_string_buffer(b"\x7fELX" + bytes(100)), c_void_p), "not an ELF"),
        (b"\x7fELF" + bytes(100), "not a 64-bit little-endian ELF"),
    ):
        assert device.api.hipModuleLoadData(byref(module), image) == 200
        assert device.message(200) == f"device kernel image is invalid: {words}"
        assert device.api.hipGetLastError() == 200
    # Of an image at a pointer is read what its header tells, wherever that ends: here a page that cannot be read.
    size = -(-len(good) // mmap.PAGESIZE) * mmap.PAGESIZE
    with mmap.mmap(-1, size) as pages:
        pages[size - len(good) :] = good
        at = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + size - len(good)
        assert device.api.hipModuleLoadData(byref(module), c_void_p(at)) == 0


def test_waves_that_the_device_has_not() -> None:
    good = build("KERNEL nothing() { }", "gfx942")
    field = b".wavefront_size\x40"
    assert good.count(field) == 1
    api, module = HipEmulator("gfx942", threads=1), c_void_p()
    assert api.hipModuleLoadData(byref(module), good.replace(field, b".wavefront_size\x20")) == 0
    assert api.hipModuleGetFunction(byref(c_void_p()), module, b"nothing") == 200
    assert api.hipGetErrorString(200) == b"device kernel image is invalid: waves of 32 on gfx942"


@pytest.mark.parametrize("wait", [None, "hipStreamSynchronize", "hipDeviceSynchronize"])
def test_what_the_host_has_just_written_is_not_read_by_scalar_loads(wait: str | None) -> None:
    """Their cache may hold what was there before: whoever copies in stream order waits first."""
    gpu, out, pointer = Gpu(SOURCE, "gfx1100"), np.zeros(32, np.uint32), c_void_p()
    numbers = np.arange(5, 10, dtype=np.uint32)
    gpu.check(gpu.api.hipMalloc(byref(pointer), numbers.nbytes))
    gpu.check(gpu.api.hipMemcpyAsync(pointer, c_void_p(numbers.ctypes.data), numbers.nbytes, 1, None))
    if wait:
        gpu.check(getattr(gpu.api, wait)(*([None] if wait == "hipStreamSynchronize" else [])))
    assert gpu.launch("first_of", 1, 32, out, pointer) == (0 if wait else 719)
    if wait:
        assert set(out.tolist()) == {6}
    else:
        assert gpu.api.fault is not None
        assert gpu.api.fault.kind == "fresh"
        assert ", which the host has just written; " in gpu.api.fault.message
        assert f"scalar read of 4 bytes at {(pointer.value or 0) + 4:#x}" in gpu.api.fault.message


@pytest.mark.parametrize("kind", [0, 2, 3, 4])
def test_copies_of_other_kinds_are_not_the_hosts(kind: int) -> None:
    gpu, out, pointers = Gpu(SOURCE, "gfx1100"), np.zeros(32, np.uint32), (c_void_p(), c_void_p())
    for pointer, value in zip(pointers, (1, 2), strict=True):
        gpu.check(gpu.api.hipMalloc(byref(pointer), 64))
        gpu.check(gpu.api.hipMemset(pointer, value, 64))
    gpu.check(gpu.api.hipMemcpyAsync(*pointers, 64, kind, None))
    gpu.run("first_of", 1, 32, out, pointers[0])
    assert set(out.tolist()) == {0x02020202}
