"""What atomic operations of a GPU leave in memory, in Python's integers and NumPy's floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def low(x: int) -> int:
    return x & 0xFFFFFFFF


def high(x: int) -> int:
    return x >> 32


def into(old: int, new: int, bits: int = 32) -> int:
    """The low bits replaced."""
    return old >> bits << bits | new & ((1 << bits) - 1)


def sext(x: int, bits: int) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def float_of(x: int, bits: int) -> Any:
    return np.array([x & ((1 << bits) - 1)], np.uint64).astype(f"u{bits // 8}").view(f"f{bits // 8}")[0]


def bits_of(x: Any) -> int:
    return int(np.array([x]).view(f"u{x.itemsize}")[0])


def floats(operation: Callable[[Any, Any], Any]) -> Callable[[int, int, int, int], int]:
    return lambda old, x, _, bits: bits_of(operation(float_of(old, bits), float_of(x, bits)))


def pairs(operation: Callable[[int, int], int]) -> Callable[[int, int, int, int], int]:
    return lambda old, x, _, bits: operation(old & 0xFFFF, x & 0xFFFF) | operation(old >> 16, x >> 16) << 16


def half_sum(a: int, b: int) -> int:
    return bits_of(float_of(a, 16) + float_of(b, 16))


def brain_sum(a: int, b: int) -> int:
    total = bits_of(float_of(a << 16, 32) + float_of(b << 16, 32))
    return (total + 0x7FFF + (total >> 16 & 1)) >> 16


# What memory holds afterwards: of what it held, the operand, and the second one (compared with, or new bits).
ATOMIC: dict[str, Callable[[int, int, int, int], int]] = {
    "swap": lambda old, x, y, bits: x,
    "cmpswap": lambda old, x, y, bits: x if old == y else old,
    "add": lambda old, x, y, bits: old + x,
    "sub": lambda old, x, y, bits: old - x,
    "rsub": lambda old, x, y, bits: x - old,
    "min_i": lambda old, x, y, bits: min(old, x, key=lambda v: sext(v, bits)),
    "min_u": lambda old, x, y, bits: min(old, x),
    "max_i": lambda old, x, y, bits: max(old, x, key=lambda v: sext(v, bits)),
    "max_u": lambda old, x, y, bits: max(old, x),
    "and": lambda old, x, y, bits: old & x,
    "or": lambda old, x, y, bits: old | x,
    "xor": lambda old, x, y, bits: old ^ x,
    "mskor": lambda old, x, y, bits: old & ~x | y,
    "inc": lambda old, x, y, bits: 0 if old >= x else old + 1,
    "dec": lambda old, x, y, bits: x if old == 0 or old > x else old - 1,
    "sub_clamp": lambda old, x, y, bits: max(old - x, 0),
    "cond_sub": lambda old, x, y, bits: old - x if old >= x else old,
    "add_f": floats(lambda a, b: a + b),
    "min_f": floats(min),
    "max_f": floats(max),
    "pk_add_f16": pairs(half_sum),
    "pk_add_bf16": pairs(brain_sum),
}
