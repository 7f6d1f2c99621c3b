"""GPU kernels but products and attention, each run by itself on emulated GPUs of three families, against NumPy in
float64.

References and bounds of errors are those of the host's kernels, whose arithmetic is the same but for the order of sums:
a GPU cuts a row into slices, so that its terms go through no more additions than on the host, and one for each slice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rocmforge.artifacts.layout import kv_head_bytes
from rocmforge.compiler.graph import Node, Value, Weight
from rocmforge.compiler.packing_lanes import pack_lanes
from rocmforge.tests.kernels.hip_harness import (
    ARCHES,
    CONFIG,
    Q8_BLOCK,
    SILU,
    Gpus,
    Launches,
    lower,
    q8_rows,
)
from rocmforge.tests.kernels.kernel_harness import (
    FAMILIES,
    FLOAT_TYPES,
    ROUNDING,
    SUPER_TYPES,
    WEIGHT_TYPES,
    Float32,
    Float64,
    Step,
    kv_pages,
    page_masks,
    random_rows,
    whole_columns,
)
from rocmforge.tests.oracles.dequantize import dequantize
from rocmforge.tests.oracles.kernels import HARD_TO_ROUND, SILU_TOLERANCE, silu


@pytest.mark.parametrize(
    ("arch", "kind"),
    [
        (arch, kind)
        for index, kind in enumerate(WEIGHT_TYPES)
        for arch in (ARCHES if kind in FAMILIES else (ARCHES[index % 3],))
    ],
)
def test_embedding(gpus: Gpus, arch: str, kind: str) -> None:
    columns = 512 if kind in SUPER_TYPES else whole_columns(kind, 584 if kind in FLOAT_TYPES else 608)
    node = Node("embedding", (), "y", ("w",))
    launches = lower(arch, node, (Value("y", "T", columns),), (Weight("w", (70, columns), kind),), CONFIG)
    random = np.random.default_rng(2)
    raw = random_rows(random, kind, 70, columns)
    # Of the later rows every bit: subnormal, infinite and NaN scales are among them.
    raw[33:] = random.integers(0, 256, raw[33:].shape, np.uint8)
    ids = [69, 0, 31, 32, 33, 5, *range(50, 66)]
    out = np.zeros((len(ids), columns), np.float32)
    gpus(arch, launches).run(*launches[0], Step(len(ids), token_ids=ids), pack_lanes(raw, kind, columns), out)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = dequantize(raw, kind)[ids]
    same = (out.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(out) & np.isnan(expected))
    assert same.all()


def elementwise(arch: str, op: str, columns: int, dtype: str = "float32") -> Launches:
    values = (Value("x", "T", 2 * columns if op == "gate" else columns), Value("y", "T", columns, dtype))
    return lower(arch, Node(op, ("x",), "y", (), SILU if op == "gate" else {}), values, (), CONFIG)


@pytest.mark.parametrize("arch", ARCHES)
def test_gate(gpus: Gpus, arch: str) -> None:
    launches = elementwise(arch, "gate", 259)
    x = np.random.default_rng(1).normal(0, 4, (5, 518)).astype(np.float32)
    x[0, :7] = [-1e30, -200, -88, 88, 200, 1e30, 0]
    out = np.zeros((5, 259), np.float32)
    gpus(arch, launches).run(*launches[0], Step(5), x, out)
    g, u = x[:, :259].astype(np.float64), x[:, 259:].astype(np.float64)
    # Past -87 the exponential stands still: what is left is |g| e^-87.
    tolerance = SILU_TOLERANCE * np.abs(silu(g) * u) + np.where(g < -87, np.abs(g * u) * np.exp(-86.9), 0)
    assert (np.abs(out - silu(g) * u) <= tolerance).all()


@pytest.mark.parametrize("arch", ARCHES)
def test_quantize_is_exactly_what_its_header_says(gpus: Gpus, arch: str) -> None:
    launches = elementwise(arch, "quantize", 288, "q8")
    gpu, random = gpus(arch, launches), np.random.default_rng(1)
    x = (random.normal(0, 1, (64, 288)) * np.exp(random.uniform(-60, 60, (64, 1)))).astype(np.float32)
    x[0] = 0
    x[1, ::2] = 0
    x[2] = np.arange(288)  # 127 / 15 and others: halves of a quant round to even
    x[3] = np.where(np.arange(288) % 2, 127, 0.5)
    out = np.zeros((64, 9), Q8_BLOCK)
    gpu.run(*launches[0], Step(64), x, out)
    assert out.tobytes() == q8_rows(x).tobytes()
    for value in (np.nan, np.inf, -np.inf):
        for column in (0, 17, 287):
            bad = np.ones((1, 288), np.float32)
            bad[0, column] = value
            out = np.zeros((1, 9), Q8_BLOCK)
            gpu.run(*launches[0], Step(1), bad, out)
            assert np.flatnonzero(~np.isfinite(out["scales"].reshape(18))).tolist() == [column // 16]


def norm(arch: str, columns: int, dtype: str, rows: str) -> Launches:
    values = (Value("x", "T", columns), Value("y", rows, columns, dtype))
    node = Node("norm", ("x",), "y", ("w",), {"epsilon": 1e-5})
    return lower(arch, node, values, (Weight("w", (columns,), "F32"),), CONFIG)


@pytest.mark.parametrize("rows", ["T", "R"])
@pytest.mark.parametrize("columns", [1, 61, 576, 2048])
@pytest.mark.parametrize("arch", ARCHES)
def test_norm(gpus: Gpus, arch: str, columns: int, rows: str) -> None:
    random = np.random.default_rng(1)
    launches = norm(arch, columns, "float32", rows)
    blocked = norm(arch, columns, "q8", rows) if columns % 32 == 0 else ()
    gpu = gpus(arch, launches, blocked)
    x = random.normal(0, 3, (6, columns)).astype(np.float32)
    x[1] = 0
    weight = random.normal(1, 0.3, columns).astype(np.float32)
    asked = [5, 0, 2] if rows == "R" else list(range(6))
    step = Step(6, logits_rows=asked if rows == "R" else ())
    mean = np.mean(np.square(x[asked], dtype=np.float64), axis=1, keepdims=True)
    expected = x[asked] / np.sqrt(mean + 1e-5) * weight
    out = np.zeros((len(asked), columns), np.float32)
    gpu.run(*launches[0], step, x, weight, out)
    # 256 partial sums of columns / 256 terms; 6 halvings, 8 waves; root, quotient, two products.
    tolerance = 2 * (columns / 256 + 1 + 6 + 8 + 8) * ROUNDING * np.abs(expected)
    assert (np.abs(out - expected) <= tolerance).all()
    if blocked:
        blocks = np.zeros((len(asked), columns // 32), Q8_BLOCK)
        gpu.run(*blocked[0], step, x, weight, blocks)
        assert blocks.tobytes() == q8_rows(out).tobytes()


# head_dim, rope_dim, interleaved, qk_norm, kv_dtype.
ROPES = (
    (16, 16, True, False, "f16"),
    (64, 64, False, True, "f16"),
    (80, 22, True, True, "f16"),
    (48, 32, False, False, "f16"),
    (128, 128, True, False, "f16"),
    (32, 32, True, False, "q8_0"),
    (64, 64, False, True, "q8_0"),
    (96, 22, True, True, "q8_0"),
)


def rope(arch: str, shape: tuple[int, int, bool, bool, str]) -> Launches:
    head_dim, rope_dim, interleaved, qk_norm, kv_dtype = shape
    config = replace(
        CONFIG,
        num_heads=4,
        num_kv_heads=2,
        head_dim=head_dim,
        rope_dim=rope_dim,
        rope_style="interleaved" if interleaved else "half",
    )
    names = ("q", "k") if qk_norm else ()
    weights = (Weight("table", (32, rope_dim), "F32"), *(Weight(name, (head_dim,), "F32") for name in names))
    values = (Value("x", "T", 8 * head_dim), Value("y", "T", 8 * head_dim))
    heads = {"num_heads": 4, "num_kv_heads": 2, "head_dim": head_dim}
    attributes = {"layer": 0, "epsilon": 1e-6, "rope_dim": rope_dim, "interleaved": interleaved, **heads}
    node = Node("rope_kv", ("x",), "y", ("table", *names), attributes)
    return lower(arch, node, values, weights, config, kv_dtype)


def rotated(qkv: Float32, table: Float32, positions: list[int], norms: list[Float32] | None, pairs: str) -> Float64:
    """Queries and keys, float64[T, 6, head_dim]."""
    heads = qkv[:, :6].astype(np.float64)
    rope_dim = table.shape[1]
    if norms:
        weight = np.array([norms[0]] * 4 + [norms[1]] * 2, np.float64)
        heads = heads / np.sqrt(np.mean(heads**2, axis=-1, keepdims=True) + 1e-6) * weight
    cosines, sines = (part[positions][:, None].astype(np.float64) for part in np.split(table, 2, axis=1))
    first = slice(0, rope_dim, 2) if pairs == "interleaved" else slice(0, rope_dim // 2)
    second = slice(1, rope_dim, 2) if pairs == "interleaved" else slice(rope_dim // 2, rope_dim)
    out = heads.copy()
    out[..., first] = heads[..., first] * cosines - heads[..., second] * sines
    out[..., second] = heads[..., first] * sines + heads[..., second] * cosines
    return out


@pytest.mark.parametrize("shape", ROPES, ids=str)
@pytest.mark.parametrize("arch", ARCHES)
def test_rope_kv(gpus: Gpus, arch: str, shape: tuple[int, int, bool, bool, str]) -> None:
    head_dim, rope_dim, interleaved, qk_norm, kv_dtype = shape
    launches, random = rope(arch, shape), np.random.default_rng(head_dim)
    tokens, rows, positions = 5, [1, 1, 1, 0, 2], [14, 15, 16, 3, 0]
    table = random.uniform(-1, 1, (32, rope_dim)).astype(np.float32)
    qkv = random.normal(0, 1, (tokens, 8, head_dim)).astype(np.float32)
    qkv[:, 4:6] = qkv[:, :2]  # keys that a query shows before they are rounded
    qkv[1, 7, :4] = [1e6, -1e6, 3e-8, -(2.0**-24)]  # values that overflow float16, and that are subnormal in it
    qkv[2, 6:, :16] = HARD_TO_ROUND
    norms = [random.normal(1, 0.3, head_dim).astype(np.float32) for _ in range(2)]
    blocks = [[4, 0], [2, 5], [1, 3]]
    step = Step(tokens, positions=positions, rows=rows, block_table=blocks)
    pages = [np.full((6, 2, 16 * kv_head_bytes(kv_dtype, head_dim)), 0xA5, np.uint8) for _ in range(2)]
    out, exchanged = qkv.copy(), qkv.copy()
    gpus(arch, launches).run(*launches[0], step, exchanged, table, *(page.copy() for page in pages), *reversed(norms))
    gpus(arch, launches).run(*launches[0], step, out, table, *pages, *norms)
    pairs = "interleaved" if interleaved else "half"
    expected = rotated(qkv, table, positions, norms if qk_norm else None, pairs)
    # Two products and a sum; with the norm, its own roundings, counted as above.
    roundings = 2 * (3 + (head_dim / 32 + 6 + 8) * qk_norm) * ROUNDING
    size = 2 * np.abs(expected).max(-1, keepdims=True) + 2 * np.abs(qkv[:, :6]).max(-1, keepdims=True)
    assert (np.abs(out[:, :4] - expected[:, :4]) <= (roundings * size)[:, :4]).all()
    assert (np.abs(exchanged[:, :2] - expected[:, 4:]) <= (roundings * size)[:, 4:]).all()
    assert np.array_equal(out[:, 4:], qkv[:, 4:])
    keys, values = np.zeros((6, 2, head_dim, 16), np.float32), np.zeros((6, 2, 16, head_dim), np.float32)
    written = np.zeros((6, 16), bool)
    for t, (row, position) in enumerate(zip(rows, positions, strict=True)):
        block, slot = blocks[row][position // 16], position % 16
        keys[block, :, :, slot], values[block, :, slot], written[block, slot] = exchanged[t, :2], qkv[t, 6:], True
    masks = page_masks(written, 2, head_dim, kv_dtype, lanes=True)
    for page, mask, wanted in zip(pages, masks, kv_pages(keys, values, kv_dtype, lanes=True), strict=True):
        assert np.array_equal(page, np.where(mask, wanted, 0xA5))
