"""Operands of operations, and what these give in Python's integers and NumPy's floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

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


def wide(array: np.ndarray) -> np.ndarray:
    """As 64 bits a lane, above a smaller value what an operation has to leave alone."""
    if array.itemsize == 8:
        return array.copy()
    words = array.view(f"u{array.itemsize}").astype(np.uint64)
    return words | np.uint64(0xABCD << 48)


def flushed(x: Any) -> Any:
    return np.copysign(np.float32(0), x) if abs(x) < np.finfo(np.float32).tiny else x


def within_ulp(function: Callable[[Any], Any]) -> Oracle:
    """Of what is flushed, itself or one of its neighbours, by the bits of the operand."""

    def oracle(x: Any) -> Any:
        bits = int(np.float32(flushed(np.float32(function(flushed(x))))).view(np.uint32))
        operand = int(np.float32(x).view(np.uint32))
        stays = operand + 1 & 0x7FFFFF < 2 or not 1 < bits >> 23 & 255 < 254
        step = 0 if stays else (-1, 1, 0, 0)[(operand * 0x9E3779B1 & 0xFFFFFFFF) >> 30]
        return np.uint32(bits + step).view(np.float32)

    return oracle


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

OLD, NEW, LAST = "gfx942", "gfx1100", "gfx1201"
CLOBBERS = ", ".join(f'"v{i}"' for i in range(10, 20)) + ', "vcc", "memory"'
