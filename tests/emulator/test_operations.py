"""Every operation that compilers seldom pick, one by one in assembly, against Python's integers and NumPy's floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

N = 128
TYPES: dict[str, Any] = {
    name: np.dtype(f"{'uif'['uif'.index(name[0])]}{int(name[1:]) // 8}")
    for name in ("u16", "i16", "f16", "u32", "i32", "f32", "u64", "i64", "f64")
}
EDGES: dict[str, list[Any]] = {
    "f": [0.0, -0.0, 1.5, -2.5, math.inf, -math.inf, math.nan, 0.75],
    "i": [0, 1, -1, -7, 5, 2, 0, 0],  # the last two: the least and the largest
    "u": [0, 1, 2, 3, 7, 0, 0, 0x55],
}
Oracle = Callable[..., Any]


def inputs(kind: str, seed: int) -> np.ndarray:
    """All pairs of edges over two arrays, then random values: small ones, and any bits of integers."""
    dtype, rng = TYPES[kind], np.random.default_rng(seed)
    edges = np.array(EDGES[kind[0]]).astype(dtype)
    if kind[0] == "f":
        edges[7] = np.finfo(dtype).smallest_subnormal * 3
        rest = (rng.standard_normal(64) * 4).astype(dtype)
    else:
        edges[5 if kind[0] == "u" else 6], edges[6 if kind[0] == "u" else 7] = np.iinfo(dtype).min, np.iinfo(dtype).max
        rest = np.frombuffer(rng.bytes(64 * dtype.itemsize), dtype)
    order = {1: np.arange(64) // 8, 2: np.arange(64) % 8, 3: (np.arange(64) * 5 + 3 + np.arange(64) // 8) % 8}[seed]
    return np.concatenate([edges[order], rest])


def same(found: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Equal bits, but that any NaN is like any other."""
    bits = f"u{found.itemsize}"
    equal: np.ndarray = found.view(bits) == want.view(bits)
    return equal | (np.isnan(found) & np.isnan(want)) if found.dtype.kind == "f" else equal


def fmin(a: Any, b: Any) -> Any:
    """The other one where one is a NaN; -0 is below +0."""
    if a != a or b != b:
        return b if a != a else a
    return (a if np.signbit(a) else b) if a == b else min(a, b)


def fmax(a: Any, b: Any) -> Any:
    if a != a or b != b:
        return b if a != a else a
    return (b if np.signbit(a) else a) if a == b else max(a, b)


def minimum(a: Any, b: Any) -> Any:
    return a if a != a else b if b != b else fmin(a, b)


def maximum(a: Any, b: Any) -> Any:
    return a if a != a else b if b != b else fmax(a, b)


def median(a: Any, b: Any, c: Any) -> Any:
    if a != a or b != b or c != c:
        return fmin(fmin(a, b), c)
    return fmax(fmin(a, b), fmin(fmax(a, b), c))


def clamped(x: float, low: float, high: float) -> int:
    return 0 if x != x else int(max(low, min(high, x)))


def down(x: Any) -> int:
    return clamped(math.floor(x) if np.isfinite(x) else x, -(2**31), 2**31 - 1)


def fused(a: Any, b: Any, c: Any) -> Any:
    return np.float64(a) * np.float64(b) + np.float64(c)


def turns(x: Any) -> Any:
    """Of a whole turn, in radians."""
    return 2 * np.pi * (x - np.floor(x))


def byte(x: int, i: int) -> int:
    return x >> 8 * i & 255


def s8(x: int, bits: int = 8) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def halves(operation: Oracle, kind: str) -> Oracle:
    """The same on both halves of words."""

    def whole(*words: int) -> int:
        result = 0
        for shift in (0, 16):
            parts = [np.array([w >> shift & 0xFFFF], np.uint16).view(TYPES[kind])[0] for w in words]
            value = operation(*(p if kind == "f16" else int(p) for p in parts))
            if kind == "f16":
                half = int(np.array([value], np.float16).view(np.uint16)[0])
                half = 0x7E00 if value != value else half
            else:
                half = int(value) & 0xFFFF
            result |= half << shift
        return result

    return whole


def half_bits(x: Any) -> int:
    return int(np.array([x]).astype(np.float16).view(np.uint16)[0])


def clip(low: int, high: int) -> Callable[[int], int]:
    return lambda x: max(low, min(high, x))


I16, U16, I32, U32 = clip(-(2**15), 2**15 - 1), clip(0, 2**16 - 1), clip(-(2**31), 2**31 - 1), clip(0, 2**32 - 1)


def frexp(x: Any) -> tuple[Any, int]:
    return (x, 0) if x == 0 or not np.isfinite(x) else np.frexp(x)


def fract(x: Any, most: float) -> Any:
    return fmin(x - np.floor(x), type(x)(most)) if np.isfinite(x) else None


def bf16(x: Any) -> int:
    bits = int(np.array([x], np.float32).view(np.uint32)[0])
    return bits >> 16 | 0x40 if x != x else (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def median_of(*values: int) -> int:
    return sorted(values)[1]


def leading_signs(x: int, width: int) -> int:
    """Of bits that are like the sign, as LLVM's cls: -1 where all are."""
    x &= (1 << width) - 1
    x = x ^ ((1 << width) - 1) if x >> (width - 1) else x
    return width - x.bit_length() if x else -1


def first_row(a: int, b: int, c: int, bits: int, signed_: bool) -> int:
    def parts(x: int) -> list[int]:
        return [s8(x >> i, bits) if signed_ else x >> i & ((1 << bits) - 1) for i in range(0, 32, bits)]

    return sum(x * y for x, y in zip(parts(a), parts(b), strict=True)) + c


# (arch, assembly, types: of the result and of the sources, oracle of one lane). d, a, b, c are registers or pairs.
V: list[tuple[str, str, str, Oracle]] = []


def vector(arch: str, types: str, cases: dict[str, Oracle], suffix: str = "") -> None:
    for name, oracle in cases.items():
        head, _, tail = name.partition(" ")
        letters = ", ".join("dabc"[: len(types.split())])
        V.append((arch, f"{head} {letters} {tail}{suffix}".strip(), types, oracle))


OLD, NEW, LAST = "gfx942", "gfx1100", "gfx1201"
for T in ("f16", "f32", "f64"):
    KIND = TYPES[T].type
    ONE: dict[str, Oracle] = {
        "v_floor": np.floor, "v_ceil": np.ceil, "v_trunc": np.trunc, "v_rndne": np.rint,
        "v_fract": lambda x: fract(x, {2: 0.99951171875, 4: 1 - 2**-24, 8: 1 - 2**-53}[x.itemsize]),
        "v_frexp_mant": lambda x: frexp(x)[0],
    }  # fmt: skip
    vector(
        OLD, f"{T} {T}", {f"{name}_{T}": oracle for name, oracle in ONE.items() if (name, T) != ("v_frexp_mant", "f16")}
    )
    vector(OLD, f"{T} {T} {T}", {f"v_min_{T}": fmin, f"v_max_{T}": fmax})
    vector(OLD, f"{T} {T} {'i16' if T == 'f16' else 'i32'}", {
        f"v_ldexp_{T}": lambda x, n: type(x)(math.ldexp(float(x), max(-3000, min(int(n), 3000)))
                                             if abs(int(n)) < 900 or not np.isfinite(x) or x == 0 else
                                             math.copysign(math.inf if n > 0 else 0.0, float(x))),
    })  # fmt: skip
    vector(LAST, f"{T} {T} {T}", {f"v_minimum_{T}": minimum, f"v_maximum_{T}": maximum} if T != "f16" else {})
for T in ("f16", "f32"):
    vector(OLD, f"{T} {T} {T}", {f"v_sub_{T}": lambda a, b: a - b, f"v_subrev_{T}": lambda a, b: b - a})
    vector(OLD, f"{T} {T} {T} {T}", {
        f"v_min3_{T}": lambda a, b, c: fmin(fmin(a, b), c),
        f"v_max3_{T}": lambda a, b, c: fmax(fmax(a, b), c),
        f"v_med3_{T}": median,
    })  # fmt: skip
vector(NEW, "f32 f32 f32 f32", {
    "v_maxmin_f32": lambda a, b, c: fmin(fmax(a, b), c),
    "v_minmax_f32": lambda a, b, c: fmax(fmin(a, b), c),
    "v_fma_dx9_zero_f32": lambda a, b, c: c if a == 0 or b == 0 else np.float32(np.float64(a) * b + c),
})  # fmt: skip
vector(NEW, "f32 f32 f32", {"v_mul_dx9_zero_f32": lambda a, b: np.float32(0) if a == 0 or b == 0 else a * b})
vector(LAST, "f32 f32 f32 f32", {
    "v_minimum3_f32": lambda a, b, c: minimum(minimum(a, b), c),
    "v_maximum3_f32": lambda a, b, c: maximum(maximum(a, b), c),
    "v_maximumminimum_f32": lambda a, b, c: minimum(maximum(a, b), c),
    "v_minimummaximum_f32": lambda a, b, c: maximum(minimum(a, b), c),
})  # fmt: skip
vector(OLD, "i32 f64", {"v_frexp_exp_i32_f64": lambda x: frexp(x)[1]})
vector(OLD, "i32 f32", {"v_frexp_exp_i32_f32": lambda x: frexp(x)[1],
                        "v_cvt_rpi_i32_f32": lambda x: down(x + np.float32(0.5)),
                        "v_cvt_flr_i32_f32": down})  # fmt: skip
vector(OLD, "u32 f32", {"v_cvt_u32_f32": lambda x: clamped(x, 0, 2**32 - 1)})
vector(OLD, "i32 f32", {"v_cvt_i32_f32": lambda x: clamped(x, -(2**31), 2**31 - 1)})
vector(OLD, "i32 f64", {"v_cvt_i32_f64": lambda x: clamped(x, -(2**31), 2**31 - 1)})
vector(OLD, "u32 f64", {"v_cvt_u32_f64": lambda x: clamped(x, 0, 2**32 - 1)})
vector(OLD, "f64 i32", {"v_cvt_f64_i32": np.float64})
vector(OLD, "f64 u32", {"v_cvt_f64_u32": np.float64})
vector(OLD, "f32 u32", {
    **{f"v_cvt_f32_ubyte{i}": lambda x, i=i: np.float32(byte(int(x), i)) for i in range(4)},
    "v_cvt_off_f32_i4": lambda x: np.float32(s8(int(x), 4) / 16),
})  # fmt: skip
vector(OLD, "f16 u16", {"v_cvt_f16_u16": np.float16})
vector(OLD, "f16 i16", {"v_cvt_f16_i16": np.float16})
vector(OLD, "u16 f16", {"v_cvt_u16_f16": lambda x: clamped(float(x), 0, 65535)})
vector(OLD, "i16 f16", {"v_cvt_i16_f16": lambda x: clamped(float(x), -32768, 32767)})
vector(OLD, "u16 u32", {"v_sat_pk_u8_i16": lambda x: clip(0, 255)(s8(x, 16)) | clip(0, 255)(s8(x >> 16, 16)) << 8})
vector(OLD, "u32 f32 u32 u32", {
    "v_cvt_pk_u8_f32": lambda a, b, c: c & ~(255 << 8 * (b & 3)) | clamped(a, 0, 255) << 8 * (b & 3)
})  # fmt: skip


def norm(x: Any, scale: int, low: int) -> int:
    x = float(x) * scale
    return clamped(np.rint(x), low, scale) & 0xFFFF


vector(OLD, "u32 f32 f32", {
    "v_cvt_pknorm_i16_f32": lambda a, b: norm(a, 32767, -32767) | norm(b, 32767, -32767) << 16,
    "v_cvt_pknorm_u16_f32": lambda a, b: norm(a, 65535, 0) | norm(b, 65535, 0) << 16,
})  # fmt: skip
vector(NEW, "u32 f32 f32", {
    "v_cvt_pk_i16_f32": lambda a, b: clamped(a, -32768, 32767) & 0xFFFF | (clamped(b, -32768, 32767) & 0xFFFF) << 16,
    "v_cvt_pk_u16_f32": lambda a, b: clamped(a, 0, 65535) | clamped(b, 0, 65535) << 16,
})  # fmt: skip
vector("gfx950", "u32 f32 f32", {"v_cvt_pk_bf16_f32": lambda a, b: bf16(a) | bf16(b) << 16})
vector(OLD, "u32 u32 u32", {"v_cvt_pk_u16_u32": lambda a, b: min(a, 65535) | min(b, 65535) << 16})
vector(OLD, "u32 i32 i32", {"v_cvt_pk_i16_i32": lambda a, b: I16(a) & 0xFFFF | (I16(b) & 0xFFFF) << 16})
vector(OLD, "u32 u16 u16", {"v_pack_b32_f16": lambda a, b: a | b << 16})

vector(OLD, "i32 i32 i32", {
    "v_min_i32": min, "v_max_i32": max, "v_add_i32": lambda a, b: a + b, "v_sub_i32": lambda a, b: a - b,
    "v_add_i32 clamp": lambda a, b: I32(a + b), "v_sub_i32 clamp": lambda a, b: I32(a - b),
    "v_mul_hi_i32_i24": lambda a, b: s8(a, 24) * s8(b, 24) >> 32, "v_mul_i32_i24": lambda a, b: s8(a, 24) * s8(b, 24),
})  # fmt: skip
vector(OLD, "u32 u32 u32", {
    "v_min_u32": min, "v_max_u32": max, "v_xnor_b32": lambda a, b: ~(a ^ b),
    "v_sub_u32": lambda a, b: a - b, "v_subrev_u32": lambda a, b: b - a,
    "v_add_u32 clamp": lambda a, b: U32(a + b), "v_sub_u32 clamp": lambda a, b: U32(a - b),
    "v_bfm_b32": lambda a, b: ((1 << (a & 31)) - 1) << (b & 31),
    "v_mul_hi_u32_u24": lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 32,
    "v_mul_u32_u24": lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF),
    "v_bcnt_u32_b32": lambda a, b: a.bit_count() + b,
})  # fmt: skip
for T in ("i32", "u32", "i16", "u16"):
    vector(OLD, f"{T} {T} {T} {T}", {f"v_min3_{T}": min, f"v_max3_{T}": max, f"v_med3_{T}": median_of})
for T in ("i32", "u32"):
    vector(NEW, f"{T} {T} {T} {T}", {
        f"v_maxmin_{T}": lambda a, b, c: min(max(a, b), c), f"v_minmax_{T}": lambda a, b, c: max(min(a, b), c)
    })  # fmt: skip
vector(OLD, "i32 i32 i32 i32", {"v_mad_i32_i24": lambda a, b, c: s8(a, 24) * s8(b, 24) + c})
vector(OLD, "u32 u16 u16 u32", {"v_mad_u32_u16": lambda a, b, c: a * b + c})
vector(OLD, "i32 i16 i16 i32", {"v_mad_i32_i16": lambda a, b, c: a * b + c})
vector(OLD, "u32 u32 u32 u32", {
    "v_mad_u32_u24": lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) + c,
    "v_xad_u32": lambda a, b, c: (a ^ b) + c,
    "v_sad_u8": lambda a, b, c: c + sum(abs(byte(a, i) - byte(b, i)) for i in range(4)),
    "v_msad_u8": lambda a, b, c: c + sum(abs(byte(a, i) - byte(b, i)) for i in range(4) if byte(b, i)),
    "v_sad_u16": lambda a, b, c: c + abs((a & 65535) - (b & 65535)) + abs((a >> 16) - (b >> 16)),
    "v_sad_u32": lambda a, b, c: abs(a - b) + c,
    "v_lerp_u8": lambda a, b, c: sum((byte(a, i) + byte(b, i) + (c >> 8 * i & 1) >> 1) << 8 * i for i in range(4)),
    "v_bfe_u32": lambda a, b, c: a >> (b & 31) & ((1 << (c & 31)) - 1),
    "v_alignbit_b32": lambda a, b, c: (a << 32 | b) >> (c & 31),
    "v_alignbyte_b32": lambda a, b, c: (a << 32 | b) >> 8 * (c & 3),
    "v_lshl_add_u32": lambda a, b, c: (a << (b & 31)) + c,
    "v_add_lshl_u32": lambda a, b, c: (a + b) << (c & 31),
    "v_lshl_or_b32": lambda a, b, c: a << (b & 31) | c,
    "v_and_or_b32": lambda a, b, c: a & b | c,
    "v_or3_b32": lambda a, b, c: a | b | c,
    "v_perm_b32": lambda a, b, c: sum(chosen_byte(a << 32 | b, byte(c, i)) << 8 * i for i in range(4)),
    "v_dot8_u32_u4": lambda a, b, c: first_row(a, b, c, 4, signed_=False),
    "v_dot8_i32_i4": lambda a, b, c: first_row(a, b, c, 4, signed_=True),
    "v_dot4_i32_i8": lambda a, b, c: first_row(a, b, c, 8, signed_=True),
    "v_dot2_i32_i16": lambda a, b, c: first_row(a, b, c, 16, signed_=True),
    "v_dot2_u32_u16": lambda a, b, c: first_row(a, b, c, 16, signed_=False),
    "v_dot4_u32_u8 clamp": lambda a, b, c: U32(first_row(a, b, c, 8, signed_=False)),
    "v_dot8_u32_u4 clamp": lambda a, b, c: U32(first_row(a, b, c, 4, signed_=False)),
})  # fmt: skip
vector(OLD, "i32 u32 u32 i32", {
    "v_dot8_i32_i4 clamp": lambda a, b, c: I32(first_row(a, b, c, 4, signed_=True)),
    "v_dot4_i32_i8 clamp": lambda a, b, c: I32(first_row(a, b, c, 8, signed_=True)),
    "v_dot2_i32_i16 clamp": lambda a, b, c: I32(first_row(a, b, c, 16, signed_=True)),

})  # fmt: skip
vector(OLD, "i32 i32 u32 u32", {"v_bfe_i32": lambda a, b, c: s8(a >> (b & 31), c & 31) if c & 31 else 0})
vector(NEW, "u32 u32 u32 u32", {"v_xor3_b32": lambda a, b, c: a ^ b ^ c})
vector(OLD, "u32 u32", {"v_bfrev_b32": lambda a: int(f"{a:032b}"[::-1], 2)})
vector(OLD, "i32 u32", {"v_ffbh_i32": lambda a: leading_signs(a, 32),
                        "v_ffbh_u32": lambda a: 32 - a.bit_length() if a else -1,
                        "v_ffbl_b32": lambda a: (a & -a).bit_length() - 1})  # fmt: skip


def chosen_byte(data: int, k: int) -> int:
    if k >= 13:
        return 255
    return (data >> 8 * k & 255) if k < 8 else 0 if k == 12 else 255 * (data >> 16 * (k - 8) + 15 & 1)


vector(OLD, "u64 u32 u64", {"v_lshlrev_b64": lambda a, b: b << (a & 63), "v_lshrrev_b64": lambda a, b: b >> (a & 63)})
vector(OLD, "i64 i32 i64", {"v_ashrrev_i64": lambda a, b: b >> (a & 63)})
vector(OLD, "u64 u64 u32 u64", {"v_lshl_add_u64": lambda a, b, c: (a << (b & 7)) + c})
vector(OLD, "u16 u16 u16", {
    "v_add_u16": lambda a, b: a + b, "v_sub_u16": lambda a, b: a - b, "v_subrev_u16": lambda a, b: b - a,
    "v_add_u16 clamp": lambda a, b: U16(a + b), "v_sub_u16 clamp": lambda a, b: U16(a - b),
    "v_mul_lo_u16": lambda a, b: a * b, "v_min_u16": min, "v_max_u16": max,
    "v_lshlrev_b16": lambda a, b: b << (a & 15), "v_lshrrev_b16": lambda a, b: b >> (a & 15),
})  # fmt: skip
vector(OLD, "i16 i16 i16", {
    "v_add_i16": lambda a, b: a + b, "v_sub_i16": lambda a, b: a - b,
    "v_add_i16 clamp": lambda a, b: I16(a + b), "v_sub_i16 clamp": lambda a, b: I16(a - b),
    "v_min_i16": min, "v_max_i16": max, "v_ashrrev_i16": lambda a, b: b >> (a & 15),
})  # fmt: skip
vector(OLD, "u16 u16 u16 u16", {"v_mad_u16": lambda a, b, c: a * b + c, "v_mad_i16": lambda a, b, c: a * b + c})
PACKED: dict[str, dict[str, Oracle]] = {
    "i16": {
        "v_pk_add_i16": lambda a, b: a + b, "v_pk_sub_i16": lambda a, b: a - b,
        "v_pk_add_i16 clamp": lambda a, b: I16(a + b), "v_pk_sub_i16 clamp": lambda a, b: I16(a - b),
        "v_pk_min_i16": min, "v_pk_max_i16": max, "v_pk_ashrrev_i16": lambda a, b: b >> (a & 15),
        "v_pk_mad_i16": lambda a, b, c: a * b + c,
    },
    "u16": {
        "v_pk_add_u16": lambda a, b: a + b, "v_pk_sub_u16": lambda a, b: a - b,
        "v_pk_add_u16 clamp": lambda a, b: U16(a + b), "v_pk_sub_u16 clamp": lambda a, b: U16(a - b),
        "v_pk_min_u16": min, "v_pk_max_u16": max, "v_pk_mul_lo_u16": lambda a, b: a * b,
        "v_pk_lshlrev_b16": lambda a, b: b << (a & 15), "v_pk_lshrrev_b16": lambda a, b: b >> (a & 15),
        "v_pk_mad_u16": lambda a, b, c: a * b + c,
    },
}  # fmt: skip
for T, TABLE in PACKED.items():
    for NAME, ORACLE in TABLE.items():
        vector(OLD, "u32 u32 u32" + " u32" * ("mad" in NAME), {NAME: halves(ORACLE, T)})
# Halves one at a time: a packed result is compared by its parts.
for NAME, ORACLE in {
    "v_pk_add_f16": lambda a, b: a + b, "v_pk_mul_f16": lambda a, b: a * b, "v_pk_min_f16": fmin, "v_pk_max_f16": fmax,
}.items():  # fmt: skip
    vector(OLD, "f16 f16 f16", {NAME: ORACLE, f"{NAME} neg_lo:[1,0]": lambda a, b, o=ORACLE: o(-a, b)})
vector(LAST, "f16 f16 f16", {"v_pk_minimum_f16": minimum, "v_pk_maximum_f16": maximum})
vector(OLD, "f16 f16 f16 f16", {"v_pk_fma_f16": lambda a, b, c: np.float16(fused(a, b, c))})
vector(OLD, "f32 f32 f32", {
    "v_add_f32 mul:2": lambda a, b: (a + b) * np.float32(2),
    "v_add_f32 mul:4": lambda a, b: (a + b) * np.float32(4),
    "v_add_f32 div:2": lambda a, b: (a + b) * np.float32(0.5),
    "v_add_f32 clamp": lambda a, b: np.float32(0) if not a + b > 0 else min(a + b, np.float32(1)),
})  # fmt: skip
vector(OLD, "f64 f64 f64", {
    "v_add_f64 mul:2": lambda a, b: (a + b) * 2,
    "v_add_f64 clamp": lambda a, b: np.float64(0) if not a + b > 0 else min(a + b, np.float64(1)),
})  # fmt: skip
vector(OLD, "f16 f16 f16 f16", {
    "v_fma_f16 mul:4": lambda a, b, c: np.float16(fused(a, b, c)) * np.float16(4),
    "v_fma_f16 clamp": lambda a, b, c: np.float16(min(1, fused(a, b, c)) if fused(a, b, c) > 0 else 0),
})  # fmt: skip


def near(function: Callable[[Any], Any]) -> Oracle:
    """In double, rounded once."""
    return lambda x: np.float16(function(np.float64(x)))


vector(OLD, "f16 f16", {
    "v_rcp_f16": near(lambda x: 1 / x), "v_sqrt_f16": near(np.sqrt), "v_rsq_f16": near(lambda x: 1 / np.sqrt(x)),
    "v_log_f16": near(np.log2), "v_exp_f16": near(np.exp2), "v_cos_f16": near(lambda x: np.cos(turns(x))),
    "v_sin_f16": near(lambda x: np.sin(turns(x))),
})  # fmt: skip
vector(OLD, "f64 f64", {"v_rcp_f64": lambda x: 1 / x, "v_sqrt_f64": np.sqrt, "v_rsq_f64": lambda x: 1 / np.sqrt(x)})


def flushed(x: Any) -> Any:
    return np.copysign(np.float32(0), x) if abs(x) < np.finfo(np.float32).tiny else x


vector(OLD, "f32 f32", {
    "v_rcp_iflag_f32": lambda x: flushed(1 / flushed(x)),
    "v_cos_f32": lambda x: np.float32(np.cos(turns(np.float64(flushed(x))))),
})  # fmt: skip

COMPARES: dict[str, Oracle] = {
    "lt": lambda a, b: a < b, "eq": lambda a, b: a == b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b, "f": lambda a, b: False,
}  # fmt: skip
INTEGER: dict[str, Oracle] = {**COMPARES, "ne": lambda a, b: a != b, "t": lambda a, b: True}
FLOATING: dict[str, Oracle] = {
    **COMPARES, "lg": lambda a, b: a < b or a > b, "o": lambda a, b: a == a and b == b,
    "u": lambda a, b: a != a or b != b, "nge": lambda a, b: not a >= b, "nlg": lambda a, b: not (a < b or a > b),
    "ngt": lambda a, b: not a > b, "nle": lambda a, b: not a <= b, "neq": lambda a, b: a != b,
    "nlt": lambda a, b: not a < b, "tru": lambda a, b: True,
}  # fmt: skip
for T in TYPES:
    for NAME, ORACLE in (FLOATING if T[0] == "f" else INTEGER).items():
        V.append((OLD, f"v_cmp_{NAME}_{T} vcc, a, b; v_cndmask_b32 d, 0, 1, vcc", f"u32 {T} {T}", ORACLE))


def class_of(x: Any, wanted: int) -> bool:
    bits, info = int(np.array([x]).view(f"u{x.itemsize}")[0]), np.finfo(x.dtype)
    if x != x:
        kind = bits >> (info.nmant - 1) & 1
    elif np.isinf(x):
        kind = 9 if x > 0 else 2
    else:
        size = 0 if x == 0 else 1 if abs(x) < info.tiny else 2
        kind = 5 - size if np.signbit(x) else 6 + size
    return bool(wanted >> kind & 1)


for T in ("f16", "f32", "f64"):
    V.append((OLD, f"v_cmp_class_{T} vcc, a, b; v_cndmask_b32 d, 0, 1, vcc", f"u32 {T} u32", class_of))
for NAME, ORACLE in {
    "v_add_co_u32": lambda a, b: (a + b, a + b > 0xFFFFFFFF),
    "v_sub_co_u32": lambda a, b: (a - b, a < b),
    "v_subrev_co_u32": lambda a, b: (b - a, b < a),
}.items():
    V.append((OLD, f"{NAME} d, vcc, a, b; v_cndmask_b32 v17, 0, 1, vcc", "u64 u32 u32",
              lambda a, b, o=ORACLE: o(a, b)[0] & 0xFFFFFFFF | o(a, b)[1] << 32))  # fmt: skip
for NAME, SIGN, SWAPPED in (("v_addc", 1, 0), ("v_subb", -1, 0), ("v_subbrev", -1, 1)):
    V.append((OLD, f"v_cmp_gt_i32 vcc, 0, c; {NAME}_co_u32 d, vcc, a, b, vcc; v_cndmask_b32 v17, 0, 1, vcc",
              "u64 u32 u32 u32", lambda a, b, c, sign=SIGN, swapped=SWAPPED: with_carry(b if swapped else a,
              a if swapped else b, c >> 31, sign)))  # fmt: skip


def with_carry(a: int, b: int, carry: int, sign: int) -> int:
    total = a + sign * (b + carry)
    return total & 0xFFFFFFFF | (not 0 <= total < 2**32) << 32


V.append((OLD, "v_mad_u64_u32 d, vcc, a, b, c; v_cndmask_b32 v17, 0, 1, vcc", "u64 u32 u32 u64",
          lambda a, b, c: a * b + c & 0xFFFFFFFF | (a * b + c >> 64) << 32))  # fmt: skip
V.append((OLD, "v_mad_i64_i32 d, vcc, a, b, c; v_cndmask_b32 v17, 0, 1, vcc", "u64 i32 i32 i64",
          lambda a, b, c: a * b + c & 0xFFFFFFFF | (not -(2**63) <= a * b + c < 2**63) << 32))  # fmt: skip


def brains(a: int, b: int, c: Any) -> Any:
    low, high = (
        np.array([a << shift & 0xFFFF0000, b << shift & 0xFFFF0000], np.uint32).view(np.float32) for shift in (16, 0)
    )
    return high[0] * high[1] + (low[0] * low[1] + c)


TRUE16: dict[str, Oracle] = {
    "v_not_b16 v16.l, v10.h": lambda a, b, c: ~a >> 16,
    "v_xor_b16 v16.l, v10.l, v12.h": lambda a, b, c: a ^ b >> 16,
    "v_and_b16 v16.l, v10.h, v12.l": lambda a, b, c: a >> 16 & b,
    "v_or_b16 v16.l, v10.l, v12.l": lambda a, b, c: a | b,
    "v_cndmask_b16 v16.l, v10.l, v12.h, vcc_lo": lambda a, b, c: b >> 16 if c >> 31 else a,
}
for NAME, ORACLE in TRUE16.items():
    V.append((NEW, f"v_cmp_gt_i32 vcc_lo, 0, c; {NAME}", "u16 u32 u32 u32", ORACLE))
V.append((NEW, "v_cvt_i32_i16 d, v10.l", "i32 i16", int))
V.append((NEW, "v_cvt_u32_u16 d, v10.h", "u32 u32", lambda a: a >> 16))
V.append((NEW, "v_dot2_f32_bf16 d, v10, v12, v14", "f32 u32 u32 f32", brains))


REGISTERS = {"d": 16, "a": 10, "b": 12, "c": 14}


def assembled(text: str, types: str) -> str:
    """With the registers, or pairs of registers, in the place of letters."""
    widths = dict(zip("dabc", types.split(), strict=False))

    def register(word: str) -> str:
        letter = word.rstrip(",;")
        if letter not in widths:
            return word
        first = REGISTERS[letter]
        wide = widths[letter].endswith("64") and not (letter == "d" and "_co_u32" in text)
        return (f"v[{first}:{first + 1}]" if wide else f"v{first}") + word[len(letter) :]

    lines = [" ".join(register(word) for word in line.split()) for line in text.split(";")]
    return "\\n".join(lines)


CLOBBERS = ", ".join(f'"v{i}"' for i in range(10, 20)) + ', "vcc", "memory"'
# All operations of the same types, one after another; a lane's results lie side by side.
KERNEL = """KERNEL {0}(u32 *out, const u32 *pa, const u32 *pb, const u32 *pc) {{
  asm volatile("v_mov_b32 v10, %1\\nv_mov_b32 v11, %2\\nv_mov_b32 v12, %3\\nv_mov_b32 v13, %4\\nv_mov_b32 v14, %5\\n"
    "v_mov_b32 v15, %6\\n{1}" : : "v"(out + 2 * {2} * GLOBAL), "v"(pa[2 * GLOBAL]), "v"(pa[2 * GLOBAL + 1]),
    "v"(pb[2 * GLOBAL]), "v"(pb[2 * GLOBAL + 1]), "v"(pc[2 * GLOBAL]), "v"(pc[2 * GLOBAL + 1]) : {3});
}}
"""


@cache
def gpu(arch: str) -> Gpu:
    store = "global_store_dwordx2" if arch.startswith("gfx9") else "global_store_b64"
    kernels = []
    for types in dict.fromkeys(case[2] for case in V if case[0] == arch):
        texts = [assembled(case[1], types) for case in V if (case[0], case[2]) == (arch, types)]
        lines = [
            f"v_mov_b32 v16, 0\\nv_mov_b32 v17, 0\\n{text}\\n{store} %0, v[16:17], off offset:{8 * index}"
            for index, text in enumerate(texts)
        ]
        kernels.append(KERNEL.format(types.replace(" ", "_"), "\\n".join(lines), len(texts), CLOBBERS))
    return Gpu("".join(kernels), arch)


@cache
def found_by(arch: str, types: str) -> dict[str, np.ndarray]:
    """What each operation of these types gives, 64 bits a lane."""
    texts = [case[1] for case in V if (case[0], case[2]) == (arch, types)]
    given = [wide(inputs(kind, i + 1)) for i, kind in enumerate(types.split()[1:])]
    given += [np.zeros(N, np.uint64)] * (3 - len(given))
    out = np.zeros((N, len(texts)), np.uint64)
    gpu(arch).run(types.replace(" ", "_"), N // 64, 64, out, *given)
    return dict(zip(texts, out.T.copy(), strict=True))


def wide(array: np.ndarray) -> np.ndarray:
    """As 64 bits a lane, above a smaller value what an operation has to leave alone."""
    if array.itemsize == 8:
        return array.copy()
    words = array.view(f"u{array.itemsize}").astype(np.uint64)
    return words | np.uint64(0xABCD << 48)


@pytest.mark.parametrize("index", range(len(V)), ids=[case[1].partition(";")[0].replace(" ", "_") for case in V])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_vector_operation(index: int) -> None:
    arch, text, types, oracle = V[index]
    kinds = types.split()
    arrays = [inputs(kind, i + 1) for i, kind in enumerate(kinds[1:])]
    dtype = TYPES[kinds[0]]
    found = found_by(arch, types)[text].astype(f"u{dtype.itemsize}").view(dtype)
    rows = zip(*(a if k[0] == "f" else a.tolist() for a, k in zip(arrays, kinds[1:], strict=True)), strict=True)
    given_back = [oracle(*row) for row in rows]
    results = [0 if result is None else result for result in given_back]
    if dtype.kind == "f":
        want = np.array(results).astype(dtype)
    else:
        mask = (1 << 8 * dtype.itemsize) - 1
        want = np.array([int(r) & mask for r in results], np.uint64).astype(f"u{dtype.itemsize}").view(dtype)
    bad = np.flatnonzero(~same(found, want) & np.array([result is not None for result in given_back]))
    assert not len(bad), [(int(i), *(a[i] for a in arrays), found[i], want[i]) for i in bad[:5]]


# The scalar ALU: (arch, assembly, types, oracle). It gives the result and SCC, or the result alone where SCC stays.
# d, a, b, c are s[26:27], s[20:21], s[22:23] and s[24:25]; SCC is the lowest bit of c before.
S: list[tuple[str, str, str, Oracle]] = []
G = 64  # groups, of one wave each


def scalar(arch: str, types: str, cases: dict[str, Oracle]) -> None:
    letters = ", ".join("dab"[: len(types.split())])
    S.extend((arch, f"{name} {letters}", types, oracle) for name, oracle in cases.items())


def nonzero(operation: Oracle, bits: int = 32) -> Oracle:
    """SCC tells whether the result is not zero."""

    def both(*args: int) -> tuple[int, bool]:
        value = operation(*args) & ((1 << bits) - 1)
        return value, value != 0

    return both


def field(x: int, control: int, width: int, signed_: bool) -> int:
    offset, n = control & (width - 1), min(control >> 16 & 127, width)
    part = x >> offset & ((1 << n) - 1)
    return s8(part, n) if signed_ and n else part


def quads(x: int, bits: int) -> int:
    return sum(15 << i for i in range(0, bits, 4) if x >> i & 15)


for BITS in (32, 64):
    FULL = (1 << BITS) - 1
    T, SIGNED, B = f"u{BITS}", f"i{BITS}", f"b{BITS}"
    scalar(OLD, f"{T} {T} {T}", {f"s_{name}_{B}": nonzero(oracle, BITS) for name, oracle in {
        "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "nand": lambda a, b: ~(a & b),
        "nor": lambda a, b: ~(a | b), "xnor": lambda a, b: ~(a ^ b), "andn2": lambda a, b: a & ~b,
        "orn2": lambda a, b: a | ~b,
    }.items()})  # fmt: skip
    scalar(OLD, f"{T} {T} u32", {
        f"s_lshl_{B}": nonzero(lambda a, b, w=BITS: a << (b & (w - 1)), BITS),
        f"s_lshr_{B}": nonzero(lambda a, b, w=BITS: a >> (b & (w - 1)), BITS),
        f"s_bfe_u{BITS}": nonzero(lambda a, b, w=BITS: field(a, b, w, False), BITS),
    })  # fmt: skip
    scalar(OLD, f"{SIGNED} {SIGNED} u32", {
        f"s_ashr_{SIGNED}": nonzero(lambda a, b, w=BITS: a >> (b & (w - 1)), BITS),
        f"s_bfe_{SIGNED}": nonzero(lambda a, b, w=BITS: field(a, b, w, True), BITS),
    })  # fmt: skip
    scalar(OLD, f"{T} {T}", {
        f"s_not_{B}": nonzero(lambda a: ~a, BITS), f"s_wqm_{B}": nonzero(lambda a, w=BITS: quads(a, w), BITS),
        f"s_brev_{B}": lambda a, w=BITS: int(f"{a:0{w}b}"[::-1], 2),
    })  # fmt: skip
    scalar(OLD, f"i32 {T}", {
        f"s_bcnt0_i32_{B}": nonzero(lambda a, w=BITS: w - a.bit_count()),
        f"s_bcnt1_i32_{B}": nonzero(lambda a: a.bit_count()),
        f"s_ff1_i32_{B}": lambda a: (a & -a).bit_length() - 1,
        f"s_flbit_i32_{B}": lambda a, w=BITS: w - a.bit_length() if a else -1,
        f"s_flbit_i32{'_i64' if BITS == 64 else ''}": lambda a, w=BITS: leading_signs(a, w),
    })  # fmt: skip
    scalar(OLD, f"{T} u32 u32", {f"s_bfm_{B}": lambda a, b, w=BITS: ((1 << (a & (w - 1))) - 1) << (b & (w - 1))})
    S.extend((OLD, text.format(B), types, oracle) for text, types, oracle in (
        ("s_cselect_{} d, a, b", f"{T} {T} {T}", lambda a, b, c: a if c & 1 else b),
        ("s_mov_{0} d, a; s_cmov_{0} d, b", f"{T} {T} {T}", lambda a, b, c: b if c & 1 else a),
        ("s_mov_{0} d, a; s_bitset0_{0} d, b", f"{T} {T} u32", lambda a, b, c, w=BITS: a & ~(1 << (b & (w - 1)))),
        ("s_mov_{0} d, a; s_bitset1_{0} d, b", f"{T} {T} u32", lambda a, b, c, w=BITS: a | 1 << (b & (w - 1))),
        ("s_bitcmp0_{} a, b", f"u32 {T} u32", lambda a, b, c, w=BITS: (0, not a >> (b & (w - 1)) & 1)),
        ("s_bitcmp1_{} a, b", f"u32 {T} u32", lambda a, b, c, w=BITS: (0, a >> (b & (w - 1)) & 1)),
    ))  # fmt: skip
for NAME, ORACLE in (COMPARES | {"lg": lambda a, b: a != b}).items():
    if NAME == "f":
        continue
    for T in ("i32", "u32", *(("u64",) if NAME in ("eq", "lg") else ())):
        S.append((OLD, f"s_cmp_{NAME}_{T} a, b", f"u32 {T} {T}", lambda a, b, c, o=ORACLE: (0, o(a, b))))
for NAME, ORACLE in FLOATING.items():
    if NAME not in ("f", "tru"):
        S.append((LAST, f"s_cmp_{NAME}_f32 a, b", "u32 f32 f32", lambda a, b, c, o=ORACLE: (0, o(a, b))))
scalar(OLD, "i32 i32", {"s_abs_i32": nonzero(abs), "s_sext_i32_i8": s8, "s_sext_i32_i16": lambda a: s8(a, 16)})
scalar(OLD, "u32 u32", {"s_quadmask_b32": nonzero(lambda a: sum(bool(a >> 4 * i & 15) << i for i in range(8)))})
scalar(OLD, "u64 u32", {"s_bitreplicate_b64_b32": lambda a: sum((a >> i & 1) * 3 << 2 * i for i in range(32))})
scalar(OLD, "u32 u32 u32", {
    "s_add_u32": lambda a, b: (a + b, a + b > 0xFFFFFFFF), "s_sub_u32": lambda a, b: (a - b, a < b),
    "s_min_u32": lambda a, b: (min(a, b), a < b), "s_max_u32": lambda a, b: (max(a, b), a >= b),
    "s_mul_hi_u32": lambda a, b: a * b >> 32, "s_mul_i32": lambda a, b: a * b,
    **{f"s_lshl{n}_add_u32": lambda a, b, n=n: ((a << n) + b, (a << n) + b > 0xFFFFFFFF) for n in (1, 2, 3, 4)},
    "s_pack_ll_b32_b16": lambda a, b: a & 0xFFFF | b << 16,
    "s_pack_lh_b32_b16": lambda a, b: a & 0xFFFF | b >> 16 << 16,
    "s_pack_hh_b32_b16": lambda a, b: a >> 16 | b >> 16 << 16,
})  # fmt: skip
scalar(OLD, "i32 i32 i32", {
    "s_add_i32": lambda a, b: (a + b, not -(2**31) <= a + b < 2**31), "s_mul_hi_i32": lambda a, b: a * b >> 32,
    "s_sub_i32": lambda a, b: (a - b, not -(2**31) <= a - b < 2**31), "s_absdiff_i32": nonzero(lambda a, b: abs(a - b)),
    "s_min_i32": lambda a, b: (min(a, b), a < b), "s_max_i32": lambda a, b: (max(a, b), a >= b),
})  # fmt: skip
S.extend((OLD, f"{name} d, a, b", "u32 u32 u32", oracle) for name, oracle in {
    "s_addc_u32": lambda a, b, c: (a + b + (c & 1), a + b + (c & 1) > 0xFFFFFFFF),
    "s_subb_u32": lambda a, b, c: (a - b - (c & 1), a < b + (c & 1)),
}.items())  # fmt: skip
scalar(LAST, "u64 u64 u64", {
    "s_add_nc_u64": lambda a, b: a + b, "s_sub_nc_u64": lambda a, b: a - b, "s_mul_u64": lambda a, b: a * b,
})  # fmt: skip
scalar(LAST, "f32 f32", {
    "s_ceil_f32": np.ceil, "s_floor_f32": np.floor, "s_trunc_f32": np.trunc, "s_rndne_f32": np.rint,
    "v_s_rcp_f32": lambda x: flushed(1 / flushed(x)), "v_s_sqrt_f32": lambda x: np.sqrt(flushed(x)),
    "v_s_rsq_f32": lambda x: np.float32(1 / np.sqrt(np.float64(flushed(x)))),
    "v_s_exp_f32": lambda x: flushed(np.float32(np.exp2(np.float64(flushed(x))))),
    "v_s_log_f32": lambda x: np.float32(np.log2(np.float64(flushed(x)))),
})  # fmt: skip
scalar(LAST, "f32 f32 f32", {
    "s_add_f32": lambda a, b: a + b, "s_sub_f32": lambda a, b: a - b, "s_mul_f32": lambda a, b: a * b,
    "s_min_num_f32": fmin, "s_max_num_f32": fmax, "s_minimum_f32": minimum, "s_maximum_f32": maximum,
})  # fmt: skip
scalar(LAST, "f32 i32", {"s_cvt_f32_i32": np.float32})
scalar(LAST, "f32 u32", {
    "s_cvt_f32_u32": np.float32,
    "s_cvt_f32_f16": lambda a: np.float32(np.array([a & 0xFFFF], np.uint16).view(np.float16)[0]),
    "s_cvt_hi_f32_f16": lambda a: np.float32(np.array([a >> 16], np.uint16).view(np.float16)[0]),
})  # fmt: skip
scalar(LAST, "u32 f32", {"s_cvt_u32_f32": lambda x: clamped(x, 0, 2**32 - 1)})
scalar(LAST, "i32 f32", {"s_cvt_i32_f32": lambda x: clamped(x, -(2**31), 2**31 - 1)})
scalar(LAST, "f16 f32", {"s_cvt_f16_f32": np.float16})
# What sets EXEC: b is what it was; the result is what it was, or (wrexec) what it becomes, and the new one is c.
UPDATES: dict[str, Oracle] = {
    "and": lambda a, e: a & e, "or": lambda a, e: a | e, "xor": lambda a, e: a ^ e, "nand": lambda a, e: ~(a & e),
    "nor": lambda a, e: ~(a | e), "xnor": lambda a, e: ~(a ^ e), "andn1": lambda a, e: ~a & e,
    "orn1": lambda a, e: ~a | e, "andn2": lambda a, e: a & ~e, "orn2": lambda a, e: a | ~e,
}  # fmt: skip


def updates(bits: int, operation: Oracle, writes: bool) -> Oracle:
    def both(a: int, e: int, _: int) -> tuple[int, bool, int]:
        new = operation(a, e) & ((1 << bits) - 1)
        return new if writes else e, new != 0, new & 0xFFFFFFFF

    return both


for ARCH, BITS, MASK in ((OLD, 64, "exec"), (NEW, 32, "exec_lo")):
    for NAME, ORACLE in UPDATES.items():
        SPELT = NAME if ARCH == OLD else NAME.replace("n1", "_not0").replace("n2", "_not1")
        for KIND, WRITES in (("saveexec", False), *((("wrexec", True),) if NAME in ("andn1", "andn2") else ())):
            S.append((ARCH, f"s_mov_b{BITS} {MASK}, b; s_{SPELT}_{KIND}_b{BITS} d, a; s_mov_b{BITS} c, {MASK}; "
                      f"s_mov_b{BITS} {MASK}, -1", f"u{BITS} u{BITS} u{BITS}",
                      updates(BITS, ORACLE, WRITES)))  # fmt: skip
SCALARS = {"d": 26, "a": 20, "b": 22, "c": 24}
WIDE_TEMPORARIES = '"s20", "s21", "s22", "s23", "s24", "s25", "s26", "s27", "s28", "scc"'


def scalar_text(text: str, types: str) -> str:
    widths = dict(zip("dab", types.split(), strict=False))
    widths["c"] = widths["d"]

    def register(word: str) -> str:
        letter = word.rstrip(",;")
        if letter not in SCALARS or letter not in widths:
            return word
        first = SCALARS[letter]
        return (f"s[{first}:{first + 1}]" if widths[letter].endswith("64") else f"s{first}") + word[len(letter) :]

    return "\\n".join(" ".join(register(word) for word in line.split()) for line in text.split(";"))


SCALAR_KERNEL = """KERNEL {0}(u32 *out, const u32 *pa, const u32 *pb, const u32 *pc) {{
  asm volatile("{1}" : : "v"(out + 4 * {2} * GROUP), "v"(pa[2 * GROUP]), "v"(pa[2 * GROUP + 1]), "v"(pb[2 * GROUP]),
    "v"(pb[2 * GROUP + 1]), "v"(pc[2 * GROUP]), "v"(pc[2 * GROUP + 1]) : {3}, {4});
}}
"""


@cache
def scalar_gpu(arch: str) -> Gpu:
    old = arch.startswith("gfx9")
    store = "global_store_dwordx4" if old else "global_store_b128"
    kernels = []
    for types in dict.fromkeys(case[2] for case in S if case[0] == arch):
        lines = []
        for index, case in enumerate([case for case in S if (case[0], case[2]) == (arch, types)]):
            reads = [f"v_readfirstlane_b32 s{20 + i}, %{1 + i}" for i in range(6)]
            after = [f"v_mov_b32 v{16 + i}, s{s}" for i, s in enumerate((26, 27, 28, 24))]
            lines += [
                *reads,
                "s_mov_b32 s26, 0",
                "s_mov_b32 s27, 0",
                "s_bitcmp1_b32 s24, 0",
                scalar_text(case[1], types),
            ]
            lines += ["s_cselect_b32 s28, 1, 0", *after, f"{store} %0, v[16:19], off offset:{16 * index}"]
        count = sum((case[0], case[2]) == (arch, types) for case in S)
        name = types.replace(" ", "_")
        kernels.append(SCALAR_KERNEL.format(name, "\\n".join(lines), count, CLOBBERS, WIDE_TEMPORARIES))
    return Gpu("".join(kernels), arch)


@cache
def scalars_found_by(arch: str, types: str) -> dict[str, np.ndarray]:
    """Result (64 bits), SCC and what c holds, by operation."""
    texts = [case[1] for case in S if (case[0], case[2]) == (arch, types)]
    given = [wide(inputs(kind, i + 1)[::2].copy()) for i, kind in enumerate(types.split()[1:])]
    given += [np.random.default_rng(7).integers(0, 2**32, G).astype(np.uint64)] * (3 - len(given))
    out = np.zeros((G, len(texts), 4), np.uint32)
    scalar_gpu(arch).run(types.replace(" ", "_"), G, 64 if arch == OLD else 32, out, *given)
    return {text: out[:, i].copy() for i, text in enumerate(texts)}


@pytest.mark.parametrize("index", range(len(S)), ids=[case[1].replace(" ", "_") for case in S])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_scalar_operation(index: int) -> None:
    arch, text, types, oracle = S[index]
    kinds = types.split()
    arrays = [inputs(kind, i + 1)[::2] for i, kind in enumerate(kinds[1:])]
    third = np.random.default_rng(7).integers(0, 2**32, G)
    rows = list(zip(*(a if k[0] == "f" else a.tolist() for a, k in zip(arrays, kinds[1:], strict=True)), strict=True))
    dtype = TYPES[kinds[0]]
    found = scalars_found_by(arch, types)[text]
    takes_all = (
        oracle.__code__.co_argcount - len(oracle.__defaults__ or ()) == 3 if hasattr(oracle, "__code__") else False
    )
    for row, c, words in zip(rows, third.tolist(), found, strict=True):
        given = oracle(*row, c) if takes_all else oracle(*row)
        value, scc, *rest = given if isinstance(given, tuple) else (given, c & 1)
        result = words[:2].copy().view(np.uint64).astype(f"u{dtype.itemsize}").view(dtype)
        mask = (1 << 8 * dtype.itemsize) - 1
        want = np.array([float(value)]).astype(dtype) if dtype.kind == "f" else result
        if dtype.kind != "f":
            want = np.array([int(value) & mask], np.uint64).astype(f"u{dtype.itemsize}").view(dtype)
        assert same(result, want).all(), (row, c, result, want)
        assert words[2] == bool(scc), (row, c)
        assert not rest or words[3] == rest[0], (row, c)
