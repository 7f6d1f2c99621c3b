"""Each host kernel that is no product, built and run by itself, against NumPy in float64.

Bounds are `ROUNDING` times the number of roundings that a number goes through. Portable code rounds a multiply-add
twice, hence a factor of 2 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rocmforge.artifacts.layout import KV_DTYPES, kv_head_bytes
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.plan import KernelSpec
from rocmforge.tests.kernels.kernel_harness import (
    LEVELS,
    MAX_SHIFT,
    Q8_BLOCK,
    Q8_SUPERBLOCK,
    ROUNDING,
    SUPER_SHIFT,
    Array,
    Float64,
    Kernels,
    Step,
    assert_guards_whole,
    attention_records,
    build,
    guarded,
    kv_pages,
    page_masks,
    q8_values,
    quantize_rows,
    quantize_superblocks,
    spec,
)
from rocmforge.tests.oracles.kernels import HARD_TO_ROUND, SILU_TOLERANCE, attend, context, silu

Built = Callable[[str], Kernels]


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
    """All kernels of this file, by level: the best as the product builds it, the others with less optimization."""
    specs = [
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
    flags = {level: "-O3" if level == LEVELS[0] else "-O1" for level in LEVELS}
    kernels = {level: build(specs, build_cache, folder, [level], flags[level])[level] for level in LEVELS}
    return kernels.__getitem__


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


def check_steps(values: Float64, x: Array, parts: int, most_shift: int) -> None:
    """Hold int8 numbers against the floats that they stand for; those below 2^-100 are 0.

    They are off by half a step, which is less than twice that of 127 steps to the largest of 16, or that of the unit of
    so many parts; and by the roundings of unit, factor and product.
    """
    largest = np.abs(x).reshape(len(x), -1, parts, 16).max(axis=-1)
    units = largest.max(axis=-1, keepdims=True) / 127 / 2**most_shift
    steps = np.maximum(2 * largest / 127, units).reshape(len(x), -1).repeat(16, axis=-1)
    tolerance = steps * (0.5 + 127 * 4 * ROUNDING) + np.where(np.abs(x) < 2.0**-100, 2.0**-100, 0)
    assert (np.abs(values - x) <= tolerance).all()


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
    check_steps(q8_values(out), x, 2, MAX_SHIFT)
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
    check_steps(q8_values(out), x, 16, SUPER_SHIFT)


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
