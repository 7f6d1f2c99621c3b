"""What kernels compute, in float64, and bounds of how far they may be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rocmforge.tests.kernels.kernel_harness import (
    FLOAT_TYPES,
    ROUNDING,
    SUPER_SHIFT,
    SUPER_TYPES,
    Array,
    Float32,
    Float64,
    Step,
    as_stored,
    kv_pages,
)
from rocmforge.tests.oracles.dequantize import dequantize

# The largest is 127, so q8_0's scale is 1: ties, which go away from zero, and what adding a half would round up to one.
HARD_TO_ROUND = (127, -0.5, 0.5, 1.5, -1.5, 2.5, -2.5, 126.5, -126.5, 0.49999997, -0.49999997, 0, -0.0, 3, 1e-30, 1e-45)


def weights_as_float64(raw: npt.NDArray[np.uint8], kind: str) -> Float64:
    """As `dequantize`, of which the last step, a subtraction or addition of float32, may have rounded."""
    return dequantize(raw, kind).astype(np.float64)


# Bytes of a block, and where its quants are, of types whose weights are scale * quant + minimum.
WITH_MINIMA = {
    "Q4_1": (20, slice(4, None)),
    "Q5_1": (24, slice(4, None)),
    "Q2_K": (84, slice(16, 80)),
    "Q4_K": (144, slice(16, None)),
    "Q5_K": (176, slice(16, None)),
}


def term_magnitudes(raw: npt.NDArray[np.uint8], kind: str) -> Float64:
    """|scale * quant| + |minimum| of each weight."""
    weights = weights_as_float64(raw, kind)
    if kind not in WITH_MINIMA:
        return np.abs(weights)
    minima = minima_of(raw, kind)
    return np.abs(weights - minima) + np.abs(minima)


def minima_of(raw: npt.NDArray[np.uint8], kind: str) -> Float64:
    """The minimum of each weight: what it is with its quants zeroed."""
    block_bytes, quants = WITH_MINIMA[kind]
    zeroed = raw.reshape(-1, block_bytes).copy()
    zeroed[:, quants] = 0
    return weights_as_float64(zeroed.reshape(raw.shape), kind)


def matmul_tolerance(raw: npt.NDArray[np.uint8], kind: str, x: Float64) -> Float64:
    """float64[tokens, rows], a bound of the rounding errors.

    Float weights: each term is rounded once, and goes through at most `columns` additions. Quantized weights: a block
    of 32 makes two exact integers, each scaled (1 rounding), added (1), scaled again (1); its minimum's sum has 3 of
    its own; then there are at most 2 additions a block. Of a superblock there are as many, and 3 more for all of its
    blocks. `dequantize` itself rounds a weight twice at most. What minima of superblocks are multiplied with is rounded
    to four units of the activations, of 16 columns to two; the largest of 256 is 127 * 2^SUPER_SHIFT units.
    """
    columns = x.shape[1]
    roundings = columns + 2 if kind in FLOAT_TYPES else 2 * columns / 32 + 3 * columns / 256 + 3 + 2
    tolerance = np.asarray(2 * roundings * ROUNDING * (np.abs(x) @ term_magnitudes(raw, kind).T))
    if kind in SUPER_TYPES and kind in WITH_MINIMA:
        units = np.abs(x).reshape(len(x), -1, 256).max(axis=-1) / (127 << SUPER_SHIFT)
        part, most = (16, 1) if kind == "Q2_K" else (32, 2)
        parts = minima_of(raw, kind)[:, ::part]
        tolerance += most * units @ np.abs(parts).reshape(len(raw), columns // 256, -1).sum(axis=-1).T
    return tolerance


def silu(x: Float64) -> Float64:
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)))


# vector_exp: the argument's reduction, its polynomial's remainder (2^-25) and 7 roundings of partial sums, the largest
# of which is near 1: less than 2^-21 of the result. The sum, quotient and product add 3 roundings.
SILU_TOLERANCE = 2.0**-21 + 2 * 3 * ROUNDING


@dataclass(frozen=True, slots=True)
class Context:
    """Sequences in a paged cache; a batch of chunks (sequence, first position, tokens)."""

    keys: Array  # [block, kv head, head_dim, 16], what the pages hold
    values: Array  # [block, kv head, 16, head_dim]
    blocks: list[list[int]]
    qkv: Float32
    step: Step
    kv_dtype: str

    def pages(self, lanes: bool = False) -> tuple[Array, Array]:
        return kv_pages(self.keys, self.values, self.kv_dtype, lanes)


CHUNKS = ((0, 0, 11), (1, 299, 1), (2, 250, 17), (3, 15, 2), (1, 40, 1))


def context(random: np.random.Generator, heads: int, kv_heads: int, head_dim: int, kv_dtype: str = "f16") -> Context:
    per_row = 19  # 304 positions: more than one span of 256
    blocks = random.permutation(4 * per_row).reshape(4, per_row).tolist()
    pages = (4 * per_row, kv_heads)
    keys, values = (as_stored(random.normal(0, 1, (*pages, 16, head_dim)), kv_dtype) for _ in range(2))
    positions = [first + i for _, first, count in CHUNKS for i in range(count)]
    rows = [sequence for sequence, _, count in CHUNKS for _ in range(count)]
    qkv = random.normal(0, 1, (len(rows), heads + 2 * kv_heads, head_dim)).astype(np.float32)
    step = Step(len(rows), positions=positions, rows=rows, block_table=blocks)
    return Context(keys.swapaxes(2, 3), values, blocks, qkv, step, kv_dtype)


def attend(c: Context, heads: int, head_dim: int) -> tuple[Float64, Float64]:
    """float64[T, heads, head_dim], and a bound of the errors.

    A score is a sum of head_dim terms, off by at most d = (head_dim + 2) roundings of their magnitudes; a weight then
    by a factor of e^(2d), and by vector_exp's own 2^-21 for itself and each rescaling; the sum over positions adds
    one rounding a position.
    """
    kv_heads = c.keys.shape[1]
    results, bounds = [], []
    for t, (row, position) in enumerate(zip(c.step.rows, c.step.positions, strict=True)):
        pages = c.blocks[row][: position // 16 + 1]
        count = position + 1
        keys = np.concatenate([c.keys[p].transpose(0, 2, 1) for p in pages], axis=1)[:, :count].astype(np.float64)
        values = np.concatenate([c.values[p] for p in pages], axis=1)[:, :count].astype(np.float64)
        keys, values = (np.repeat(x, heads // kv_heads, axis=0) for x in (keys, values))
        query = c.qkv[t, :heads, :, None].astype(np.float64)
        scores = (keys @ query)[..., 0] * head_dim**-0.5
        off = 2 * (head_dim + 2) * ROUNDING * (np.abs(keys) @ np.abs(query))[..., 0].max(-1) * head_dim**-0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        results.append((weights[:, None] @ values)[:, 0])
        relative = np.expm1(2 * off) + 4 * 2.0**-21 + 2 * (count + 8) * ROUNDING
        bounds.append(relative[:, None] * (weights[:, None] @ np.abs(values))[:, 0])
    return np.array(results), np.array(bounds)
