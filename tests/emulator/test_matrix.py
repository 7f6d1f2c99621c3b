"""Matrix instructions against NumPy, lane by lane: small integers, so every sum is exact in any order."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

# Each lane loads its part of A and B by the layout that AMD documents (written out here, apart from the emulator's), so
# a wrong mapping on either side shows.
GFX11 = """
typedef f16 half16 __attribute__((ext_vector_type(16))); typedef i16 short16 __attribute__((ext_vector_type(16)));
typedef float float8 __attribute__((ext_vector_type(8))); typedef int int8v __attribute__((ext_vector_type(8)));
typedef int int4v __attribute__((ext_vector_type(4))); typedef int int2v __attribute__((ext_vector_type(2)));
#define EACH(n) for (u32 r = 0; r < n; r++)
#define AT(r) ((2 * r + THREAD / 16) * 16 + THREAD % 16)
KERNEL f16_f32(float *d, const f16 *a, const f16 *b, const float *c) {
  half16 x, y; float8 z;
  EACH(16) { x[r] = a[THREAD % 16 * 16 + r]; y[r] = b[r * 16 + THREAD % 16]; }
  EACH(8) z[r] = c[AT(r)];
  z = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(x, y, z);
  EACH(8) d[AT(r)] = z[r];
}
KERNEL bf16_f32(float *d, const i16 *a, const i16 *b, const float *c) {
  short16 x, y; float8 z;
  EACH(16) { x[r] = a[THREAD % 16 * 16 + r]; y[r] = b[r * 16 + THREAD % 16]; }
  EACH(8) z[r] = c[AT(r)];
  z = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(x, y, z);
  EACH(8) d[AT(r)] = z[r];
}
KERNEL f16_f16(f16 *d, const f16 *a, const f16 *b, const f16 *c) {
  half16 x, y, z;
  EACH(16) { x[r] = a[THREAD % 16 * 16 + r]; y[r] = b[r * 16 + THREAD % 16]; z[r] = 0; }
  EACH(8) z[2 * r] = c[AT(r)];
  z = __builtin_amdgcn_wmma_f16_16x16x16_f16_w32(x, y, z, false);
  EACH(8) d[AT(r)] = z[2 * r];
}
KERNEL i8_i32(int *d, const i8 *a, const i8 *b, const int *c) {
  union { i8 e[16]; int4v v; } x, y; int8v z;
  EACH(16) { x.e[r] = a[THREAD % 16 * 16 + r]; y.e[r] = b[r * 16 + THREAD % 16]; }
  EACH(8) z[r] = c[AT(r)];
  z = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, x.v, true, y.v, z, false);
  EACH(8) d[AT(r)] = z[r];
}
KERNEL u8_i32(int *d, const u8 *a, const i8 *b, const int *c) {
  union { i8 e[16]; int4v v; } x, y; int8v z;
  EACH(16) { x.e[r] = a[THREAD % 16 * 16 + r]; y.e[r] = b[r * 16 + THREAD % 16]; }
  EACH(8) z[r] = c[AT(r)];
  z = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(false, x.v, true, y.v, z, false);
  EACH(8) d[AT(r)] = z[r];
}
KERNEL unrepeated(float *d, const f16 *a, const f16 *b, const float *c) {
  half16 x, y; float8 z;
  EACH(16) { x[r] = THREAD < 16 ? a[THREAD * 16 + r] : 0; y[r] = b[r * 16 + THREAD % 16]; }
  EACH(8) z[r] = c[AT(r)];
  z = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(x, y, z);
  EACH(8) d[AT(r)] = z[r];
}
"""
# Modifiers of float WMMA: signs of A's and B's halves, low and high; of C its sign, and its absolute value.
NEGATIONS = {
    "a_low": "neg_lo:[1,0,0]",
    "a_high": "neg_hi:[1,0,0]",
    "b_low": "neg_lo:[0,1,0]",
    "b_high": "neg_hi:[0,1,0]",
    "a_low_b_high": "neg_lo:[1,0,0] neg_hi:[0,1,0]",
    "c": "neg_lo:[0,0,1]",
    "c_absolute": "neg_hi:[0,0,1]",
    "c_absolute_negated": "neg_lo:[0,0,1] neg_hi:[0,0,1]",
}
GFX12 = """
typedef f16 half8 __attribute__((ext_vector_type(8))); typedef i16 short8 __attribute__((ext_vector_type(8)));
typedef float float8 __attribute__((ext_vector_type(8))); typedef int int8v __attribute__((ext_vector_type(8)));
typedef int int2v __attribute__((ext_vector_type(2)));
#define EACH(n) for (u32 r = 0; r < n; r++)
#define AT(r) ((r + THREAD / 16 * 8) * 16 + THREAD % 16)
#define K(r) (r + THREAD / 16 * 8)
#define LOAD(n) EACH(n) { x[r] = a[THREAD % 16 * 16 + K(r)]; y[r] = b[K(r) * 16 + THREAD % 16]; z[r] = c[AT(r)]; }
KERNEL f16_f32(float *d, const f16 *a, const f16 *b, const float *c) {
  half8 x, y; float8 z;
  LOAD(8)
  z = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(x, y, z);
  EACH(8) d[AT(r)] = z[r];
}
KERNEL bf16_f32(float *d, const i16 *a, const i16 *b, const float *c) {
  short8 x, y; float8 z;
  LOAD(8)
  z = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(x, y, z);
  EACH(8) d[AT(r)] = z[r];
}
KERNEL f16_f16(f16 *d, const f16 *a, const f16 *b, const f16 *c) {
  half8 x, y, z;
  LOAD(8)
  z = __builtin_amdgcn_wmma_f16_16x16x16_f16_w32_gfx12(x, y, z);
  EACH(8) d[AT(r)] = z[r];
}
#define BYTES(A, name, sa)                                                                              \\
  KERNEL name(int *d, const A *a, const i8 *b, const int *c) {                                          \\
    union { i8 e[8]; int2v v; } x, y; int8v z;                                                          \\
    EACH(8) { x.e[r] = a[THREAD % 16 * 16 + K(r)]; y.e[r] = b[K(r) * 16 + THREAD % 16]; z[r] = c[AT(r)]; } \\
    z = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32_gfx12(sa, x.v, true, y.v, z, false);                 \\
    EACH(8) d[AT(r)] = z[r];                                                                            \\
  }
BYTES(i8, i8_i32, true)
BYTES(u8, u8_i32, false)
"""
CDNA = """
typedef f16 half4 __attribute__((ext_vector_type(4))); typedef i16 short4v __attribute__((ext_vector_type(4)));
typedef float float4v __attribute__((ext_vector_type(4))); typedef float float16v __attribute__((ext_vector_type(16)));
typedef int int4v __attribute__((ext_vector_type(4))); typedef int int16v __attribute__((ext_vector_type(16)));
typedef double double4v __attribute__((ext_vector_type(4)));
#define EACH(n) for (u32 r = 0; r < n; r++)
#define I(M) (THREAD % M)
#define G(M) (THREAD / M)
#define ROW16(r) (r + 4 * G(16))
#define ROW32(r) (r % 4 + 8 * (r / 4) + 4 * G(32))
#define MFMA(name, A, E, VEC, ACC, OUT, M, KK, n, rows, ROW, builtin)                                   \\
  KERNEL name(OUT *d, const A *a, const A *b, const OUT *c) {                                           \\
    union { E e[n]; VEC v; } x, y; ACC z;                                                               \\
    EACH(n) { x.e[r] = a[I(M) * KK + G(M) * n + r]; y.e[r] = b[(G(M) * n + r) * M + I(M)]; }             \\
    EACH(rows) z[r] = c[ROW(r) * M + I(M)];                                                             \\
    z = builtin(x.v, y.v, z, 0, 0, 0);                                                                  \\
    EACH(rows) d[ROW(r) * M + I(M)] = z[r];                                                             \\
  }
MFMA(f16_16, f16, f16, half4, float4v, float, 16, 16, 4, 4, ROW16, __builtin_amdgcn_mfma_f32_16x16x16f16)
MFMA(f16_32, f16, f16, half4, float16v, float, 32, 8, 4, 16, ROW32, __builtin_amdgcn_mfma_f32_32x32x8f16)
MFMA(bf16_16, i16, i16, short4v, float4v, float, 16, 16, 4, 4, ROW16, __builtin_amdgcn_mfma_f32_16x16x16bf16_1k)
MFMA(f32_16, float, float, float, float4v, float, 16, 4, 1, 4, ROW16, __builtin_amdgcn_mfma_f32_16x16x4f32)
MFMA(f32_32, float, float, float, float16v, float, 32, 2, 1, 16, ROW32, __builtin_amdgcn_mfma_f32_32x32x2f32)
MFMA(i8_16, i8, i8, long, int4v, int, 16, 32, 8, 4, ROW16, __builtin_amdgcn_mfma_i32_16x16x32_i8)
MFMA(i8_32, i8, i8, long, int16v, int, 32, 16, 8, 16, ROW32, __builtin_amdgcn_mfma_i32_32x32x16_i8)
#define ROWD(r) (4 * r + G(16))
MFMA(f64_16, double, double, double, double4v, double, 16, 4, 1, 4, ROWD, __builtin_amdgcn_mfma_f64_16x16x4f64)
// Blocks of 4x4: lane l holds row l % 4 of block l / 4.
KERNEL f16_4(float *d, const f16 *a, const f16 *b, const float *c) {
  half4 x, y; float4v z; u32 block = THREAD / 4, i = THREAD % 4;
  EACH(4) { x[r] = a[block * 16 + i * 4 + r]; y[r] = b[block * 16 + r * 4 + i]; z[r] = c[block * 16 + r * 4 + i]; }
  z = __builtin_amdgcn_mfma_f32_4x4x4f16(x, y, z, 0, 0, 0);
  EACH(4) d[block * 16 + r * 4 + i] = z[r];
}
// Enough accumulators that some live in AGPRs, moved in and out.
KERNEL chain(float *d, const f16 *a, const f16 *b, const float *c) {
  half4 x, y; float16v z[8];
  EACH(4) { x[r] = a[I(32) * 8 + G(32) * 4 + r]; y[r] = b[(G(32) * 4 + r) * 32 + I(32)]; }
  for (u32 i = 0; i < 8; i++) EACH(16) z[i][r] = c[ROW32(r) * 32 + I(32)] + i;
  for (u32 n = 0; n < 3; n++)
    for (u32 i = 0; i < 8; i++) z[i] = __builtin_amdgcn_mfma_f32_32x32x8f16(x, y, z[i], 0, 0, 0);
  EACH(16) { float t = 0; for (u32 i = 0; i < 8; i++) t += z[i][r]; d[ROW32(r) * 32 + I(32)] = t; }
}
"""
SOURCES = {"gfx1100": GFX11, "gfx1201": GFX12, "gfx942": CDNA}
WMMA = {
    "f16_f32": (np.float16, np.float16, np.float32),
    "bf16_f32": ("bf16", "bf16", np.float32),
    "f16_f16": (np.float16, np.float16, np.float16),
    "i8_i32": (np.int8, np.int8, np.int32),
    "u8_i32": (np.uint8, np.int8, np.int32),
}
# name: (M, K, input, output)
MFMA = {
    "f16_16": (16, 16, np.float16, np.float32),
    "f16_32": (32, 8, np.float16, np.float32),
    "bf16_16": (16, 16, "bf16", np.float32),
    "f32_16": (16, 4, np.float32, np.float32),
    "f32_32": (32, 2, np.float32, np.float32),
    "i8_16": (16, 32, np.int8, np.int32),
    "i8_32": (32, 16, np.int8, np.int32),
    "f64_16": (16, 4, np.float64, np.float64),
}


@cache
def gpu(arch: str) -> Gpu:
    return Gpu(SOURCES[arch], arch)


def integers(shape: tuple[int, ...], kind: object, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrix as the kernel takes it, and its values: sums of 16 products of at most 64 are exact in float16."""
    rng = np.random.default_rng(seed)
    if kind is np.uint8:
        values = rng.integers(0, 256, shape)
    elif kind is np.int8:
        values = rng.integers(-128, 128, shape)
    else:
        values = rng.integers(-8, 8, shape)
    if kind == "bf16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), values
    return values.astype(kind), values  # type: ignore[call-overload]


@pytest.mark.parametrize("arch", ["gfx1100", "gfx1201"])
@pytest.mark.parametrize("name", list(WMMA))
def test_wmma(name: str, arch: str) -> None:
    kinds = WMMA[name]
    (a, x), (b, y), (c, z) = (integers((16, 16), kind, i) for i, kind in enumerate(kinds))
    out = np.zeros((16, 16), kinds[2])
    gpu(arch).run(name, 1, 32, out, a, b, c)
    assert np.array_equal(out, x @ y + z)


@pytest.mark.parametrize("arch", ["gfx1100", "gfx1201"])
def test_negated_operands_of_wmma(arch: str) -> None:
    """The element of an even column of A and row of B is the low half of its register."""
    head, _, body = SOURCES[arch].partition("KERNEL f16_f32(")
    body = body[: body.index("}\nKERNEL ")]
    plain = next(line for line in body.splitlines() if "_wmma_" in line)
    source = head
    for name, modifiers in NEGATIONS.items():
        written = f'asm("v_wmma_f32_16x16x16_f16 %0, %1, %2, %3 {modifiers}" : "=&v"(d8) : "v"(x), "v"(y), "v"(z));'
        source += f"KERNEL {name}({body.replace(plain, f'  float8 d8; {written} z = d8;')}}}\n"
    device = Gpu(source, arch)
    kinds = WMMA["f16_f32"]
    (a, x), (b, y), (c, z) = (integers((16, 16), kind, i) for i, kind in enumerate(kinds))
    for name, modifiers in NEGATIONS.items():
        flags = {kind: modifiers.partition(f"{kind}:[")[2][:5:2] or "000" for kind in ("neg_lo", "neg_hi")}
        a_signs, b_signs = (
            np.tile([1 - 2 * int(flags[kind][i]) for kind in ("neg_lo", "neg_hi")], 8) for i in range(2)
        )
        sums = (np.abs(z) if flags["neg_hi"][2] == "1" else z) * (1 - 2 * int(flags["neg_lo"][2]))
        out = np.zeros((16, 16), np.float32)
        device.run(name, 1, 32, out, a, b, c)
        assert np.array_equal(out, (x * a_signs) @ (y * b_signs[:, None]) + sums), name


@pytest.mark.parametrize("name", list(MFMA))
def test_mfma(name: str) -> None:
    size, depth, kind, out_kind = MFMA[name]
    (a, x), (b, y), (c, z) = (
        integers((size, depth), kind, 1), integers((depth, size), kind, 2), integers((size, size), out_kind, 3)
    )  # fmt: skip
    out = np.zeros((size, size), out_kind)
    gpu("gfx942").run(name, 1, 64, out, a, b, c)
    assert np.array_equal(out, x @ y + z)


def test_mfma_of_small_blocks() -> None:
    (a, x), (b, y), (c, z) = (integers((16, 4, 4), k, i) for i, k in enumerate((np.float16, np.float16, np.float32)))
    out = np.zeros((16, 4, 4), np.float32)
    gpu("gfx942").run("f16_4", 1, 64, out, a, b, c)
    assert np.array_equal(out, x @ y + z)


def test_accumulation_registers() -> None:
    (a, x), (b, y), (c, z) = (
        integers((32, 8), np.float16, 1), integers((8, 32), np.float16, 2), integers((32, 32), np.float32, 3)
    )  # fmt: skip
    out = np.zeros((32, 32), np.float32)
    gpu("gfx942").run("chain", 1, 64, out, a, b, c)
    assert np.array_equal(out, 8 * (3 * (x @ y) + z) + 28)


def test_rounding_is_single() -> None:
    """Float inputs: the double sum rounded once is within half a unit of the exact one, plus the double sum's own error
    of 17 roundings at 2**-53 of the sizes' sum."""
    rng = np.random.default_rng(8)
    a, b = (rng.standard_normal((16, 16)).astype(np.float16) for _ in range(2))
    c = rng.standard_normal((16, 16)).astype(np.float32)
    out = np.zeros((16, 16), np.float32)
    gpu("gfx1100").run("f16_f32", 1, 32, out, a, b, c)
    x, y = a.astype(np.longdouble), b.astype(np.longdouble)
    exact = x @ y + c
    bound = 0.5 * np.spacing(np.abs(exact).astype(np.float32)) + 17 * 2.0**-53 * (np.abs(x) @ np.abs(y) + np.abs(c))
    assert (np.abs(out - exact) <= bound).all()


def test_unrepeated_rows_are_trapped() -> None:
    device = Gpu(GFX11, "gfx1100")
    a, b = (np.ones((16, 16), np.float16) for _ in range(2))
    assert (
        device.launch("unrepeated", 1, 32, np.zeros((16, 16), np.float32), a, b, np.zeros((16, 16), np.float32)) == 719
    )
    fault = device.api.fault
    assert fault is not None
    assert (fault.kind, fault.lane) == ("wmma-layout", 16)
