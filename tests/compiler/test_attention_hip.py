"""Attention on emulated GPUs: split and merged, and tiled, against NumPy in float64, and alike to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Node, Value
from rocmforge.compiler.lower_hip import SPLIT_TOKENS
from rocmforge.tests.compiler.test_kernels_hip import CONFIG, Launches, fitting, lower
from rocmforge.tests.compiler.test_kernels_host import Context, attend, context
from rocmforge.tests.hip_harness import ARCHES, Q8_BLOCK, Gpu, q8_rows
from rocmforge.tests.kernel_harness import Array, Step

# Query heads, kv heads, head_dim: one head; groups of 3, 1, 8, 4 and 2; heads of no power of two, and the largest.
SHAPES = ((1, 1, 16), (6, 2, 48), (9, 3, 64), (3, 3, 32), (8, 1, 128), (4, 1, 80), (2, 1, 256), (16, 1, 64))


def attention(arch: str, shape: tuple[int, int, int], dtype: str) -> Launches:
    heads, kv_heads, head_dim = shape
    config = replace(CONFIG, num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim)
    values = (Value("x", "T", (heads + 2 * kv_heads) * head_dim), Value("y", "T", heads * head_dim, dtype))
    return lower(arch, Node("attention", ("x",), "y", (), {"layer": 0}), values, (), config)


def lanes(c: Context) -> Context:
    """The same pages as the GPU has them: 8 elements of a key side by side."""
    blocks, kv_heads, head_dim, _ = c.keys.shape
    keys = c.keys.reshape(blocks, kv_heads, head_dim // 8, 8, 16).transpose(0, 1, 2, 4, 3)
    return replace(c, keys=np.ascontiguousarray(keys))


def run(gpu: Gpu, launches: Launches, c: Context, step: Step, qkv: Array, out: Array, records: Array) -> None:
    padded = np.full((64, *qkv.shape[1:]), np.nan, np.float32)  # the arena has rows behind the last token's
    padded[: len(qkv)] = qkv
    for kernel, grid in fitting(launches, step.num_tokens):
        arguments = {
            "attention_split": (padded, c.keys, c.values, records),
            "attention_merge": (records, out),
            "attention_tiled": (padded, c.keys, c.values, out),
        }[kernel.template]
        gpu.run(kernel, grid, step, *arguments)


def empty_records(launches: Launches, shape: tuple[int, int, int]) -> Array:
    splits = int(dict(launches[0][0].parameters)["max_splits"])
    return np.full((SPLIT_TOKENS, shape[0], splits, shape[2] + 4), np.nan, np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("arch", ARCHES)
def test_attention(build_cache: BuildCache, arch: str, shape: tuple[int, int, int]) -> None:
    heads, _, head_dim = shape
    launches = attention(arch, shape, "float32")
    gpu = Gpu(arch, [kernel for kernel, _ in launches], build_cache)
    host = context(np.random.default_rng(head_dim), *shape)
    expected, tolerance = attend(host, heads, head_dim)
    c, records = lanes(host), empty_records(launches, shape)
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
    tiled = np.zeros((tokens, heads, head_dim), np.float32)
    run(gpu, launches, c, c.step, c.qkv, tiled, records)
    assert (np.abs(tiled - expected) <= tolerance).all()
    assert tolerance.max() < 0.002
    for first, count in ((0, SPLIT_TOKENS), (SPLIT_TOKENS, tokens - SPLIT_TOKENS), (tokens - 1, 1)):
        part = slice(first, first + count)
        step = Step(count, positions=c.step.positions[part], rows=c.step.rows[part], block_table=c.blocks)
        split = np.zeros((count, heads, head_dim), np.float32)
        run(gpu, launches, c, step, c.qkv[part], split, records)
        assert split.tobytes() == tiled[part].tobytes()


@pytest.mark.parametrize("arch", ARCHES)
def test_attention_as_int8(build_cache: BuildCache, arch: str) -> None:
    shape = (9, 3, 64)
    floats, blocks = attention(arch, shape, "float32"), attention(arch, shape, "q8")
    gpu = Gpu(arch, [kernel for kernel, _ in (*floats, *blocks)], build_cache)
    c, records = lanes(context(np.random.default_rng(1), *shape)), empty_records(floats, shape)
    for count in (c.step.num_tokens, 12):
        step = Step(count, positions=c.step.positions[:count], rows=c.step.rows[:count], block_table=c.blocks)
        wanted, found = np.zeros((count, 9 * 64), np.float32), np.zeros((count, 18), Q8_BLOCK)
        run(gpu, floats, c, step, c.qkv[:count], wanted, records)
        run(gpu, blocks, c, step, c.qkv[:count], found, records)
        assert found.tobytes() == q8_rows(wanted).tobytes()


@pytest.mark.parametrize("arch", ARCHES)
def test_a_decode_step_reads_each_key_and_value_once(build_cache: BuildCache, arch: str) -> None:
    shape = (8, 2, 64)
    launches = attention(arch, shape, "float32")
    gpu = Gpu(arch, [kernel for kernel, _ in launches], build_cache)
    c = lanes(context(np.random.default_rng(1), *shape))
    step = Step(1, positions=[303], rows=[1], block_table=c.blocks)
    run(gpu, launches, c, step, c.qkv[:1], np.zeros((1, 8 * 64), np.float32), empty_records(launches, shape))
    traffic = gpu.counters(launches[0][0]).by_allocation
    for argument in ("argument 1", "argument 2"):
        # 304 positions, 2 heads of 64 halves; lanes past the last position repeat it.
        assert 304 * 2 * 64 * 2 <= traffic[argument][0].bytes <= 1.10 * 304 * 2 * 64 * 2
        assert traffic[argument][0].distinct_lines == 304 * 2 * 64 * 2 // 128
