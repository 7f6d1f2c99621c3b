"""Each host kernel, built and run by itself, against NumPy in float64.

Where weights are quantized, products of int8 are exact, so that what is left is the rounding of float32 sums:
`ROUNDING` times the number of roundings that a term goes through times the sum of the terms' magnitudes. Portable code
rounds a multiply-add twice, hence a factor of 2 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rocmforge.artifacts.layout import KV_DTYPES, kv_head_bytes
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.packing import interleave_pairs, pack_rows
from rocmforge.compiler.plan import KernelSpec
from rocmforge.tests.kernels.kernel_harness import (
    FAMILIES,
    FLOAT_TYPES,
    LEVELS,
    LIKE_ANOTHER,
    MAX_SHIFT,
    Q8_BLOCK,
    Q8_SUPERBLOCK,
    ROUNDING,
    SUPER_SHIFT,
    WEIGHT_TYPES,
    Array,
    Float64,
    Kernels,
    Step,
    assert_guards_whole,
    attention_records,
    build,
    guarded,
    int8_rows,
    kv_pages,
    page_masks,
    product_parameters,
    q8_values,
    quantize_rows,
    quantize_superblocks,
    random_rows,
    spec,
    whole_columns,
)
from rocmforge.tests.oracles.kernels import (
    HARD_TO_ROUND,
    SILU_TOLERANCE,
    attend,
    context,
    matmul_tolerance,
    silu,
    weights_as_float64,
)

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


# Tokens are taken 16, 8, 4 and up to 3 at a time; rows 16, or two tiles of these: the second of the last two is short.
TAIL = Matmul(57, 256, (1, 2, 3, 4, 6, 7, 8, 29), bias=True, accumulate=True, offset=5, stride=76)
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


def norm(columns: int, out_q8: bool = False, at_logits_rows: bool = False, out_super: bool = False) -> KernelSpec:
    flags = {"out_q8": out_q8, "at_logits_rows": at_logits_rows, **({"out_super": True} if out_super else {})}
    return spec("norm", columns=columns, epsilon="1e-5f", **flags)


NORMS = (
    norm(1),
    norm(61),
    norm(576),
    norm(576, True),
    norm(1088),
    norm(1088, True),
    norm(768),
    norm(768, True, out_super=True),
    norm(64, False, True),
    norm(64, True, True),
)


def rope(head_dim: int, rope_dim: int, interleaved: bool, qk_norm: bool, kv_dtype: str) -> KernelSpec:
    flags = {"interleaved": interleaved, "qk_norm": qk_norm, "kv_q8_0": kv_dtype == "q8_0"}
    return spec("rope_kv", num_heads=3, num_kv_heads=2, head_dim=head_dim, rope_dim=rope_dim, epsilon="1e-6f", **flags)


# head_dim, rope_dim, interleaved, qk_norm, kv_dtype.
ROPES = {
    shape: rope(*shape)
    for shape in (
        (16, 16, True, False, "f16"),
        (64, 64, False, True, "f16"),
        (80, 22, True, True, "f16"),
        (48, 32, False, False, "f16"),
        (32, 32, True, False, "q8_0"),
        (64, 64, False, True, "q8_0"),
        (96, 22, True, True, "q8_0"),
    )
}


def attention(heads: int, kv_heads: int, head_dim: int, kv_dtype: str = "f16", out_q8: bool = False) -> KernelSpec:
    shape = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim, "kv_q8_0": kv_dtype == "q8_0"}
    return spec("attention", scale=f"{head_dim**-0.5:.9e}f", out_q8=out_q8, **shape)


# Query heads, kv heads, head_dim, kv_dtype.
ATTENTIONS = (
    (1, 1, 16, "f16"),
    (6, 2, 48, "f16"),
    (9, 3, 64, "f16"),
    (8, 1, 128, "f16"),
    (1, 1, 32, "q8_0"),
    (6, 2, 96, "q8_0"),
    (9, 3, 64, "q8_0"),
)
REAL_ATTENTIONS = tuple((9, 3, 64, kv_dtype) for kv_dtype in KV_DTYPES)
QUANTIZE = spec("quantize", columns=96)
QUANTIZE_SUPER = spec("quantize", columns=512, out_super=True)
OTHER_QUANTIZES = tuple(spec("quantize", columns=32 * blocks) for blocks in (1, 2, 8, 13))
GATE = spec("gate", columns=37, activation="silu")


@pytest.fixture(scope="module")
def built(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All kernels of this file, by level: the best as the product builds it, the others with less optimization. Real
    shapes at the best level alone, the smallest at the last."""
    everywhere = [
        *(TAIL.spec(kind) for kind in WEIGHT_TYPES if kind not in LIKE_ANOTHER),
        *(OF_SUPERBLOCKS.spec(kind) for kind in SUPER_TAILS),
        *(gate_up(kind, False) for kind in FAMILIES),
        *(gate_up(kind, True) for kind in BLOCKED),
        *NORMS,
        *ROPES.values(),
        *(attention(*shape) for shape in ATTENTIONS),
        *(attention(*shape, out_q8=True) for shape in REAL_ATTENTIONS),
        QUANTIZE,
        QUANTIZE_SUPER,
        *OTHER_QUANTIZES,
        GATE,
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
    for first, last in ((0, 1), (1, 5), (5, 14), (14, 15), (2, 4), (3, 6), (1, 7), (4, 11), (14, 20), (20, 300)):
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
    for tokens in (1, 2, 3, 5, 29):
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


@pytest.mark.parametrize("level", LEVELS)
def test_gate(built: Built, level: str) -> None:
    x = np.random.default_rng(1).normal(0, 4, (5, 74)).astype(np.float32)
    x[0, :7] = [-1e30, -200, -88, 88, 200, 1e30, 0]
    out, memory = guarded((5, 37), np.float32)
    built(level).run(GATE, Step(5), x, out)
    g, u = x[:, :37].astype(np.float64), x[:, 37:].astype(np.float64)
    # Past -87 the exponential stands still: what is left is |g| e^-87.
    tolerance = SILU_TOLERANCE * np.abs(silu(g) * u) + np.where(g < -87, np.abs(g * u) * np.exp(-86.9), 0)
    assert (np.abs(out - silu(g) * u) <= tolerance).all()
    assert_guards_whole(memory)


@pytest.mark.parametrize("level", LEVELS)
def test_quantize_is_exactly_what_its_header_says(built: Built, level: str) -> None:
    random = np.random.default_rng(1)
    of_halves = np.repeat(2.0 ** random.integers(-14, 1, (64, 6)), 16, axis=1)
    x = (random.normal(0, 1, (64, 96)) * np.exp(random.uniform(-60, 60, (64, 1))) * of_halves).astype(np.float32)
    x[0] = 0
    x[1, ::2] = 0
    x[2] = np.arange(96)  # 127 / 15 and others: halves of a quant round to even
    x[3] = np.where(np.arange(96) % 2, 127, 0.5)
    x[4] = 2.0 ** -np.repeat(np.arange(6), 16)  # the larger half's largest is twice the other's
    x[5, 16:] = 0
    x[6] = 2.0**-101
    x[7:40] = x[7:40, :1] + np.repeat(np.linspace(1, 2, 33)[:, None] * [[1, 0]] + [[0, 1]], 48, axis=1)[:, :96]
    out, memory = guarded((64, 3), Q8_BLOCK)
    built(level).run(QUANTIZE, Step(64), x, out, by_item=True)
    assert out.tobytes() == quantize_rows(x).tobytes()
    assert_guards_whole(memory)
    assert not out["quants"][6].any()
    # Half a step of int8, less than twice that of 127 steps to a half's largest or the unit; and the roundings of unit,
    # factor and product.
    halves = np.abs(x).reshape(64, 3, 2, 16).max(axis=-1)
    units = halves.max(axis=-1, keepdims=True) / 127 / 2**MAX_SHIFT
    steps = np.maximum(2 * halves / 127, units).reshape(64, 6).repeat(16, axis=-1)
    tolerance = steps * (0.5 + 127 * 4 * ROUNDING) + np.where(np.arange(64) == 6, 2.0**-101, 0)[:, None]
    assert (np.abs(q8_values(out) - x) <= tolerance).all()
    for kernel in OTHER_QUANTIZES:  # a row is of another number of blocks, of which so many are made at once
        columns = int(dict(kernel.parameters)["columns"])
        rows = x.reshape(-1)[: x.size // columns * columns].reshape(-1, columns)
        out, memory = guarded((len(rows), columns // 32), Q8_BLOCK)
        built(level).run(kernel, Step(len(rows)), rows, out, by_item=True)
        assert out.tobytes() == quantize_rows(rows).tobytes()
        assert_guards_whole(memory)


@pytest.mark.parametrize("level", LEVELS)
def test_quantizing_to_superblocks_is_exactly_what_its_header_says(built: Built, level: str) -> None:
    random = np.random.default_rng(1)
    of_parts = np.repeat(2.0 ** random.integers(-9, 1, (64, 32)), 16, axis=1)
    x = (random.normal(0, 1, (64, 512)) * np.exp(random.uniform(-60, 60, (64, 1))) * of_parts).astype(np.float32)
    x[0] = 0
    x[1, ::2] = 0
    x[2] = np.arange(512) % 97
    x[3] = np.where(np.arange(512) % 2, 127, 0.5)  # halves of a quant round to even
    x[4] = 2.0 ** -np.repeat(np.arange(32) % 16, 16)  # the larger by whole powers of two
    x[5, 16:] = 0
    x[6] = 2.0**-101
    x[7] = np.where(np.arange(512) < 256, -1, 1)  # the largest sums
    x[8] = np.float32(1) - np.repeat(np.arange(32) % 2, 16) * np.float32(2.0**-24)
    out, memory = guarded((64, 2), Q8_SUPERBLOCK)
    built(level).run(QUANTIZE_SUPER, Step(64), x, out, by_item=True)
    assert out.tobytes() == quantize_superblocks(x).tobytes()
    assert_guards_whole(memory)
    assert not out["blocks"]["quants"][6].any()
    # Half a step of int8, less than twice that of 127 steps to the largest of 16, or that of the unit; and roundings.
    largest = np.abs(x).reshape(64, 2, 16, 16).max(axis=-1)
    units = largest.max(axis=-1, keepdims=True) / 127 / 2**SUPER_SHIFT
    steps = np.maximum(2 * largest / 127, units).reshape(64, 32).repeat(16, axis=-1)
    tolerance = steps * (0.5 + 127 * 4 * ROUNDING) + np.where(np.arange(64) == 6, 2.0**-101, 0)[:, None]
    assert (np.abs(q8_values(out) - x) <= tolerance).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_superblocks_do_not_hide_what_is_not_finite(built: Built, level: str, value: float) -> None:
    for column in (0, 255, 256, 300):
        x = np.ones((1, 512), np.float32)
        x[0, column] = value
        out, _ = guarded((1, 2), Q8_SUPERBLOCK)
        built(level).run(QUANTIZE_SUPER, Step(1), x, out)
        assert np.flatnonzero(~np.isfinite(out["unit"][0])).tolist() == [column // 256]


@pytest.mark.parametrize("level", LEVELS)
def test_blocks_round_away_the_least_that_powers_of_two_allow(built: Built, level: str) -> None:
    """Either half may have its own 127 steps, the other then 127 to 64: the sum of both squares decides, but where the
    larger half is more than twice the other, where little depends on it."""
    ratios = np.linspace(1.01, 1.99, 50)
    x = np.ones((50, 96), np.float32)
    x[:, :16] = ratios[:, None]
    out, _ = guarded((50, 3), Q8_BLOCK)
    built(level).run(QUANTIZE, Step(50), x, out)
    for ratio, block in zip(ratios, out[:, 0], strict=True):
        steps = block["unit"] * 127 * 2.0 ** block["shifts"]
        choices = ((ratio, ratio), (2.0, 1.0))
        best = min(choices, key=lambda one: one[0] ** 2 + one[1] ** 2)
        assert np.allclose(steps, best, 1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_F76_quantized_activations_do_not_hide_what_is_not_finite(built: Built, level: str, value: float) -> None:
    x = np.ones((1, 96), np.float32)
    for column in (0, 17, 95):
        bad = x.copy()
        bad[0, column] = value
        out, _ = guarded((1, 3), Q8_BLOCK)
        built(level).run(QUANTIZE, Step(1), bad, out)
        assert np.flatnonzero(~np.isfinite(out["unit"][0])).tolist() == [column // 32]


@pytest.mark.parametrize("level", LEVELS)
def test_norm(built: Built, level: str) -> None:
    random = np.random.default_rng(1)
    for kernel in NORMS:
        parameters = dict(kernel.parameters)
        columns = int(parameters["columns"])
        x = random.normal(0, 3, (6, columns)).astype(np.float32)
        x[1] = 0
        weight = random.normal(1, 0.3, columns).astype(np.float32)
        asked = [5, 0, 2] if parameters["at_logits_rows"] else list(range(6))
        step = Step(6, logits_rows=asked if parameters["at_logits_rows"] else ())
        mean = np.mean(np.square(x[asked], dtype=np.float64), axis=1, keepdims=True)
        expected = x[asked] / np.sqrt(mean + 1e-5) * weight
        # 16 partial sums of columns / 16 terms, at most 15 more and 4 halvings; root, quotient, two products.
        tolerance = 2 * (columns / 16 + 15 + 4 + 8) * ROUNDING * np.abs(expected)
        if parameters["out_q8"]:
            floats = np.zeros((len(asked), columns), np.float32)
            as_floats = norm(columns, False, bool(parameters["at_logits_rows"]))
            built(level).run(as_floats, step, x, weight, floats)
            wanted = quantize_superblocks(floats) if "out_super" in parameters else quantize_rows(floats)
            blocks, memory = guarded(wanted.shape, wanted.dtype)
            built(level).run(kernel, step, x, weight, blocks, by_item=True)
            assert blocks.tobytes() == wanted.tobytes()
        else:
            out, memory = guarded((len(asked), columns), np.float32)
            built(level).run(kernel, step, x, weight, out, by_item=True)
            assert (np.abs(out - expected) <= tolerance).all()
        assert_guards_whole(memory)


@pytest.mark.parametrize("shape", ROPES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_rope_kv(built: Built, level: str, shape: tuple[int, int, bool, bool, str]) -> None:
    head_dim, rope_dim, interleaved, qk_norm, kv_dtype = shape
    random = np.random.default_rng(head_dim)
    tokens, rows, positions = 5, [1, 1, 1, 0, 2], [14, 15, 16, 3, 0]
    table = random.uniform(-1, 1, (32, rope_dim)).astype(np.float32)
    qkv = random.normal(0, 1, (tokens, 7, head_dim)).astype(np.float32)
    qkv[1, 5, :4] = [1e6, -1e6, 3e-8, -(2.0**-24)]  # values that overflow float16, and that are subnormal in it
    qkv[2, 5:, :16] = HARD_TO_ROUND
    norms = [random.normal(1, 0.3, head_dim).astype(np.float32) for _ in range(2)]
    page_bytes = 16 * kv_head_bytes(kv_dtype, head_dim)
    pages = [guarded((6, 2, page_bytes), np.uint8) for _ in range(2)]
    untouched = [page.copy() for page, _ in pages]
    out, memory = guarded(qkv.shape, np.float32)
    out[:] = qkv
    blocks = [[4, 0], [2, 5], [1, 3]]
    step = Step(tokens, positions=positions, rows=rows, block_table=blocks)
    built(level).run(ROPES[shape], step, out, table, *(page for page, _ in pages), *norms, by_item=True)

    heads = qkv[:, :5].astype(np.float64)
    if qk_norm:
        weight = np.array([norms[0]] * 3 + [norms[1]] * 2, np.float64)
        heads = heads / np.sqrt(np.mean(heads**2, axis=-1, keepdims=True) + 1e-6) * weight
    cosines, sines = (part[positions][:, None].astype(np.float64) for part in np.split(table, 2, axis=1))
    first = slice(0, rope_dim, 2) if interleaved else slice(0, rope_dim // 2)
    second = slice(1, rope_dim, 2) if interleaved else slice(rope_dim // 2, rope_dim)
    expected = heads.copy()
    expected[..., first] = heads[..., first] * cosines - heads[..., second] * sines
    expected[..., second] = heads[..., first] * sines + heads[..., second] * cosines
    # Two products and a sum; with the norm, its own roundings, counted as above.
    roundings = 3 + (head_dim / 16 + 4 + 8) * qk_norm
    assert (np.abs(out[:, :5] - expected) <= 2 * roundings * ROUNDING * 2 * np.abs(heads).max(-1, keepdims=True)).all()
    assert np.array_equal(out[:, 5:], qkv[:, 5:])
    assert_guards_whole(memory)
    keys, values = np.zeros((6, 2, head_dim, 16), np.float32), np.zeros((6, 2, 16, head_dim), np.float32)
    written = np.zeros((6, 16), bool)
    for t, (row, position) in enumerate(zip(rows, positions, strict=True)):
        block, slot = blocks[row][position // 16], position % 16
        keys[block, :, :, slot], values[block, :, slot], written[block, slot] = out[t, 3:5], out[t, 5:], True
    masks = page_masks(written, 2, head_dim, kv_dtype)
    for (page, around), before, mask, wanted in zip(
        pages, untouched, masks, kv_pages(keys, values, kv_dtype), strict=True
    ):
        assert np.array_equal(page, np.where(mask, wanted, before))
        assert_guards_whole(around)


@pytest.mark.parametrize("shape", ATTENTIONS, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_attention(built: Built, level: str, shape: tuple[int, int, int, str]) -> None:
    heads, _, head_dim, _ = shape
    c = context(np.random.default_rng(head_dim), *shape)
    pages = c.pages()
    out, memory = guarded((c.step.num_tokens, heads, head_dim), np.float32)
    records = attention_records(heads, head_dim, 512)
    built(level).run(attention(*shape), c.step, c.qkv, *pages, out, records)
    expected, tolerance = attend(c, heads, head_dim)
    assert (np.abs(out - expected) <= tolerance).all()
    assert tolerance.max() < 0.001
    assert_guards_whole(memory)
    again, _ = guarded(out.shape, np.float32)
    built(level).run(attention(*shape), c.step, c.qkv, *pages, again, records, by_item=True)
    assert again.tobytes() == out.tobytes()


@pytest.mark.parametrize("shape", REAL_ATTENTIONS, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_attention_as_int8_and_alone(built: Built, level: str, shape: tuple[int, int, int, str]) -> None:
    c = context(np.random.default_rng(9), *shape)
    pages = c.pages()
    tokens, row_bytes = c.step.num_tokens, shape[0] * shape[2]
    records = attention_records(shape[0], shape[2], 512)
    floats, _ = guarded((tokens, row_bytes), np.float32)
    built(level).run(attention(*shape), c.step, c.qkv, *pages, floats, records)
    blocks, memory = guarded((tokens, row_bytes // 32), Q8_BLOCK)
    built(level).run(attention(*shape, out_q8=True), c.step, c.qkv, *pages, blocks, records)
    assert blocks.tobytes() == quantize_rows(floats).tobytes()
    assert_guards_whole(memory)
    # A row's bits do not depend on its neighbours, nor on what lies past its position.
    for t in range(tokens):
        row, position = c.step.rows[t], c.step.positions[t]
        later = replace(c, keys=c.keys.copy(), values=c.values.copy())
        page, slot = c.blocks[row][position // 16], position % 16
        later.keys[page, :, :, slot + 1 :] = 1000
        later.values[page, :, slot + 1 :] = 1000
        step = Step(1, positions=[position], rows=[row], block_table=c.blocks)
        alone = np.zeros((1, row_bytes), np.float32)
        built(level).run(attention(*shape), step, c.qkv[t : t + 1], *later.pages(), alone, records)
        assert np.array_equal(alone[0], floats[t])
