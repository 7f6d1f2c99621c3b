"""Memory instructions, divergence, barriers, atomics, scratch and calls, on all families, wave 32 and 64."""

from __future__ import annotations

import ctypes
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu
from rocmforge.tools.emulator.memory import Memory

TARGETS = [("gfx1100", ()), ("gfx1100", ("-mwavefrontsize64",)), ("gfx1201", ()), ("gfx942", ())]
IDS = ["gfx1100", "gfx1100-wave64", "gfx1201", "gfx942"]
TYPES = ["u8", "i8", "u16", "i16", "u32", "u64", "f16", "float", "double", "int3v", "int4v"]
SOURCE = """
typedef int int3v __attribute__((ext_vector_type(3)));
typedef int int4v __attribute__((ext_vector_type(4)));
#define COPY(T) KERNEL copy_##T(T *out, const T *in) { out[GLOBAL * 3] = in[GLOBAL * 3]; }
COPY(u8) COPY(i8) COPY(u16) COPY(i16) COPY(u32) COPY(u64) COPY(f16) COPY(float) COPY(double) COPY(int3v) COPY(int4v)
KERNEL widen(i32 *out, const i8 *a, const u8 *b, const i16 *c, const u16 *d) {
  out[GLOBAL] = a[GLOBAL] + 3 * b[GLOBAL] + 5 * c[GLOBAL] + 7 * d[GLOBAL];
}
KERNEL collatz(u32 *out, const u32 *in) {
  u32 x = in[GLOBAL], n = 0;
  while (x != 1) { x = x & 1 ? 3 * x + 1 : x / 2; n++; if (n > 500) break; }
  out[GLOBAL] = n;
}
KERNEL nested(u32 *out, const u32 *in) {
  u32 x = in[GLOBAL], r = 0;
  switch (x & 3) {
    case 0: for (u32 i = 0; i < (x >> 2 & 15); i++) { if (i & 1) continue; r += i; } break;
    case 1: r = x > 1000 ? x / 7 : x * 3; break;
    case 2: if (x & 8) { if (x & 16) r = 1; else r = 2; } else r = 3; break;
    default: return;
  }
  out[GLOBAL] = r;
}
KERNEL transpose(float *out, const float *in) {
  __shared__ float tile[16][17];
  u32 x = THREAD & 15, y = THREAD >> 4;
  for (u32 i = 0; i < 2; i++) {
    tile[y][x] = in[256 * (2 * GROUP + i) + THREAD];
    BARRIER;
    out[256 * (2 * GROUP + i) + THREAD] = tile[x][y];
    BARRIER;
  }
}
extern __shared__ u32 dynamic[];
KERNEL scan(u32 *out, const u32 *in) {
  dynamic[THREAD] = in[GLOBAL];
  BARRIER;
  for (u32 k = 1; k < SIZE; k *= 2) {
    u32 x = THREAD >= k ? dynamic[THREAD - k] : 0;
    BARRIER;
    dynamic[THREAD] += x;
    BARRIER;
  }
  out[GLOBAL] = dynamic[THREAD];
}
KERNEL lds_types(u64 *out, const u64 *in) {
  __shared__ u64 wide[256];
  __shared__ int4v quad[256];
  __shared__ u8 small[256];
  __shared__ u16 medium[256];
  u64 x = in[GLOBAL];
  wide[THREAD] = x; quad[THREAD] = int4v{(int)x, 1, 2, (int)THREAD}; small[THREAD] = (u8)x; medium[THREAD] = (u16)x;
  BARRIER;
  u32 o = (THREAD * 7 + 5) & 255;
  out[GLOBAL] = wide[o] + (u64)quad[o].x * 3 + quad[o].w + ((u64)small[o] << 40) + ((u64)medium[o] << 20);
}
KERNEL histogram(u32 *out, const u32 *in) {
  __shared__ u32 bins[64];
  if (THREAD < 64) bins[THREAD] = 0;
  BARRIER;
  __hip_atomic_fetch_add(&bins[in[GLOBAL] & 63], 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_WORKGROUP);
  BARRIER;
  if (THREAD < 64) __hip_atomic_fetch_add(&out[THREAD], bins[THREAD], __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
}
#define ATOMIC(op) __hip_atomic_fetch_##op
KERNEL wrapping(u32 *up, u32 *down, u32 *old_up, u32 *old_down, const u32 *limit) {
  old_up[GLOBAL] = __builtin_amdgcn_atomic_inc32(&up[GLOBAL], limit[GLOBAL], __ATOMIC_RELAXED, "agent");
  old_down[GLOBAL] = __builtin_amdgcn_atomic_dec32(&down[GLOBAL], limit[GLOBAL], __ATOMIC_RELAXED, "agent");
}
KERNEL atomics(u32 *out, u64 *wide, float *real, const u32 *in) {
  u32 x = in[GLOBAL];
  ATOMIC(max)(&out[0], x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  ATOMIC(min)(&out[1], x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  ATOMIC(or)(&out[2], x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  ATOMIC(and)(&out[3], x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  ATOMIC(xor)(&out[4], x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  ATOMIC(max)((i32 *)&out[5], (i32)x, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  ATOMIC(add)(wide, (u64)x << 20, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  ATOMIC(add)(real, (float)(x & 7), __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  u32 old = ATOMIC(add)(&out[6], 1u, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  out[8 + old] = 1;
  u32 expected = out[7];
  while (!__hip_atomic_compare_exchange_strong(&out[7], &expected, expected + (x & 3), __ATOMIC_RELAXED,
                                               __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT)) {}
}
KERNEL spilled(u32 *out, const u32 *in) {
  u32 stack[64];
  for (u32 i = 0; i < 64; i++) stack[i] = in[GLOBAL] * i;
  for (u32 i = 0; i < 64; i++) stack[in[GLOBAL + 1] + i & 63] += stack[i ^ (in[GLOBAL] & 63)];
  u32 r = 0;
  for (u32 i = 0; i < 64; i++) r = r * 31 + stack[i];
  out[GLOBAL] = r;
}
KERNEL generic(u32 *out, const u32 *in) {
  __shared__ u32 shared[256];
  u32 own[4] = {1, 2, 3, in[GLOBAL]};
  shared[THREAD] = in[GLOBAL] * 2;
  BARRIER;
  const u32 *p = THREAD % 3 == 0 ? in + GLOBAL : THREAD % 3 == 1 ? &shared[THREAD ^ 1] : &own[in[GLOBAL] & 3];
  asm volatile("" : "+v"(p));
  out[GLOBAL] = *p;
}
static __device__ __attribute__((noinline)) u32 power(u32 x, u32 n) { u32 r = 1; while (n--) r *= x; return r; }
KERNEL calls(u32 *out, const u32 *in) { out[GLOBAL] = power(in[GLOBAL], 5) + power(3, in[GLOBAL] & 7); }
static __device__ const u32 table[8] = {11, 22, 33, 44, 55, 66, 77, 88};
KERNEL constants(u32 *out, const u32 *in) { out[GLOBAL] = table[in[GLOBAL] & 7] + table[3]; }
KERNEL ids(u32 *out) {
#define THREE(what, x, y, z) u32 x = what##_x(), y = what##_y(), z = what##_z();
  THREE(__builtin_amdgcn_workitem_id, x, y, z)
  THREE(__builtin_amdgcn_workgroup_id, gx, gy, gz)
  THREE(__builtin_amdgcn_workgroup_size, sx, sy, sz)
  u32 nx = __builtin_amdgcn_grid_size_x() / sx, ny = __builtin_amdgcn_grid_size_y() / sy;
  u32 item = (z * sy + y) * sx + x, group = (gz * ny + gy) * nx + gx;
  out[group * sx * sy * sz + item] = x | y << 4 | z << 8 | gx << 12 | gy << 16 | gz << 20;
}
"""
N = 1024


@cache
def gpu(index: int) -> Gpu:
    arch, flags = TARGETS[index]
    return Gpu(SOURCE, arch, flags)


def numbers(high: int = 2**32, size: int = N, dtype: type = np.uint32) -> np.ndarray:
    return np.random.default_rng(9).integers(0, high, size).astype(dtype)


def unary(name: str, index: int, array: np.ndarray, fill: int = 0, shared: int = 0) -> np.ndarray:
    out = np.full_like(array, fill)
    gpu(index).run(name, N // 256, 256, out, array, shared=shared)
    return out


@pytest.fixture(params=range(len(TARGETS)), ids=IDS)
def target(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("kind", TYPES)
def test_loads_and_stores_of_every_size(target: int, kind: str) -> None:
    size = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "f16": 2, "u32": 4, "float": 4, "u64": 8, "double": 8}.get(kind, 16)
    data = np.random.default_rng(1).integers(0, 256, (N, 3, size), dtype=np.uint8)
    out = np.zeros_like(data)
    gpu(target).run(f"copy_{kind}", N // 256, 256, out, data)
    want = np.zeros_like(data)
    kept = 12 if kind == "int3v" else size
    want[:, 0, :kept] = data[:, 0, :kept]
    assert np.array_equal(out[:, :, :kept], want[:, :, :kept])


def test_sign_and_zero_extension(target: int) -> None:
    arrays = [np.random.default_rng(i).integers(0, 256, 2 * N, dtype=np.uint8).view(t)[:N] for i, t in
              enumerate((np.int8, np.uint8, np.int16, np.uint16))]  # fmt: skip
    out = np.zeros(N, np.int32)
    gpu(target).run("widen", N // 256, 256, out, *arrays)
    want = np.sum([k * a.astype(np.int32) for k, a in zip((1, 3, 5, 7), arrays, strict=True)], axis=0)
    assert out.tolist() == want.tolist()


def test_divergent_loop(target: int) -> None:
    array = numbers(100_000) + 1

    def steps(x: int) -> int:
        n = 0
        while x != 1 and n <= 500:
            x, n = (3 * x + 1) & 0xFFFFFFFF if x & 1 else x // 2, n + 1
        return n

    assert unary("collatz", target, array).tolist() == [steps(int(x)) for x in array]


def test_nested_divergence(target: int) -> None:
    array = numbers(5000)

    def one(x: int) -> int:
        kind = x & 3
        if kind == 0:
            return sum(i for i in range(x >> 2 & 15) if not i & 1)
        if kind == 1:
            return x // 7 if x > 1000 else x * 3
        if kind == 2:
            return (1 if x & 16 else 2) if x & 8 else 3
        return 99

    assert unary("nested", target, array, fill=99).tolist() == [one(int(x)) for x in array]


def test_barriers_and_lds(target: int) -> None:
    tiles = np.random.default_rng(2).random((8, 16, 16)).astype(np.float32)
    out = np.zeros_like(tiles)
    gpu(target).run("transpose", 4, 256, out, tiles)
    assert np.array_equal(out, tiles.transpose(0, 2, 1))
    array = numbers()
    want = np.cumsum(array.reshape(-1, 256), 1, dtype=np.uint32).ravel()
    assert unary("scan", target, array, shared=1024).tolist() == want.tolist()
    wide = np.random.default_rng(3).integers(0, 2**63, N).astype(np.uint64)
    x = wide.reshape(-1, 256)[:, (np.arange(256) * 7 + 5) & 255]
    low = x.astype(np.uint32).view(np.int32).astype(np.int64).view(np.uint64)
    lanes = ((np.arange(256) * 7 + 5) & 255).astype(np.uint64)
    want = x + low * np.uint64(3) + lanes + ((x & 255) << np.uint64(40)) + ((x & 65535) << np.uint64(20))
    assert unary("lds_types", target, wide).tolist() == want.ravel().tolist()


def test_atomics(target: int) -> None:
    array = numbers()
    bins = np.zeros(64, np.uint32)
    gpu(target).run("histogram", N // 256, 256, bins, array)
    assert bins.tolist() == np.bincount(array & 63, minlength=64).tolist()
    out = np.zeros(8 + N, np.uint32)
    out[1] = out[3] = 2**32 - 1
    wide, real = np.zeros(1, np.uint64), np.zeros(1, np.float32)
    gpu(target).run("atomics", N // 256, 256, out, wide, real, array)
    bits = [ufunc.reduce(array) for ufunc in (np.bitwise_or, np.bitwise_and, np.bitwise_xor)]
    assert out[:5].tolist() == [array.max(), array.min(), *bits]
    assert out[5] == max(0, array.view(np.int32).max())
    assert (out[6], out[7]) == (N, (array & 3).sum())
    assert (out[8:] == 1).all()
    assert wide[0] == (array.astype(np.uint64) << np.uint64(20)).sum()
    assert real[0] == (array & 7).sum()  # sums of small integers are exact in any order


def test_atomics_that_wrap(target: int) -> None:
    """Up to the limit and from there to 0; down to 0, and from there, or from above the limit, to the limit."""
    old, limit = (side.ravel().astype(np.uint32) for side in np.meshgrid([0, 1, 4, 5, 6, 2**32 - 1], [0, 5, 2**32 - 1]))
    count = len(old)
    up, down, olds = old.copy(), old.copy(), np.zeros((2, count), np.uint32)
    old_up, old_down = olds[0].copy(), olds[1].copy()
    gpu(target).run("wrapping", 1, count, up, down, old_up, old_down, limit)
    wide = old.astype(np.int64)
    assert up.tolist() == np.where(wide >= limit, 0, wide + 1).tolist()
    assert down.tolist() == np.where((wide == 0) | (wide > limit), limit, wide - 1).tolist()
    assert old_up.tolist() == old_down.tolist() == old.tolist()


PACKED = """
typedef short short2v __attribute__((ext_vector_type(2)));
typedef f16 half2v __attribute__((ext_vector_type(2)));
KERNEL packed(u32 *brains, u32 *halves, const u32 *brain, const u32 *half) {
  __builtin_amdgcn_global_atomic_fadd_v2bf16((__attribute__((address_space(1))) short2v *)&brains[GLOBAL],
                                             __builtin_bit_cast(short2v, brain[GLOBAL]));
  __builtin_amdgcn_global_atomic_fadd_v2f16((__attribute__((address_space(1))) half2v *)&halves[GLOBAL],
                                            __builtin_bit_cast(half2v, half[GLOBAL]));
}
"""


def test_atomics_on_pairs() -> None:
    """Each half by itself; what a bfloat16 sum is, is its float32 sum rounded to even."""
    rng = np.random.default_rng(4)
    floats = rng.normal(size=(2, 128)).astype(np.float32)
    before, added = brains = (floats.view(np.uint32) >> 16).astype(np.uint16)
    wide = (brains.astype(np.uint32) << 16).view(np.float32)
    total = (wide[0] + wide[1]).view(np.uint32).astype(np.uint64)
    expected = ((total + 0x7FFF + (total >> 16 & 1)) >> 16).astype(np.uint16)
    halves = rng.normal(size=(2, 128)).astype(np.float16)
    out, out_half = before.copy().view(np.uint32), halves[0].copy().view(np.uint32)
    Gpu(PACKED, "gfx942").run(
        "packed", 1, 64, out, out_half, added.copy().view(np.uint32), halves[1].copy().view(np.uint32)
    )
    assert out.view(np.uint16).tolist() == expected.tolist()
    assert np.array_equal(out_half.view(np.float16), halves[0] + halves[1])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_scratch(target: int) -> None:
    array = numbers(size=N + 1)
    out = np.zeros(N, np.uint32)
    gpu(target).run("spilled", N // 256, 256, out, array)
    want = np.zeros(N, np.uint32)
    for lane in range(N):
        stack = (array[lane] * np.arange(64, dtype=np.uint32)).astype(np.uint32)
        for i in range(64):
            stack[(int(array[lane + 1]) + i) & 63] += stack[i ^ (int(array[lane]) & 63)]
        for value in stack:
            want[lane] = want[lane] * np.uint32(31) + value
    assert out.tolist() == want.tolist()
    assert gpu(target).api.counters()["spilled"].instructions["scratch"] > 0


def test_generic_pointers(target: int) -> None:
    array = numbers()
    want = array.copy()
    thread = np.arange(N) % 256
    doubled = (array * 2).reshape(-1, 256)[:, np.arange(256) ^ 1].ravel()
    want[thread % 3 == 1] = doubled[thread % 3 == 1]
    own = np.stack([np.full(N, 1), np.full(N, 2), np.full(N, 3), array], 1).astype(np.uint32)
    chosen = own[np.arange(N), array & 3]
    want[thread % 3 == 2] = chosen[thread % 3 == 2]
    assert unary("generic", target, array).tolist() == want.tolist()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_calls_and_constants(target: int) -> None:
    array = numbers()
    want = array**5 + np.uint32(3) ** (array & 7)
    assert unary("calls", target, array).tolist() == want.tolist()
    table = np.arange(11, 99, 11, dtype=np.uint32)
    assert unary("constants", target, array).tolist() == (table[array & 7] + table[3]).tolist()


def test_ids_in_three_dimensions(target: int) -> None:
    device = gpu(target)
    function = ctypes.c_void_p()
    device.check(device.api.hipModuleGetFunction(ctypes.byref(function), device.module, b"ids"))
    grid, block = (3, 2, 2), (5, 4, 3)
    out = np.zeros((*grid[::-1], *block[::-1]), np.uint32)
    pointer = device.upload(out)
    table = (ctypes.c_void_p * 1)(ctypes.addressof(pointer))
    device.check(device.api.hipModuleLaunchKernel(function, *grid, *block, 0, None, table, None))
    device.check(device.api.hipMemcpy(out.ctypes.data, pointer, out.nbytes, 2))
    device.check(device.api.hipFree(pointer))
    gz, gy, gx, z, y, x = np.indices(out.shape)
    assert np.array_equal(out, x | y << 4 | z << 8 | gx << 12 | gy << 16 | gz << 20)


def test_an_address_between_allocations_belongs_to_the_one_whose_edge_is_nearer() -> None:
    memory = Memory(1 << 30)
    assert memory.nearest(1 << 20) is None
    for size in (1 << 20, 4, 1 << 20, 4, 1 << 20):
        memory.allocate(size)
    blocks = memory.blocks()
    assert memory.nearest(blocks[0].address - 1) is blocks[0]
    assert memory.nearest(blocks[-1].end + 1) is blocks[-1]
    for block, following in pairwise(blocks):
        middle = (block.end + following.address) // 2
        places = (block.address, block.end - 1, block.end, middle - 1, middle + 2, following.address)
        assert [memory.nearest(place) for place in places] == [block] * 4 + [following] * 2
