"""Attention in every form that a model may have, in float64, key by key, and a bound of how far kernels may be off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rocmforge.tests.kernels.kernel_harness import ROUNDING, Array, Float32, Float64, Step, as_stored, kv_pages

LENGTH = 304  # positions of a sequence: more than one span of 256
CAUSAL = ((0, 0, 11), (1, 299, 1), (2, 250, 17), (3, 15, 2), (1, 40, 1))
WHOLE = ((0, 0, 12), (2, 0, 1), (1, 0, 130))
"""Chunks of a batch: sequence, first position, tokens; of sequences that are seen both ways, all."""


@dataclass(frozen=True, slots=True)
class Form:
    """What attention of a layer is; attributes are those of the operation, `value_dim` given."""

    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    value_dim: int = 32
    kv_dtype: str = "f16"
    window: int = 0
    chunk: int = 0
    both_ways: bool = False
    softcap: float = 0.0
    max_bias: float = 0.0
    sinks: bool = False
    queries_alone: bool = False
    values_in_keys: bool = False

    @property
    def attributes(self) -> dict[str, int | float | bool]:
        """Those of a node, where they are not as usual."""
        names = ("window", "chunk", "both_ways", "softcap", "max_bias", "values_in_keys")
        found = {name: getattr(self, name) for name in names if getattr(self, name)}
        return found | ({"value_dim": self.value_dim} if self.value_dim != self.head_dim else {})

    @property
    def stride(self) -> int:
        """Columns of a row of queries."""
        rest = 0 if self.queries_alone else self.kv_columns
        return self.heads * self.head_dim + rest

    @property
    def kv_columns(self) -> int:
        """Columns of keys and values of a row."""
        return self.kv_heads * (self.head_dim + self.value_dim * (not self.values_in_keys))

    def sees(self, query: int, key: int, length: int) -> bool:
        """Whether a position sees another of a sequence of that length."""
        if self.both_ways:
            return key < length and (not self.window or abs(query - key) <= self.window // 2)
        if self.chunk and key < query - query % self.chunk:
            return False
        return key <= query and (not self.window or query - key < self.window)

    def slope(self, head: int) -> float:
        """Of ALiBi: powers of 2^(-max_bias / n) for n heads, a power of two; between these for the heads left over."""
        n = 2 ** math.floor(math.log2(self.heads))
        if head < n:
            return math.pow(2, -self.max_bias / n * (head + 1))
        return math.pow(2, -self.max_bias / 2 / n * (2 * (head - n) + 1))


@dataclass(frozen=True, slots=True)
class Scene:
    """Sequences in a paged cache, and a step over some of them."""

    form: Form
    keys: Array  # [block, kv head, 16, elements as stored]
    values: Array
    blocks: list[list[int]]
    rows: Float32  # [T, stride]
    sinks: Float32
    step: Step

    def pages(self, lanes: bool = False) -> tuple[Array, Array]:
        keys = self.keys.swapaxes(2, 3)
        if self.form.values_in_keys:
            by_lanes, by_position = kv_pages(keys, self.keys, self.form.kv_dtype, lanes)
            return (by_lanes if lanes else by_position,) * 2
        return kv_pages(keys, self.values, self.form.kv_dtype, lanes)

    def some(self, tokens: slice) -> Scene:
        """The step of some of the tokens alone."""
        positions, rows = self.step.positions[tokens], self.step.rows[tokens]
        step = Step(len(rows), positions=positions, rows=rows, block_table=self.blocks)
        return replace(self, rows=self.rows[tokens], step=step)

    def few_together(self) -> tuple[slice, ...]:
        """Tokens that a step may have alone: of sequences that are seen both ways, all of one."""
        if self.form.both_ways:
            return (slice(0, 12), slice(12, 13))
        return (slice(0, 16), slice(16, 20), slice(self.step.num_tokens - 1, self.step.num_tokens))

    def seen(self) -> list[list[int]]:
        """Positions that each token sees."""
        ends: dict[int, int] = {}
        for row, position in zip(self.step.rows, self.step.positions, strict=True):
            ends[row] = max(ends.get(row, 0), position + 1)
        return [
            [key for key in range(LENGTH) if self.form.sees(position, key, ends[row])]
            for row, position in zip(self.step.rows, self.step.positions, strict=True)
        ]

    def unseen_blocks_spoilt(self) -> Scene:
        """The same, with no number in blocks of which no token sees a position."""
        keys, values = self.keys.copy(), self.values.copy()
        pairs = zip(self.step.rows, self.seen(), strict=True)
        used = {self.blocks[row][key // 16] for row, seen in pairs for key in seen}
        for block in set(range(len(keys))) - used:
            keys[block], values[block] = np.nan, np.nan
        return replace(self, keys=keys, values=values)


def scene(form: Form, multiple: int, seed: int = 0) -> Scene:
    """Args: multiple of elements that a head is filled up to."""
    random = np.random.default_rng(seed)
    per_row = LENGTH // 16
    blocks = random.permutation(4 * per_row).reshape(4, per_row).tolist()

    def stored(size: int) -> Array:
        numbers = as_stored(random.normal(0, 1, (4 * per_row, form.kv_heads, 16, size)), form.kv_dtype)
        return np.pad(numbers, ((0, 0), (0, 0), (0, 0), (0, -size % multiple)))

    chunks = WHOLE if form.both_ways else CAUSAL
    positions = [first + i for _, first, count in chunks for i in range(count)]
    rows = [sequence for sequence, _, count in chunks for _ in range(count)]
    queries = random.normal(0, 1, (len(rows), form.stride)).astype(np.float32)
    sinks = random.normal(1, 1, form.heads).astype(np.float32)
    step = Step(len(rows), positions=positions, rows=rows, block_table=blocks)
    keys, values = stored(form.head_dim), stored(form.value_dim)
    return Scene(form, keys, keys if form.values_in_keys else values, blocks, queries, sinks, step)


def _scores(s: Scene, query: Float64, keys: Float64, position: int, seen: Sequence[int]) -> tuple[Float64, Float64]:
    """float64[heads, keys], and how far each may be off."""
    form, scale = s.form, s.form.head_dim**-0.5
    scores = np.einsum("hd,hkd->hk", query, keys) * scale
    off = 2 * (form.head_dim + 2) * ROUNDING * np.einsum("hd,hkd->hk", abs(query), abs(keys)) * scale
    if form.softcap:
        # tanh is 1 - 2 / (e + 1): half of what e is off, and the roundings of numbers as large as the cap.
        scores = np.array([[form.softcap * math.tanh(x / form.softcap) for x in row] for row in scores])
        off = off + form.softcap * (2.0**-22 + 6 * ROUNDING)
    if form.max_bias:
        # The slope is an exponential of a number below 8, which has 3 roundings; then two products or sums.
        distance = np.array([abs(position - key) for key in seen])
        bias = np.array([[form.slope(head)] for head in range(form.heads)]) * distance
        scores, off = scores - bias, off + bias * (2.0**-21 + 2 * 3 * 8 * ROUNDING) + 2 * np.abs(bias) * ROUNDING
    return scores, off


def attend(s: Scene) -> tuple[Float64, Float64]:
    """float64[T, heads, value_dim], and a bound of the errors.

    A weight is off by a factor of e^(what its score is off), and by vector_exp's own 2^-21 for itself and each
    rescaling; the sum over positions adds one rounding a position; numerator and denominator have these both.
    """
    form, group = s.form, s.form.heads // s.form.kv_heads
    results, bounds = [], []
    for t, (row, position, seen) in enumerate(zip(s.step.rows, s.step.positions, s.seen(), strict=True)):
        places = [(s.blocks[row][key // 16], key % 16) for key in seen]
        keys, values = (
            np.repeat(np.array([page[b, :, p] for b, p in places], np.float64).swapaxes(0, 1), group, axis=0)
            for page in (s.keys, s.values)
        )
        query = s.rows[t, : form.heads * form.head_dim].reshape(form.heads, -1).astype(np.float64)
        scores, off = _scores(s, query, keys[..., : form.head_dim], position, seen)
        sinks = s.sinks[:, None].astype(np.float64) if form.sinks else np.full((form.heads, 1), -np.inf)
        largest = np.maximum(scores.max(-1, keepdims=True), sinks)
        weights = np.exp(scores - largest)
        weights /= weights.sum(-1, keepdims=True) + np.exp(sinks - largest)
        values = values[..., : form.value_dim]
        relative = np.expm1(off) + 2 * 2.0**-21 + (len(seen) + 10) * ROUNDING
        magnitudes = np.einsum("hk,hkd->hd", weights, np.abs(values))
        inexact = np.einsum("hk,hkd->hd", weights * relative, np.abs(values))
        results.append(np.einsum("hk,hkd->hd", weights, values))
        bounds.append(inexact + (weights * relative).sum(-1, keepdims=True) * magnitudes)
    return np.array(results), np.array(bounds)
