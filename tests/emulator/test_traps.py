"""What the emulator traps: each fault names kernel, instruction, workgroup, wave and lane. And what it counts."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu, build
from rocmforge.tools.emulator import HipEmulator

SOURCE = """
KERNEL read_at(u32 *out, const u8 *in, u64 offset) { out[THREAD] = *(const u32 *)(in + offset + 4 * THREAD); }
KERNEL write_at(u32 *out, u64 offset) { *(u32 *)((u8 *)out + offset + 4 * THREAD) = THREAD; }
KERNEL strided(u32 *out, const u32 *in, u32 stride) { out[THREAD] = in[THREAD * stride]; }
KERNEL lds_uninitialised(u32 *out, u32 n) {
  __shared__ u32 s[64];
  if (THREAD < n) s[THREAD] = THREAD;
  BARRIER;
  out[THREAD] = s[THREAD];
}
KERNEL lds_bytes(u32 *out) {
  __shared__ u8 s[64];
  s[THREAD] = THREAD;
  BARRIER;
  out[THREAD] = s[63 - THREAD];
}
KERNEL lds_bounds(u32 *out, u32 offset) {
  __shared__ u32 s[64];
  s[THREAD] = THREAD;
  BARRIER;
  out[THREAD] = s[THREAD + offset];
}
KERNEL lds_race(u32 *out, u32 barrier) {
  __shared__ u32 s[64];
  s[THREAD] = THREAD;
  if (barrier) { BARRIER; }
  out[THREAD] = s[63 - THREAD];
}
KERNEL lds_read_after_write(u32 *out) {
  __shared__ u32 s[64];
  if (THREAD < 32) s[THREAD] = THREAD;
  out[THREAD] = s[THREAD & 31];
}
KERNEL lds_two_writers(u32 *out) {
  __shared__ u32 s[64];
  s[THREAD & 31] = 5;
  BARRIER;
  out[THREAD] = s[THREAD & 31];
}
KERNEL lds_atomic_and_plain(u32 *out) {
  __shared__ u32 s[64];
  if (THREAD < 32) s[THREAD] = 0;
  BARRIER;
  __hip_atomic_fetch_add(&s[THREAD & 31], 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
  out[THREAD] = s[THREAD & 31];
}
KERNEL lds_write_after_reads(u32 *out, u32 writer, u32 barrier) {
  __shared__ u32 s[32];
  if (THREAD < 32) s[THREAD] = THREAD;
  BARRIER;
  if (THREAD < 64) out[THREAD] = s[THREAD & 31];
  if (barrier) { BARRIER; }
  if (THREAD >= writer) s[THREAD & 31] = 7;
}
KERNEL lds_write_race(u32 *out, u32 shift) {
  __shared__ u32 s[64];
  s[THREAD >> shift] = THREAD;
  BARRIER;
  out[THREAD] = s[THREAD >> shift];
}
KERNEL lds_same_value(u32 *out) {
  __shared__ u32 s;
  if (THREAD < 32) s = 5;
  BARRIER;
  out[THREAD] = s;
}
KERNEL banks(u32 *out, u32 stride) {
  __shared__ u32 s[2048];
  s[THREAD * stride] = THREAD;
  BARRIER;
  out[THREAD] = s[THREAD * stride];
}
KERNEL endless(volatile u32 *out) { while (out[0] == 0) {} }
KERNEL trap(u32 *out) { if (out[0] == 0) __builtin_trap(); }
"""
U64, U32 = ctypes.c_uint64, ctypes.c_uint32


def device(**options: Any) -> Gpu:
    return Gpu(SOURCE, "gfx1100", **options)


def words(count: int = 64) -> np.ndarray:
    return np.arange(count, dtype=np.uint32)


@pytest.mark.parametrize("arch", ["gfx1100", "gfx1201", "gfx942"])
@pytest.mark.parametrize(
    ("name", "arguments", "kind", "lane", "message"),
    [
        ("read_at", (words(), words(), U64(4)), "bounds", 63, "out-of-bounds read of 4 bytes"),
        ("read_at", (words(), words(), U64(2**64 - 4)), "bounds", 0, "4 bytes before array 1, 256 bytes"),
        ("read_at", (words(), words(), U64(1 << 44)), "bounds", 0, "out-of-bounds read"),
        ("read_at", (words(), words(65), U64(2)), "alignment", 0, "misaligned read of 4 bytes"),
        ("write_at", (words(), U64(128)), "bounds", 32, "out-of-bounds write of 4 bytes"),
        ("lds_uninitialised", (words(), U32(63)), "uninitialised", 63, "uninitialised LDS at 0xfc"),
        ("lds_bounds", (words(), U32(1)), "lds-bounds", 63, "out-of-bounds LDS read of 4 bytes at 0x100 of 0x100"),
        ("trap", (words() * 0,), "trap", 0, "trap"),
    ],
)
def test_faults(name: str, arguments: tuple[object, ...], kind: str, lane: int, message: str, arch: str) -> None:
    gpu = Gpu(SOURCE, arch)
    copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    code = gpu.launch(name, 1, 64, *copies)
    fault = gpu.api.fault
    assert code == (700 if kind == "bounds" else 719)
    assert fault is not None
    wave = 64 if arch == "gfx942" else 32
    assert (fault.kind, fault.kernel, fault.wave) == (kind, name, 0 if kind == "trap" else lane // wave)
    assert fault.lane == (0 if kind == "trap" else lane % wave)
    text = gpu.api.hipGetErrorString(code).decode()
    assert message in text
    assert f"kernel {name}+0x" in text
    # The device stays lost until it is reset; freeing still works.
    pointer = ctypes.c_void_p()
    assert gpu.api.hipMalloc(ctypes.byref(pointer), 16) == code
    assert gpu.api.hipDeviceSynchronize() == code
    assert gpu.api.live_allocations == 0
    gpu.api.hipDeviceReset()
    assert gpu.api.hipMalloc(ctypes.byref(pointer), 16) == 0


def test_accesses_that_are_right_do_not_trap() -> None:
    gpu = device()
    out = words()
    gpu.run("read_at", 1, 64, out, words(65), U64(4))
    assert out.tolist() == list(range(1, 65))
    gpu.run("lds_uninitialised", 1, 64, out, U32(64))
    gpu.run("lds_bytes", 1, 64, out)
    assert out.tolist() == list(range(63, -1, -1))
    gpu.run("lds_race", 1, 64, out, U32(1))
    gpu.run("lds_same_value", 1, 64, out)
    gpu.run("lds_write_race", 1, 64, out, U32(0))


def test_races_in_lds() -> None:
    """Without the barrier, lane 0 of wave 0 reads what lane 31 of wave 1 writes: whichever comes first, one races."""
    gpu = device()
    assert gpu.launch("lds_race", 1, 64, words(), U32(0)) == 719
    assert gpu.api.fault is not None
    # Wave 0 runs first, so it reads words that nobody has written; the race shows where wave 1 then writes them.
    assert gpu.api.fault.kind in ("race", "uninitialised")
    gpu = device()
    assert gpu.launch("lds_write_race", 1, 64, words(), U32(1)) == 719
    assert gpu.api.fault is not None
    assert (gpu.api.fault.kind, gpu.api.fault.wave) == ("race", 0)
    gpu = device()
    assert gpu.launch("lds_write_race", 1, 64, words(), U32(6)) == 719
    assert gpu.api.fault is not None
    assert gpu.api.fault.kind == "race"


@pytest.mark.parametrize("name", ["lds_read_after_write", "lds_two_writers", "lds_atomic_and_plain"])
def test_races_between_waves(name: str) -> None:
    """Wave 0 writes (or adds), wave 1 reads, writes or adds without a barrier between: even the same value races."""
    gpu = device()
    assert gpu.launch(name, 1, 64, words()) == 719
    fault = gpu.api.fault
    assert fault is not None
    assert (fault.kind, fault.lane) == ("race", 0)
    assert (fault.wave, "against wave 0" in fault.message) == (1, True)
    # Within one wave the order is certain.
    gpu = device()
    gpu.run(name, 1, 32, words(32))


@pytest.mark.parametrize("writer", [1, 2])
def test_a_write_races_with_the_reads_of_several_waves(writer: int) -> None:
    """Waves 0 and 1 read, wave 1 or 2 writes: with whom it races is no longer one wave, but it races."""
    gpu, size = device(), 32 * (writer + 1)
    assert gpu.launch("lds_write_after_reads", 1, size, words(size), U32(32 * writer), U32(0)) == 719
    assert gpu.api.fault is not None
    assert (gpu.api.fault.kind, gpu.api.fault.wave, gpu.api.fault.lane) == ("race", writer, 0)
    device().run("lds_write_after_reads", 1, size, words(size), U32(32 * writer), U32(1))


def test_access_that_straddles_the_end() -> None:
    """Lane 63 reads the last two bytes of the allocation and two beyond it."""
    gpu = device()
    assert gpu.launch("read_at", 1, 64, words(), np.zeros(127, np.uint16), U64(0)) == 700
    assert gpu.api.fault is not None
    assert gpu.api.fault.lane == 31
    assert gpu.api.fault.wave == 1


def test_unchecked_lds_is_not_trapped() -> None:
    gpu = device(check=False)
    gpu.run("lds_race", 1, 64, words(), U32(0))
    gpu.run("lds_uninitialised", 1, 64, words(), U32(1))


def test_endless_kernel() -> None:
    gpu = device(max_ops=100_000)
    assert gpu.launch("endless", 1, 32, words() * 0) == 719
    assert gpu.api.fault is not None
    assert gpu.api.fault.kind == "hang"


def test_use_after_free() -> None:
    gpu = device()
    pointer = gpu.upload(words())
    offset = U64(0)
    table = (ctypes.c_void_p * 2)(ctypes.addressof(pointer), ctypes.addressof(offset))
    function = ctypes.c_void_p()
    gpu.check(gpu.api.hipModuleGetFunction(ctypes.byref(function), gpu.module, b"write_at"))
    gpu.check(gpu.api.hipModuleLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, None, table, None))
    gpu.check(gpu.api.hipFree(pointer))
    # An allocation of the same size does not take the place at once, which would hide the fault.
    gpu.upload(words())
    assert gpu.api.hipModuleLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, None, table, None) == 700


@pytest.mark.parametrize(("stride", "lines", "full"), [(1, 1, 1), (2, 2, 0), (4, 4, 0), (32, 32, 0)])
def test_transactions(stride: int, lines: int, full: int) -> None:
    """32 lanes that read 4 bytes every `stride` words touch `stride` lines, whole only where they are contiguous."""
    gpu = device()
    out = words(32)
    gpu.run("strided", 1, 32, out, words(1024), U32(stride))
    assert out.tolist() == list(range(0, 32 * stride, stride))
    counters = gpu.api.counters()["strided"]
    loads, stores = counters.by_allocation["array 1"][0], counters.by_allocation["array 0"][1]
    assert (loads.instructions, loads.bytes, loads.transactions, loads.full_transactions) == (1, 128, lines, full)
    assert loads.distinct_lines == lines
    assert (stores.bytes, stores.transactions, stores.full_transactions) == (128, 1, 1)


@pytest.mark.parametrize(("stride", "extra"), [(1, 0), (2, 1), (4, 3), (32, 31), (33, 0)])
def test_bank_conflicts(stride: int, extra: int) -> None:
    """32 lanes at `stride` words: gcd(stride, 32) lanes share a bank, each beyond the first costs a cycle."""
    gpu = device()
    gpu.run("banks", 1, 32, words(32), U32(stride))
    counters = gpu.api.counters()["banks"]
    assert counters.lds_instructions == counters.instructions["lds"] == 2
    assert counters.lds_conflict_cycles == 2 * extra


def test_counters_start_again() -> None:
    gpu = device()
    gpu.run("strided", 2, 32, words(32), words(1024), U32(1))
    first = gpu.api.counters()["strided"]
    assert (first.launches, first.waves, first.instructions["vmem"]) == (1, 2, 4)
    gpu.run("strided", 2, 32, words(32), words(1024), U32(1))
    assert gpu.api.counters()["strided"].total_instructions == 2 * first.total_instructions
    gpu.api.reset_counters()
    assert gpu.api.counters()["strided"].total_instructions == 0
    assert sum(count for _, _, count in gpu.api.profile("strided")) == 0


def test_unknown_instruction_stops_by_name() -> None:
    """FP8 conversion is not emulated: the kernel is refused when it is asked for, and the others are not."""
    source = """
    KERNEL plain(u32 *out) { out[THREAD] = 1; }
    KERNEL fp8(u32 *out, const float *in) { out[THREAD] = __builtin_amdgcn_cvt_pk_fp8_f32(in[0], in[1], 0, false); }
    """
    gpu = Gpu(source, "gfx1201")
    function = ctypes.c_void_p()
    code = gpu.api.hipModuleGetFunction(ctypes.byref(function), gpu.module, b"fp8")
    assert code == 200
    assert "v_cvt_pk_fp8_f32" in gpu.api.hipGetErrorString(code).decode()
    gpu.run("plain", 1, 32, words(32))


def test_another_mode_of_float_arithmetic_is_refused() -> None:
    """Denormals are kept, and rounding is to nearest even: to set that is harmless."""
    source = """
    KERNEL usual(u32 *out) { asm volatile("s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 4), 0xf"); out[THREAD] = 1; }
    KERNEL flushing(u32 *out) { asm volatile("s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 4), 0x0"); out[THREAD] = 1; }
    KERNEL kept(u32 *out) { asm volatile("s_denorm_mode 15\\n s_round_mode 0"); out[THREAD] = 1; }
    KERNEL flushed(u32 *out) { asm volatile("s_denorm_mode 0"); out[THREAD] = 1; }
    KERNEL upwards(u32 *out) { asm volatile("s_round_mode 5"); out[THREAD] = 1; }
    KERNEL wide(u32 *out) { asm volatile("s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 8), 0xf"); out[THREAD] = 1; }
    """
    gpu, function = Gpu(source, "gfx1100"), ctypes.c_void_p()
    for name in ("usual", "kept"):
        gpu.run(name, 1, 32, words(32))
    refused = {b"flushing": "s_setreg_imm32", b"wide": "s_setreg_imm32", b"flushed": "s_denorm", b"upwards": "s_round"}
    for kernel, instruction in refused.items():
        assert gpu.api.hipModuleGetFunction(ctypes.byref(function), gpu.module, kernel) == 200
        assert instruction in gpu.api.hipGetErrorString(200).decode()


def test_wrong_arch_and_damaged_code() -> None:
    api, module = HipEmulator("gfx1201"), ctypes.c_void_p()
    good = build(SOURCE, "gfx1100")
    assert api.hipModuleLoadData(ctypes.byref(module), good) == 209
    assert b"code for gfx1100, device is gfx1201" in api.hipGetErrorString(209)
    api = HipEmulator("gfx1100")
    for bad in (b"", b"\x7fELF", good[:100], good[: len(good) // 2], b"\0" * 4096):
        assert api.hipModuleLoadData(ctypes.byref(module), bad) == 200
    assert api.hipModuleLoadData(ctypes.byref(module), good) == 0
    assert api.hipModuleUnload(module) == 0
    assert api.live_allocations == 0


def test_corrupted_code_objects_are_refused_or_load() -> None:
    """Random damage: loading and translating answer with a HIP error code or success, never with an exception."""
    good, rng, codes = build(SOURCE, "gfx1100"), np.random.default_rng(11), []
    for _ in range(300):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), int(rng.integers(1, 9))):
            bad[place] = rng.integers(0, 256)
        api, module, function = HipEmulator("gfx1100", threads=1), ctypes.c_void_p(), ctypes.c_void_p()
        codes.append(api.hipModuleLoadData(ctypes.byref(module), bytes(bad)))
        if not codes[-1]:
            codes.append(api.hipModuleGetFunction(ctypes.byref(function), module, b"banks"))
    assert set(codes) <= {0, 200, 209, 500}
    assert {0, 200} <= set(codes)
