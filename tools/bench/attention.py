"""Attention of a CPU alone, on one thread: microseconds of processor time by shape, type of the cache and context.

What a call takes by itself is that of a first position, and taken away.

python -m rocmforge.tools.bench.attention [--level x86_64_v4]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

import click
import numpy as np

from rocmforge.artifacts.layout import KV_DTYPES
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.plan import KernelSpec
from rocmforge.tests.kernels.kernel_harness import LEVELS, Kernels, Step, attention_records, build, spec

SHAPES: Final = {"SmolLM2 135M": (9, 3, 64), "1.1B": (32, 4, 64), "8B": (32, 8, 128)}  # heads, KV heads, elements
STEPS: Final = ((1, 512), (1, 2048), (1, 8000), (64, 2000), (64, 8000))  # tokens, positions before
LENGTH: Final = 8192
SECONDS: Final = 0.2


def microseconds(kernels: Kernels, kernel: KernelSpec, tokens: int, context: int) -> float:
    """Least processor time of a step of neighbouring tokens."""
    shape = {name: int(value) for name, value in kernel.parameters if name != "scale"}
    heads, kv_heads, size = shape["num_heads"], shape["num_kv_heads"], shape["head_dim"]
    random, blocks = np.random.default_rng(tokens), LENGTH // 16
    bytes_of_head = 17 * size if shape["kv_q8_0"] else 32 * size
    pages = [np.full((blocks, kv_heads, bytes_of_head), 0x2E, np.uint8) for _ in range(2)]  # float16 0.096; scales too
    rows = random.standard_normal((tokens, (heads + 2 * kv_heads) * size)).astype(np.float32)
    step = Step(
        tokens,
        positions=range(context, context + tokens),
        rows=[0] * tokens,
        block_table=[random.permutation(blocks).tolist()],
    )
    out, records = np.zeros((tokens, heads, size), np.float32), attention_records(heads, size, LENGTH)
    least, began = float("inf"), time.thread_time()
    while time.thread_time() - began < SECONDS:
        before = time.thread_time_ns()
        kernels.run(kernel, step, rows, *pages, out, records)
        least = min(least, (time.thread_time_ns() - before) / 1000)
    return least


@click.command()
@click.option("--level", type=click.Choice(LEVELS), default=LEVELS[0], show_default=True)
def main(level: str) -> None:
    """Print a table; microseconds of a layer, and nanoseconds for each pair of a head and a position that it sees."""
    specs = {
        (name, kv): spec(
            "attention",
            **dict(zip(("num_heads", "num_kv_heads", "head_dim"), shape, strict=True)),
            scale=f"{shape[2] ** -0.5:.9e}f",
            out_q8=False,
            kv_q8_0=kv == "q8_0",
        )
        for name, shape in SHAPES.items()
        for kv in KV_DTYPES
    }
    with tempfile.TemporaryDirectory() as folder:
        cache = BuildCache(Path(folder) / "cache")
        kernels = build(specs.values(), cache, Path(folder), [level], "-O3")[level]
        for (name, kv), kernel in specs.items():
            heads = SHAPES[name][0]
            for tokens, context in STEPS:
                spent = microseconds(kernels, kernel, tokens, context) - microseconds(kernels, kernel, 1, 0)
                pairs = heads * sum(range(context + 1, context + tokens + 1))
                click.echo(
                    f"{name} {kv}: {tokens} after {context}: {spent:.0f} us, {1000 * spent / pairs:.2f} ns a pair"
                )


if __name__ == "__main__":
    main()
