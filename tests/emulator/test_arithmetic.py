"""Arithmetic instructions against NumPy, on all families: bit for bit where IEEE 754 or integers decide."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

ARCHES = ["gfx1100", "gfx1201", "gfx942"]
F32, F64, F16, I32, U32, I64, U64, I16, U16 = ["float", "double", "f16", "i32", "u32", "i64", "u64", "i16", "u16"]
NUMPY: dict[str, Any] = {
    F32: np.float32, F64: np.float64, F16: np.float16, I32: np.int32, U32: np.uint32, I64: np.int64, U64: np.uint64,
    I16: np.int16, U16: np.uint16,
}  # fmt: skip


def half(x: np.ndarray) -> Any:
    return x.astype(np.float16)


def carries(a: np.ndarray, b: np.ndarray, sign: int) -> Any:
    """High 64 bits of a sum or difference of 96-bit numbers, by Python's integers."""
    low = 0xFFFFFFFF if sign > 0 else 0
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    return np.array([((x << 32 | low) + sign * (y << 32 | 1)) >> 64 & (2**64 - 1) for x, y in pairs], np.uint64)


# name: (element types of the inputs, type of the output, expression, NumPy oracle).
CASES: dict[str, tuple[tuple[str, ...], str, str, Callable[..., Any] | None]] = {
    # Floats: add, sub, mul, fma, min, max, and what the compiler makes of negated and absolute operands.
    "add_f32": ((F32, F32), F32, "a + b", lambda a, b: a + b),
    "sub_f32": ((F32, F32), F32, "a - b", lambda a, b: a - b),
    "mul_f32": ((F32, F32), F32, "a * b", lambda a, b: a * b),
    "neg_abs_f32": ((F32, F32), F32, "-__builtin_fabsf(a) * -b", lambda a, b: -np.abs(a) * -b),
    "div_f32": ((F32, F32), F32, "a / b", lambda a, b: a / b),
    "sqrt_f32": ((F32,), F32, "__builtin_sqrtf(__builtin_fabsf(a))", lambda a: np.sqrt(np.abs(a))),
    "minnum_f32": ((F32, F32), F32, "__builtin_fminf(a, b)", np.fmin),
    "maxnum_f32": ((F32, F32), F32, "__builtin_fmaxf(a, b)", np.fmax),
    "med3_f32": ((F32,), F32, "__builtin_amdgcn_fmed3f(a, -1.5f, 2.0f)", lambda a: np.clip(a, np.float32(-1.5), 2)),
    "floor_f32": ((F32,), F32, "__builtin_floorf(a)", np.floor),
    "ceil_f32": ((F32,), F32, "__builtin_ceilf(a)", np.ceil),
    "trunc_f32": ((F32,), F32, "__builtin_truncf(a)", np.trunc),
    "rint_f32": ((F32,), F32, "__builtin_rintf(a)", np.rint),
    "add_f64": ((F64, F64), F64, "a + b", lambda a, b: a + b),
    "mul_f64": ((F64, F64), F64, "a * b", lambda a, b: a * b),
    "div_f64": ((F64, F64), F64, "a / b", lambda a, b: a / b),
    "add_f16": ((F16, F16), F16, "a + b", lambda a, b: a + b),
    "mul_f16": ((F16, F16), F16, "a * b", lambda a, b: a * b),
    "fma_f16": ((F16, F16, F16), F16, "__builtin_fmaf16(a, b, c)",
                lambda a, b, c: half(a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble))),
    "fma_f32": ((F32, F32, F32), F32, "__builtin_fmaf(a, b, c)", None),
    # Conversions.
    "f32_to_f16": ((F32,), F16, "(f16)a", half),
    "f16_to_f32": ((F16,), F32, "(float)a", lambda a: a.astype(np.float32)),
    "f32_to_f64": ((F32,), F64, "(double)a", lambda a: a.astype(np.float64)),
    "f64_to_f32": ((F64,), F32, "(float)a", lambda a: a.astype(np.float32)),
    "i32_to_f32": ((I32,), F32, "(float)a", lambda a: a.astype(np.float32)),
    "u32_to_f32": ((U32,), F32, "(float)a", lambda a: a.astype(np.float32)),
    "u8_to_f32": ((U32,), F32, "(float)(a >> 16 & 255)", lambda a: (a >> 16 & 255).astype(np.float32)),
    # Integers.
    "add_u32": ((U32, U32), U32, "a + b", lambda a, b: a + b),
    "mul_u32": ((U32, U32), U32, "a * b", lambda a, b: a * b),
    "mulhi_u32": ((U32, U32), U32, "(u32)((u64)a * b >> 32)",
                  lambda a, b: (a.astype(np.uint64) * b.astype(np.uint64) >> 32).astype(np.uint32)),
    "mulhi_i32": ((I32, I32), I32, "(i32)((i64)a * b >> 32)",
                  lambda a, b: (a.astype(np.int64) * b >> 32).astype(np.int32)),
    "mul24": ((U32, U32), U32, "(a & 0xffffff) * (b & 0xffffff)", lambda a, b: (a & 0xFFFFFF) * (b & 0xFFFFFF)),
    "add_u64": ((U64, U64), U64, "a + b", lambda a, b: a + b),
    "sub_u64": ((U64, U64), U64, "a - b", lambda a, b: a - b),
    # Three words with carries: the middle one is full where b is, so it passes a carry on.
    "carries": ((U64, U64), U64,
                "(u64)((((unsigned __int128)a << 32 | 0xffffffffu) + ((unsigned __int128)b << 32 | 1)) >> 64)",
                lambda a, b: carries(a, b, 1)),
    "borrows": ((U64, U64), U64, "(u64)((((unsigned __int128)a << 32) - ((unsigned __int128)b << 32 | 1)) >> 64)",
                lambda a, b: carries(a, b, -1)),
    "mul_u64": ((U64, U64), U64, "a * b", lambda a, b: a * b),
    "mad_u64": ((U32, U32, U64), U64, "(u64)a * b + c", lambda a, b, c: a.astype(np.uint64) * b + c),
    "mad_i64": ((I32, I32, I64), I64, "(i64)a * b + c", lambda a, b, c: a.astype(np.int64) * b + c),
    "shl_u32": ((U32, U32), U32, "a << (b & 31)", lambda a, b: a << (b & 31)),
    "shr_u32": ((U32, U32), U32, "a >> (b & 31)", lambda a, b: a >> (b & 31)),
    "sar_i32": ((I32, U32), I32, "a >> (b & 31)", lambda a, b: a >> (b & 31).astype(np.int32)),
    "shl_u64": ((U64, U32), U64, "a << (b & 63)", lambda a, b: a << (b & 63).astype(np.uint64)),
    "shr_u64": ((U64, U32), U64, "a >> (b & 63)", lambda a, b: a >> (b & 63).astype(np.uint64)),
    "sar_i64": ((I64, U32), I64, "a >> (b & 63)", lambda a, b: a >> (b & 63).astype(np.int64)),
    "bfe_u32": ((U32,), U32, "a >> 5 & 0x1ff", lambda a: a >> 5 & 0x1FF),
    "bfe_i32": ((I32,), I32, "a << 7 >> 20", lambda a: a << 7 >> 20),
    "bfi": ((U32, U32, U32), U32, "(a & b) | (~a & c)", lambda a, b, c: (a & b) | (~a & c)),
    "alignbit": ((U32, U32), U32, "__builtin_amdgcn_alignbit(a, b, 11)", lambda a, b: a << 21 | b >> 11),
    "alignbyte": ((U32, U32), U32, "__builtin_amdgcn_alignbyte(a, b, 3)", lambda a, b: a << 8 | b >> 24),
    "popcount": ((U32,), U32, "__builtin_popcount(a)", lambda a: np.bitwise_count(a).astype(np.uint32)),
    "clz": ((U32,), U32, "a ? __builtin_clz(a) : 99",
            lambda a: np.where(a == 0, 99, 32 - np.frexp(a.astype(np.float64))[1]).astype(np.uint32)),
    "ctz": ((U32,), U32, "a ? __builtin_ctz(a) : 99",
            lambda a: np.where(a == 0, 99, np.log2(np.maximum(a & -a, 1).astype(np.float64))).astype(np.uint32)),
    "bitreverse": ((U32,), U32, "__builtin_bitreverse32(a)",
                   lambda a: np.packbits(np.unpackbits(a.view(np.uint8), bitorder="little").reshape(-1, 32)[:, ::-1],
                                         axis=1, bitorder="little").copy().view(np.uint32).ravel()),
    "min3_i32": ((I32, I32, I32), I32, "a < b ? (a < c ? a : c) : (b < c ? b : c)",
                 lambda a, b, c: np.minimum(np.minimum(a, b), c)),
    "select": ((I32, I32), I32, "a < b ? a * 3 : b + 7", lambda a, b: np.where(a < b, a * 3, b + 7)),
    "lshl_add": ((U32, U32), U32, "(a << 4) + b", lambda a, b: (a << 4) + b),
    "add3": ((U32, U32, U32), U32, "a + b + c", lambda a, b, c: a + b + c),
    "xor_and_or": ((U32, U32, U32), U32, "((a ^ b) & 0xff00ff00) | c", lambda a, b, c: ((a ^ b) & 0xFF00FF00) | c),
    "uaddsat": ((U32, U32), U32, "__builtin_elementwise_add_sat(a, b)",
                lambda a, b: np.minimum(a.astype(np.uint64) + b, 0xFFFFFFFF).astype(np.uint32)),
    "ssubsat": ((I32, I32), I32, "__builtin_elementwise_sub_sat(a, b)",
                lambda a, b: np.clip(a.astype(np.int64) - b, -(2**31), 2**31 - 1).astype(np.int32)),
    "add_i16": ((I16, I16), I16, "(i16)(a + b)", lambda a, b: a + b),
    "mul_i16": ((I16, I16), I16, "(i16)(a * b)", lambda a, b: a * b),
    "shr_u16": ((U16, U16), U16, "(u16)(a >> (b & 15))", lambda a, b: a >> (b & 15)),
    "sad_u8": ((U32, U32, U32), U32, "__builtin_amdgcn_sad_u8(a, b, c)",
               lambda a, b, c: c + np.abs(a.view(np.uint8).astype(np.int32) - b.view(np.uint8))
               .reshape(-1, 4).sum(1).astype(np.uint32)),
    # Compares of every type, with NaNs in the floats.
    "cmp_f32": ((F32, F32), U32, "(a < b) + 2 * (a <= b) + 4 * (a == b) + 8 * (a != b)",
                lambda a, b: ((a < b) + 2 * (a <= b) + 4 * (a == b) + 8 * (a != b)).astype(np.uint32)),
    "cmp_nan": ((F32, F32), U32, "__builtin_isnan(a) + 2 * __builtin_isunordered(a, b)",
                lambda a, b: (np.isnan(a) + 2 * (np.isnan(a) | np.isnan(b))).astype(np.uint32)),
    "cmp_f16": ((F16, F16), U32, "(a < b) + 2 * !(a <= b) + 4 * (a == b)",
                lambda a, b: ((a < b) + 2 * ~(a <= b) + 4 * (a == b)).astype(np.uint32)),
    "cmp_f64": ((F64, F64), U32, "(a < b) + 2 * !(a >= b) + 4 * (a != b)",
                lambda a, b: ((a < b) + 2 * ~(a >= b) + 4 * (a != b)).astype(np.uint32)),
    "cmp_u64": ((U64, U64), U32, "(a < b) + 2 * (a == b) + 4 * (a > b)",
                lambda a, b: ((a < b) + 2 * (a == b) + 4 * (a > b)).astype(np.uint32)),
    "cmp_i64": ((I64, I64), U32, "(a < b) + 2 * (a >= b)", lambda a, b: ((a < b) + 2 * (a >= b)).astype(np.uint32)),
    "cmp_i16": ((I16, I16), U32, "(a < b) + 2 * (a == b)", lambda a, b: ((a < b) + 2 * (a == b)).astype(np.uint32)),
    "class_f32": ((F32,), U32, "__builtin_amdgcn_classf(a, 0x204) + 2 * __builtin_amdgcn_classf(a, 0x90)",
                  lambda a: (np.isinf(a) + 2 * ((a != 0) & (np.abs(a) < 2**-126))).astype(np.uint32)),
    "ldexp_f32": ((F32, I32), F32, "__builtin_ldexpf(a, b % 200)", None),
    "frexp_f32": ((F32,), F32, "__builtin_amdgcn_frexp_mantf(a) * 0.5f + __builtin_amdgcn_frexp_expf(a)", None),
}  # fmt: skip
N = 4096


def inputs(kind: str, seed: int) -> Any:
    """Random bits, so every exponent, denormals, infinities and NaNs, mixed with moderate values and edges."""
    rng = np.random.default_rng(seed)
    dtype: Any = np.dtype(NUMPY[kind])
    bits = rng.integers(0, 256, N * dtype.itemsize, dtype=np.uint8).view(dtype).copy()
    if dtype.kind == "f":
        info = np.finfo(dtype)
        bits[: N // 2] = (rng.standard_normal(N // 2) * 4).astype(dtype)
        edges = [
            0.0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            info.max,
            -info.max,
            info.tiny,
            info.smallest_subnormal,
            1,
            -1,
            0.5,
            2.5,
        ]
    else:
        bits[: N // 4] = rng.integers(0, 40, N // 4).astype(dtype)
        edges = [0, 1, np.iinfo(dtype).max, np.iinfo(dtype).min, 2, 31, 32, 63]
    bits[-64:] = rng.choice(np.array(edges).astype(dtype), 64)
    return bits


def source() -> str:
    """One kernel a case."""
    parts = []
    for name, (kinds, out, expression, _) in CASES.items():
        parameters = ", ".join(f"const {kind} *p{i}" for i, kind in enumerate(kinds))
        loads = " ".join(f"{kind} {'abc'[i]} = p{i}[GLOBAL];" for i, kind in enumerate(kinds))
        parts.append(f"KERNEL {name}({out} *out, {parameters}) {{ {loads} out[GLOBAL] = {expression}; }}")
    return "\n".join(parts)


@cache
def gpu(arch: str) -> Gpu:
    return Gpu(source(), arch, flags=("-ffp-contract=off",))


def exact_fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Float32 fused multiply-add through Python's integers: exact, then rounded once."""
    result = np.empty_like(a)
    with np.errstate(all="ignore"):
        plain = a.astype(np.float64) * b + c
    for i, (x, y, z) in enumerate(zip(a.tolist(), b.tolist(), c.tolist(), strict=True)):
        if not np.isfinite([x, y, z]).all() or not plain[i]:
            result[i] = plain[i]
            continue
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        near = np.float32(plain[i])
        options = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
        finite = [v for v in options if np.isfinite(v)]
        result[i] = near if len(finite) < 3 else min(
            finite, key=lambda v: (abs(Fraction(float(v)) - exact), int(np.float32(v).view(np.uint32)) & 1)
        )  # fmt: skip
    return result


def special_oracle(name: str, arrays: list[np.ndarray]) -> Any:
    if name == "fma_f32":
        return exact_fma(*arrays)
    if name == "ldexp_f32":
        remainder = np.fmod(arrays[1], 200)
        return np.ldexp(arrays[0].astype(np.float64), remainder).astype(np.float32)
    mantissa, exponent = np.frexp(arrays[0])
    finite = np.isfinite(arrays[0])
    return mantissa * np.float32(0.5) + np.where(finite, exponent, 0).astype(np.float32)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_arithmetic(name: str, arch: str) -> None:
    """Equal bits; any NaN equals any other, and zeros of min and max may differ in sign where NumPy leaves it open."""
    kinds, out_kind, _, oracle = CASES[name]
    arrays = [inputs(kind, 10 * i + 1) for i, kind in enumerate(kinds)]
    out = np.zeros(N, NUMPY[out_kind])
    gpu(arch).run(name, N // 128, 128, out, *arrays)
    want = (oracle(*arrays) if oracle else special_oracle(name, arrays)).astype(NUMPY[out_kind])
    if out.dtype.kind == "f":
        same = (out.view(f"u{out.itemsize}") == want.view(f"u{out.itemsize}")) | (np.isnan(out) & np.isnan(want))
        if name in ("minnum_f32", "maxnum_f32", "med3_f32"):
            same |= (out == 0) & (want == 0)
            # A signalling NaN makes the result a NaN or the other operand, by IEEE mode: both are accepted.
            same |= np.isnan(arrays[0]) | np.isnan(arrays[-1])
        if name == "div_f64":
            # The last step of a division scales a rounded quotient: a denormal one is rounded twice.
            tiny = np.abs(want) < np.finfo(np.float64).tiny
            same |= tiny & (np.abs(out - want) <= np.finfo(np.float64).smallest_subnormal)
    else:
        same = out == want
    bad = np.flatnonzero(~same)
    assert not len(bad), [(int(i), *(a[i] for a in arrays), out[i], want[i]) for i in bad[:5]]


@pytest.mark.parametrize("arch", ARCHES)
def test_fused_half_is_rounded_once(arch: str) -> None:
    """(1 + 2**-10) +- 2**-11 * (1 - 2**-20) lie nearer to 1 + 2**-10 than to the halves beside it, by less than a float
    can tell. Rounded to float first, the sum is a tie that goes up to the even half; cut to a float, the difference is
    a tie that goes down to it."""
    a, b, c = (np.full(N, v, np.float16) for v in ((1 + 2**-10) * 2**-5, (1 - 2**-10) * 2**-6, 1 + 2**-10))
    a[::2] *= -1
    out = np.zeros(N, np.float16)
    gpu(arch).run("fma_f16", N // 128, 128, out, a, b, c)
    assert set(out.tolist()) == {1 + 2**-10}
