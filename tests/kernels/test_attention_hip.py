"""Attention on emulated GPUs: split and merged, and tiled, against NumPy in float64, and alike to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rocmforge.artifacts.layout import KV_DTYPES, kv_head_bytes
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Node, Value
from rocmforge.compiler.ops.attention import SPLIT_TOKENS
from rocmforge.tests.kernels.hip_harness import ARCHES, CONFIG, Q8_BLOCK, Gpu, Launches, fitting, lower, q8_rows
from rocmforge.tests.kernels.kernel_harness import Array, Step
from rocmforge.tests.oracles.kernels import attend, context

Shape = tuple[int, int, int, str]

# Query heads, kv heads, head_dim, kv_dtype: groups of 1, 2, 3, 4, 8 and 16; heads of no power of two, the largest.
SHAPES: tuple[Shape, ...] = (
    (1, 1, 16, "f16"),
    (6, 2, 48, "f16"),
    (9, 3, 64, "f16"),
    (3, 3, 32, "f16"),
    (8, 1, 128, "f16"),
    (4, 1, 80, "f16"),
    (2, 1, 256, "f16"),
    (16, 1, 64, "f16"),
    (3, 3, 32, "q8_0"),
    (9, 3, 64, "q8_0"),
    (4, 1, 96, "q8_0"),
    (2, 1, 256, "q8_0"),
)


def attention(arch: str, shape: Shape, dtype: str) -> Launches:
    heads, kv_heads, head_dim, kv_dtype = shape
    config = replace(CONFIG, num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim)
    values = (Value("x", "T", (heads + 2 * kv_heads) * head_dim), Value("y", "T", heads * head_dim, dtype))
    counts = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim}
    attributes = {"layer": 0, "scale": head_dim**-0.5, **counts}
    return lower(arch, Node("attention", ("x",), "y", (), attributes), values, (), config, kv_dtype)


def run(
    gpu: Gpu, launches: Launches, pages: Sequence[Array], step: Step, qkv: Array, out: Array, records: Array
) -> None:
    padded = np.full((64, *qkv.shape[1:]), np.nan, np.float32)  # the arena has rows behind the last token's
    padded[: len(qkv)] = qkv
    for kernel, grid in fitting(launches, step.num_tokens):
        arguments = {
            "attention_split": (padded, *pages, records),
            "attention_merge": (records, out),
            "attention_tiled": (padded, *pages, out),
        }[kernel.template]
        gpu.run(kernel, grid, step, *arguments)


def empty_records(launches: Launches, shape: Shape) -> Array:
    splits = int(dict(launches[0][0].parameters)["max_splits"])
    return np.full((SPLIT_TOKENS, shape[0], splits, shape[2] + 4), np.nan, np.float32)


# gfx1201 has waves as long as gfx1100's, and attention no matrices: there a real shape of each type of the cache.
CASES = [(arch, shape) for arch in ARCHES for shape in SHAPES if arch != "gfx1201" or shape[:3] == (9, 3, 64)]


@pytest.mark.parametrize(("arch", "shape"), CASES, ids=str)
def test_attention(build_cache: BuildCache, arch: str, shape: Shape) -> None:
    heads, _, head_dim, _ = shape
    launches = attention(arch, shape, "float32")
    gpu = Gpu(arch, [kernel for kernel, _ in launches], build_cache)
    c, records = context(np.random.default_rng(head_dim), *shape), empty_records(launches, shape)
    expected, tolerance = attend(c, heads, head_dim)
    tokens = c.step.num_tokens
    assert tokens > SPLIT_TOKENS
    # What lies past the last position of a sequence, in its last page, may be anything.
    last: dict[int, int] = {}
    for row, position in zip(c.step.rows, c.step.positions, strict=True):
        last[row] = max(last.get(row, 0), position)
    for row, position in last.items():
        page, slot = c.blocks[row][position // 16], position % 16
        c.keys[page, :, :, slot + 1 :] = np.nan
        c.values[page, :, slot + 1 :] = np.nan
    pages = c.pages(lanes=True)
    tiled = np.zeros((tokens, heads, head_dim), np.float32)
    run(gpu, launches, pages, c.step, c.qkv, tiled, records)
    assert (np.abs(tiled - expected) <= tolerance).all()
    assert tolerance.max() < 0.002
    for first, count in ((0, SPLIT_TOKENS), (SPLIT_TOKENS, tokens - SPLIT_TOKENS), (tokens - 1, 1)):
        part = slice(first, first + count)
        step = Step(count, positions=c.step.positions[part], rows=c.step.rows[part], block_table=c.blocks)
        split = np.zeros((count, heads, head_dim), np.float32)
        run(gpu, launches, pages, step, c.qkv[part], split, records)
        assert split.tobytes() == tiled[part].tobytes()


@pytest.mark.parametrize("arch", ARCHES)
def test_attention_as_int8(build_cache: BuildCache, arch: str) -> None:
    shape = (9, 3, 64, "f16")
    floats, blocks = attention(arch, shape, "float32"), attention(arch, shape, "q8")
    gpu = Gpu(arch, [kernel for kernel, _ in (*floats, *blocks)], build_cache)
    c, records = context(np.random.default_rng(1), *shape), empty_records(floats, shape)
    pages = c.pages(lanes=True)
    for count in (c.step.num_tokens, 12):
        step = Step(count, positions=c.step.positions[:count], rows=c.step.rows[:count], block_table=c.blocks)
        wanted, found = np.zeros((count, 9 * 64), np.float32), np.zeros((count, 18), Q8_BLOCK)
        run(gpu, floats, pages, step, c.qkv[:count], wanted, records)
        run(gpu, blocks, pages, step, c.qkv[:count], found, records)
        assert found.tobytes() == q8_rows(wanted).tobytes()


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("arch", ARCHES)
def test_a_decode_step_reads_each_key_and_value_once(build_cache: BuildCache, arch: str, kv_dtype: str) -> None:
    shape = (8, 2, 64, kv_dtype)
    launches = attention(arch, shape, "float32")
    gpu = Gpu(arch, [kernel for kernel, _ in launches], build_cache)
    c = context(np.random.default_rng(1), *shape)
    step = Step(1, positions=[303], rows=[1], block_table=c.blocks)
    pages, out = c.pages(lanes=True), np.zeros((1, 8 * 64), np.float32)
    run(gpu, launches, pages, step, c.qkv[:1], out, empty_records(launches, shape))
    traffic = gpu.counters(launches[0][0]).by_allocation
    n_bytes = 304 * 2 * kv_head_bytes(kv_dtype, 64)  # 304 positions of 2 heads, all of 19 pages
    # Lanes past the last position repeat it; a scale is read anew for each 8 of the 32 elements that share it.
    most = 1.10 * n_bytes if kv_dtype == "f16" else 1.10 * 304 * 2 * (64 + 64 // 8 * 2)
    for argument in ("argument 1", "argument 2"):
        assert n_bytes <= traffic[argument][0].bytes <= most
        assert traffic[argument][0].distinct_lines == n_bytes // 128
