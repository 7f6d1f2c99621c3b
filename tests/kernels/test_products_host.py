"""Products of each type of weights on the host, built and run by themselves, against NumPy in float64.

Where weights are quantized, products of int8 are exact, so that what is left is the rounding of float32 sums:
`ROUNDING` times the number of roundings that a term goes through times the sum of the terms' magnitudes. Portable code
rounds a multiply-add twice, hence a factor of 2 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.packing import interleave_pairs, pack_rows
from rocmforge.compiler.plan import KernelSpec
from rocmforge.tests.kernels.kernel_harness import (
    FAMILIES,
    FLOAT_TYPES,
    LEVELS,
    LIKE_ANOTHER,
    Q8_BLOCK,
    ROUNDING,
    WEIGHT_TYPES,
    Array,
    Float64,
    Kernels,
    Step,
    assert_guards_whole,
    build,
    guarded,
    int8_rows,
    product_parameters,
    q8_values,
    quantize_rows,
    random_rows,
    spec,
    whole_columns,
)
from rocmforge.tests.oracles.kernels import SILU_TOLERANCE, matmul_tolerance, silu, weights_as_float64

Built = Callable[[str], Kernels]


@dataclass(frozen=True, slots=True)
class Matmul:
    """A matmul's shape; `tokens` are the batches that it is run on."""

    rows: int
    columns: int
    tokens: tuple[int, ...]
    bias: bool = False
    accumulate: bool = False
    offset: int = 0
    stride: int = 0
    at_logits_rows: bool = False
    x_super: bool = False

    def spec(self, kind: str) -> KernelSpec:
        return spec(
            "matmul",
            rows=self.rows,
            out_stride=self.stride or self.rows,
            out_offset=self.offset,
            has_bias=self.bias,
            accumulate=self.accumulate,
            at_logits_rows=self.at_logits_rows,
            **product_parameters(kind, self.columns, self.x_super),
        )


# Tokens are taken up to 16 at a time, in fours and what is left, or more, by two tiles in fours, else 8; rows
# 16, or two tiles of these: the second of the last two is short.
TAIL = Matmul(57, 256, (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 22, 29), bias=True, accumulate=True, offset=5, stride=76)
OF_SUPERBLOCKS = replace(TAIL, columns=512, x_super=True)
SUPER_TAILS = ("Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "NVFP4")
"""Types that are multiplied with blocks or with superblocks: one of each kind of weights."""
SMALLEST = Matmul(1, 256, (1,), at_logits_rows=True)


def real(kind: str) -> Matmul:
    """SmolLM2's queries, keys and values, in whole blocks."""
    return Matmul(960, whole_columns(kind, 576), (1, 9))


def gate_up(kind: str, out_q8: bool) -> KernelSpec:
    return spec("gate_up", rows=96, out_q8=out_q8, activation="silu", **product_parameters(kind, 256))


# Types whose gates come as blocks too: those are made of the finished values, whose type is not known there.
BLOCKED = ("F16", "Q4_1")


@pytest.fixture(scope="module")
def built(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All kernels of this file, by level: the best as the product builds it, the others with less optimization. Real
    shapes at the best level alone, the smallest at the last."""
    everywhere = [
        *(TAIL.spec(kind) for kind in WEIGHT_TYPES if kind not in LIKE_ANOTHER),
        *(OF_SUPERBLOCKS.spec(kind) for kind in SUPER_TAILS),
        *(gate_up(kind, False) for kind in FAMILIES),
        *(gate_up(kind, True) for kind in BLOCKED),
    ]
    folder = tmp_path_factory.mktemp("kernels")
    extra = {level: list[KernelSpec]() for level in LEVELS}
    extra[LEVELS[0]] += [TAIL.spec(kind) for kind in LIKE_ANOTHER]
    extra[LEVELS[0]] += [real(kind).spec(kind) for kind in FAMILIES]
    extra[LEVELS[-1]] += [SMALLEST.spec(kind) for kind in FAMILIES]
    flags = {level: "-O3" if level == LEVELS[0] else "-O1" for level in LEVELS}
    kernels = {
        level: build([*everywhere, *extra[level]], build_cache, folder, [level], flags[level])[level]
        for level in LEVELS
    }
    return kernels.__getitem__


def matmul_inputs(
    random: np.random.Generator, kind: str, columns: int, tokens: int, x_super: bool = False
) -> tuple[Array, Float64]:
    """Activations as the kernel reads them, and what they stand for: of each 16 of another size."""
    sizes = 2.0 ** random.integers(-1, 2, (tokens, columns // 16))
    x = (random.normal(0, 1, (tokens, columns)) * np.repeat(sizes, 16, axis=1)).astype(np.float32)
    if kind in FLOAT_TYPES:
        return x, x.astype(np.float64)
    blocks = int8_rows(x, kind, x_super)
    return blocks, q8_values(blocks)


def check_matmul(kernels: Kernels, kind: str, shape: Matmul, by_item: bool) -> None:
    random = np.random.default_rng(shape.rows)
    raw = random_rows(random, kind, shape.rows, shape.columns)
    weights, bias = pack_rows(raw, kind, shape.columns), random.normal(0, 1, shape.rows).astype(np.float32)
    longer = np.append(bias, np.full(16, 1e9, np.float32))  # where a last short tile must not reach
    for tokens in shape.tokens:
        inputs, x = matmul_inputs(random, kind, shape.columns, tokens, shape.x_super)
        out, memory = guarded((tokens, shape.stride or shape.rows), np.float32)
        mine = slice(shape.offset, shape.offset + shape.rows)
        before = out.copy()
        if shape.accumulate:
            out[:, mine] = random.normal(0, 1, (tokens, shape.rows))
        start = out[:, mine].astype(np.float64)
        # Where rows of logits are counted, tokens must not be.
        step = Step(99, logits_rows=range(tokens)) if shape.at_logits_rows else Step(tokens)
        kernels.run(shape.spec(kind), step, weights, inputs, out, longer if shape.bias else None, by_item=by_item)
        expected = x @ weights_as_float64(raw, kind).T
        expected += bias * shape.bias
        tolerance = matmul_tolerance(raw, kind, x) + 3 * ROUNDING * np.abs(expected)
        if shape.accumulate:
            expected += start
            tolerance += 3 * ROUNDING * (np.abs(start) + np.abs(bias))
        assert (np.abs(out[:, mine] - expected) <= tolerance).all(), tokens
        # The bound is far below one term of the sum, so that an error in any of them shows.
        assert tolerance.max() < 0.2 * np.abs(x).mean() * np.abs(weights_as_float64(raw, kind)).mean()
        others = np.ones(out.shape[1], bool)
        others[mine] = False
        assert np.array_equal(out[:, others].view(np.uint32), before[:, others].view(np.uint32))
        assert_guards_whole(memory)


# Those that are like another at the best level alone.
AT_LEVELS = [
    (level, kind) for level in LEVELS for kind in WEIGHT_TYPES if level == LEVELS[0] or kind not in LIKE_ANOTHER
]


@pytest.mark.parametrize(("level", "kind"), AT_LEVELS)
def test_matmul_tails(built: Built, level: str, kind: str) -> None:
    for by_item in (False, True):
        check_matmul(built(level), kind, TAIL, by_item)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", SUPER_TAILS)
def test_matmul_of_superblocks(built: Built, level: str, kind: str) -> None:
    for by_item in (False, True):
        check_matmul(built(level), kind, OF_SUPERBLOCKS, by_item)


@pytest.mark.parametrize("kind", FAMILIES)
def test_matmul_of_one_row(built: Built, kind: str) -> None:
    check_matmul(built(LEVELS[-1]), kind, SMALLEST, False)


@pytest.mark.parametrize("kind", FAMILIES)
def test_matmul_of_a_real_shape(built: Built, kind: str) -> None:
    check_matmul(built(LEVELS[0]), kind, real(kind), False)


@pytest.mark.parametrize(
    ("level", "kind", "shape"),
    [
        *((level, kind, TAIL) for level, kind in AT_LEVELS),
        *((level, kind, OF_SUPERBLOCKS) for level in LEVELS for kind in SUPER_TAILS),
    ],
)
def test_a_row_of_a_matmul_has_the_same_bits_in_any_batch(built: Built, level: str, kind: str, shape: Matmul) -> None:
    random = np.random.default_rng(2)
    weights = pack_rows(random_rows(random, kind, shape.rows, shape.columns), kind, shape.columns)
    inputs, _ = matmul_inputs(random, kind, shape.columns, 300, shape.x_super)  # more than are taken at once
    bias = np.zeros(shape.rows, np.float32)
    whole = np.zeros((300, shape.stride), np.float32)
    built(level).run(shape.spec(kind), Step(300), weights, inputs, whole, bias)
    for first, last in (
        (0, 1),
        (1, 5),
        (5, 14),
        (14, 15),
        (2, 4),
        (3, 6),
        (1, 7),
        (4, 11),
        (14, 20),
        (20, 36),
        (36, 55),
        (55, 300),
    ):
        part = np.zeros((last - first, shape.stride), np.float32)
        built(level).run(shape.spec(kind), Step(last - first), weights, inputs[first:last], part, bias)
        assert np.array_equal(part, whole[first:last])


@pytest.mark.skipif(LEVELS[0] != "x86_64_v4", reason="other levels multiply one tile at a time")
def test_tiles_of_floats_alone_and_in_pairs_have_the_same_bits(
    build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Which of the two a processor takes is asked of it."""
    folder, level = tmp_path_factory.mktemp("pairs"), LEVELS[0]
    specs = [TAIL.spec(kind) for kind in FLOAT_TYPES]
    alone, pairs = (
        build(specs, build_cache, folder, [level], first=f"#define PAIRS_PAY {pay}\n")[level] for pay in (0, 1)
    )
    for kind in FLOAT_TYPES:
        check_matmul(alone, kind, TAIL, False)
        check_matmul(pairs, kind, TAIL, False)
        random = np.random.default_rng(5)
        weights = pack_rows(random_rows(random, kind, TAIL.rows, TAIL.columns), kind, TAIL.columns)
        inputs, _ = matmul_inputs(random, kind, TAIL.columns, 29)
        one, other = (np.zeros((29, TAIL.stride), np.float32) for _ in range(2))
        for kernels, out in ((alone, one), (pairs, other)):
            kernels.run(TAIL.spec(kind), Step(29), weights, inputs, out, np.zeros(TAIL.rows, np.float32))
        assert np.array_equal(one, other)
        assert one.any()


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("level", LEVELS)
def test_gate_up(built: Built, level: str, kind: str) -> None:
    random = np.random.default_rng(4)
    gate, up = random_rows(random, kind, 96, 256), random_rows(random, kind, 96, 256)
    # An odd number of pairs of tiles: 96 rows are 3 work items.
    weights = interleave_pairs(pack_rows(gate, kind, 256), pack_rows(up, kind, 256))
    for tokens in (1, 2, 3, 5, 8, 16, 29):
        inputs, x = matmul_inputs(random, kind, 256, tokens)
        if kind in FLOAT_TYPES:
            x, inputs = x / 8, (inputs / np.float32(8)).astype(np.float32)
        out, memory = guarded((tokens, 96), np.float32)
        built(level).run(gate_up(kind, False), Step(tokens), weights, inputs, out)
        g, u = x @ weights_as_float64(gate, kind).T, x @ weights_as_float64(up, kind).T
        g_error, u_error = matmul_tolerance(gate, kind, x), matmul_tolerance(up, kind, x)
        expected = silu(g) * u
        # |silu'| <= 1.1
        tolerance = (
            SILU_TOLERANCE * np.abs(expected) + 1.1 * g_error * (np.abs(u) + u_error) + np.abs(silu(g)) * u_error
        )
        assert (np.abs(out - expected) <= tolerance + 1e-30).all()
        assert_guards_whole(memory)
        if kind not in BLOCKED:
            continue
        blocks, memory = guarded((tokens, 3), Q8_BLOCK)
        built(level).run(gate_up(kind, True), Step(tokens), weights, inputs, blocks, by_item=True)
        assert blocks.tobytes() == quantize_rows(out).tobytes()
        assert_guards_whole(memory)
