"""What a kernel finds of its launch: the packet, the arguments that HIP adds, the stack."""

from __future__ import annotations

import ctypes
import struct
from ctypes import byref, c_size_t, c_uint32, c_void_p
from dataclasses import replace

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import build
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.emulator.code_object import parse
from rocmforge.tools.emulator.dispatch import Size, user_registers

SOURCE = """
extern __shared__ u32 dynamic[];
KERNEL implicit(u8 *out) {
  const u8 *from = (const u8 *)__builtin_amdgcn_implicitarg_ptr();
  if (!out) dynamic[THREAD] = THREAD;
  out[THREAD] = from[THREAD];
}
KERNEL packet(u64 *out, u32 n) {
  __shared__ u32 fixed[25];
  const u64 *from = (const u64 *)__builtin_amdgcn_dispatch_ptr();
  if (n == 99) fixed[THREAD] = n;
  if (n == 98) out[1] = fixed[n & 15];
  if (THREAD < 8) out[THREAD] = from[THREAD];
  if (THREAD == 8) out[THREAD] = (u64)__builtin_amdgcn_kernarg_segment_ptr();
}
KERNEL spoil(u32 *out) { *(volatile u32 *)__builtin_amdgcn_kernarg_segment_ptr() = 5; }
KERNEL nothing() { }
KERNEL groups(u32 *out) { out[GROUP + 3 * __builtin_amdgcn_workgroup_id_z()] = GROUP + 1; }
KERNEL rows(u32 *out) { out[__builtin_amdgcn_workgroup_id_y()] = 1 + __builtin_amdgcn_workgroup_id_z(); }
__device__ __attribute__((noinline)) u32 ways(u32 n) {
  volatile u32 kept[16];
  kept[n & 15] = n;
  return n < 2 ? 1 : ways(n - 1) + ways(n - 2) + 0 * kept[n & 15];
}
KERNEL recurse(u32 *out, u32 n) { out[THREAD] = ways(n); }
"""


@pytest.fixture(params=["gfx1100", "gfx1201", "gfx942"])
def arch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Device:
    """A device with the kernels and 256 bytes to write to."""

    def __init__(self, arch: str) -> None:
        self.api, self.module, self.out = HipEmulator(arch, memory_bytes=1 << 20), c_void_p(), c_void_p()
        self.kernels = parse(build(SOURCE, arch)).kernels
        assert self.api.hipModuleLoadData(byref(self.module), build(SOURCE, arch)) == 0
        assert self.api.hipMalloc(byref(self.out), 256) == 0
        assert self.api.hipMemset(self.out, 0xCC, 256) == 0

    def function(self, name: str) -> c_void_p:
        function = c_void_p()
        assert self.api.hipModuleGetFunction(byref(function), self.module, name.encode()) == 0
        return function

    def launch(self, name: str, grid: Size, block: Size, shared: int = 0, number: int = 0) -> int:
        values = (self.out, c_uint32(number))
        table = (c_void_p * 2)(*(ctypes.addressof(value) for value in values))
        return self.api.hipModuleLaunchKernel(
            self.function(name), *grid, *block, shared_bytes=shared, stream=None, parameters=table, extra=None
        )

    def written(self) -> bytes:
        return ctypes.string_at(self.out.value or 0, 256)


def test_arguments_that_hip_adds(arch: str) -> None:
    """Offsets as LLVM's guide gives them for code objects of version 5: from the first hidden argument on."""
    device = Device(arch)
    assert device.launch("implicit", (3, 5, 7), (64, 2, 2), 1024) == 0
    found = device.written()[:64]
    assert struct.unpack_from("<3I6H", found) == (3, 5, 7, 64, 2, 2, 0, 0, 0)
    assert struct.unpack_from("<2Q", found, 40) == (0, 0)
    assert device.launch("implicit", (3, 1, 1), (256, 1, 1), 1024) == 0
    found = device.written()
    assert struct.unpack_from("<3I6H", found) == (3, 1, 1, 256, 1, 1, 0, 0, 0)
    assert struct.unpack_from("<3QH", found, 40) == (0, 0, 0, 3)
    assert struct.unpack_from("<5QI", found, 80) == (0, 0, 0, 0, 0, 1024)


def test_the_packet_of_a_launch(arch: str) -> None:
    """As the HSA specification has it, which HIP fills in."""
    device = Device(arch)
    kernel = device.kernels["packet"]
    assert (kernel.lds_bytes, kernel.scratch_bytes) == (100, 0)
    assert device.launch("packet", (2, 3, 5), (64, 2, 4), 28) == 0
    found = device.written()
    kernarg = struct.unpack_from("<Q", found, 64)[0]
    dispatch = 2, 3, 64, 2, 4, 0, 128, 6, 20, 0, 128, 0, kernarg, 0, 0
    assert struct.unpack_from("<6H5I4Q", found) == dispatch
    traffic = device.api.counters()["packet"].by_allocation
    assert set(traffic) == {"kernarg", f"device {device.out.value:#x}"}
    assert traffic["kernarg"][0].instructions > 0


def test_a_kernel_cannot_write_its_arguments(arch: str) -> None:
    device = Device(arch)
    assert device.launch("spoil", (1, 1, 1), (1, 1, 1)) == 700
    assert device.api.fault is not None
    assert device.api.fault.kind == "read-only"
    assert "write of 4 bytes at 0x" in device.api.fault.message
    assert ": read-only; workgroup (0, 0, 0), wave 0, lane 0" in device.api.fault.message


def test_recursion_has_a_stack_beyond_what_is_known_before(arch: str) -> None:
    device = Device(arch)
    assert device.kernels["recurse"].scratch_bytes < 13 * 64
    assert device.launch("recurse", (1, 1, 1), (64, 1, 1), number=12) == 0
    assert set(np.frombuffer(device.written(), np.uint32).tolist()) == {233}  # Fibonacci's


def test_ids_of_groups_whatever_other_ids_a_kernel_asks_for(arch: str) -> None:
    device = Device(arch)
    assert device.launch("groups", (3, 2, 4), (1, 1, 1)) == 0
    assert np.frombuffer(device.written(), np.uint32)[:12].tolist() == [1, 2, 3] * 4
    for group in range(4):
        assert device.launch("rows", (2, 5, group + 1), (1, 1, 1)) == 0
    assert all(1 <= value <= 4 for value in np.frombuffer(device.written(), np.uint32)[:5])
    assert device.launch("rows", (2, 5, 1), (1, 1, 1)) == 0
    assert np.frombuffer(device.written(), np.uint32)[:5].tolist() == [1] * 5


@pytest.mark.parametrize(
    ("properties", "count", "expected"),
    [
        (0, 0, []),
        (0, 2, [0, 0]),
        (1, 4, [0, 0, 0, 0]),
        (2, 3, [0x40, 7, 0]),
        (2 + 8, 4, [0x40, 7, 0x80, 9]),
        (1 + 2 + 4 + 8 + 16 + 32 + 64, 16, [0, 0, 0, 0, 0x40, 7, 0, 0, 0x80, 9, 0, 0, 0, 0, 33, 0]),
        (2 + 4 + 8, 6, [0x40, 7, 0, 0, 0x80, 9]),
        (8 + 16, 31, [0x80, 9, *[0] * 29]),
        (16 + 64, 3, [0, 0, 33]),
        (32 + 64, 4, [0, 0, 33, 0]),
        (128 + 8, 2, [0x80, 9]),
        (2 + 8, 2, [0x40, 7]),
    ],
)
def test_scalars_that_a_kernel_begins_with(properties: int, count: int, expected: list[int]) -> None:
    """LLVM's guide: buffer of scratch, packet, queue, arguments, id of the dispatch, scratch, bytes of scratch."""
    kernel = parse(build(SOURCE, "gfx1100")).kernels["nothing"]
    for other in (0, 1, 1 << 6):  # bits beside the count
        changed = replace(kernel, properties=properties, rsrc2=count << 1 | other)
        assert user_registers(changed, 0x7_0000_0040, 0x9_0000_0080, 33) == expected


def test_kernels_without_arguments_need_none() -> None:
    device = Device("gfx1100")
    for parameters in (None, (c_void_p * 1)()):
        launch = device.api.hipModuleLaunchKernel
        assert launch(device.function("nothing"), 1, 1, 1, 1, 1, 1, 0, None, parameters, None) == 0
    assert device.api.counters()["nothing"].launches == 2


@pytest.mark.parametrize(("size", "code"), [(12, 0), (65536, 0), (65537, 1)])
def test_the_segment_of_arguments_has_an_end(size: int, code: int) -> None:
    device, length = Device("gfx1100"), c_size_t(size)
    arguments = ctypes.create_string_buffer(struct.pack("<QI", device.out.value or 0, 10), 1 << 17)
    extra = (c_void_p * 5)(1, ctypes.addressof(arguments), 2, ctypes.addressof(length), 3)
    launch = device.api.hipModuleLaunchKernel
    assert launch(device.function("recurse"), 1, 1, 1, 64, 1, 1, 0, None, None, extra) == code
    assert device.api.counters()["recurse"].launches == 1 - code
    if code:
        assert device.api.hipGetErrorString(1) == b"invalid argument: kernel recurse: 65537 bytes of arguments"
    else:
        assert set(np.frombuffer(device.written(), np.uint32).tolist()) == {89}
