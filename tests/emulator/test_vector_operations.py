"""Every operation of the vector ALU that compilers seldom pick, one by one in assembly."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu
from rocmforge.tests.emulator.operation_cases import (
    CLOBBERS,
    FLOATING,
    I16,
    I32,
    INTEGER,
    LAST,
    NEW,
    OLD,
    TYPES,
    U16,
    U32,
    Oracle,
    bf16,
    byte,
    clamped,
    clip,
    down,
    first_row,
    flushed,
    fmax,
    fmin,
    fract,
    frexp,
    fused,
    halves,
    inputs,
    leading_signs,
    maximum,
    median,
    median_of,
    minimum,
    s8,
    same,
    turns,
    wide,
    within_ulp,
)

N = 128
# (arch, assembly, types: of the result and of the sources, oracle of one lane). d, a, b, c are registers or pairs.
V: list[tuple[str, str, str, Oracle]] = []


def vector(arch: str, types: str, cases: dict[str, Oracle], suffix: str = "") -> None:
    for name, oracle in cases.items():
        head, _, tail = name.partition(" ")
        letters = ", ".join("dabc"[: len(types.split())])
        V.append((arch, f"{head} {letters} {tail}{suffix}".strip(), types, oracle))


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


vector(OLD, "f32 f32", {
    "v_rcp_iflag_f32": within_ulp(lambda x: 1 / x), "v_rcp_f32": within_ulp(lambda x: 1 / x),
    "v_sqrt_f32": within_ulp(np.sqrt), "v_rsq_f32": within_ulp(lambda x: 1 / np.sqrt(np.float64(x))),
    "v_cos_f32": lambda x: np.float32(np.cos(turns(np.float64(flushed(x))))),
})  # fmt: skip

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
