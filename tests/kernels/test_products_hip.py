"""Matrix products of GPUs, each kernel run by itself on emulated ones of three families, against NumPy in float64.

References and bounds of errors are those of the host's kernels, whose arithmetic is the same but for the order of sums:
a GPU cuts a row into slices, so that its terms go through no more additions than on the host, and one for each slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rocmforge.compiler.graph import Node, Value, Weight
from rocmforge.compiler.packing_lanes import interleave_lane_pairs, pack_lanes
from rocmforge.compiler.target import TARGETS
from rocmforge.compiler.tuning import DEFAULT_TUNING, Tuning
from rocmforge.tests.kernels.hip_harness import (
    ARCHES,
    CONFIG,
    Q8_BLOCK,
    SILU,
    Gpu,
    Gpus,
    Launches,
    fitting,
    lower,
    q8_rows,
    q8_values,
)
from rocmforge.tests.kernels.kernel_harness import (
    FAMILIES,
    FLOAT_TYPES,
    LIKE_ANOTHER,
    ROUNDING,
    WEIGHT_TYPES,
    Array,
    Float64,
    Step,
    random_rows,
    whole_columns,
)
from rocmforge.tests.oracles.kernels import SILU_TOLERANCE, matmul_tolerance, silu, weights_as_float64


@dataclass(frozen=True, slots=True)
class Matmul:
    """A matrix product; `offset` and `stride` of its output."""

    rows: int
    columns: int
    bias: bool = False
    accumulate: bool = False
    offset: int = 0
    stride: int = 0
    at_logits_rows: bool = False

    def launches(self, arch: str, kind: str, tuning: Tuning = DEFAULT_TUNING) -> Launches:
        rows = "R" if self.at_logits_rows else "T"
        values = (
            Value("x", rows, self.columns, "float32" if kind in FLOAT_TYPES else "q8"),
            Value("y", rows, self.stride or self.rows),
        )
        weights = (Weight("w", (self.rows, self.columns), kind), Weight("w_bias", (self.rows,), "F32"))
        node = Node(
            "linear",
            ("x", "y") if self.accumulate else ("x",),
            "y",
            ("w", "w_bias") if self.bias else ("w",),
            {"out_offset": self.offset},
        )
        return lower(arch, node, values, weights, CONFIG, tuning=tuning)


def tail(kind: str) -> Matmul:
    """Rows of 2 tiles and a short one; columns of whole units and a rest; offset, stride, bias."""
    columns = 584 if kind in FLOAT_TYPES else 608
    return Matmul(70, whole_columns(kind, columns), bias=True, offset=3, stride=80)


SHAPES: dict[str, Callable[[str], Matmul]] = {
    "tail": tail,
    "smallest": lambda kind: Matmul(1, 8 if kind in FLOAT_TYPES else whole_columns(kind, 32)),
    "real": lambda kind: Matmul(576, 1536, accumulate=True),
    "logits": lambda kind: Matmul(333, 512, at_logits_rows=True),
}


def padded(rows: Array, count: int = 64) -> Array:
    """Activations as they lie in the arena: rows behind the last one hold anything, here what would show."""
    out = np.zeros((max(count, len(rows)), *rows.shape[1:]), rows.dtype)
    if rows.dtype == np.float32:
        out[:] = np.nan
    else:
        out["scales"] = np.nan
    out[: len(rows)] = rows
    return out


def inputs(random: np.random.Generator, kind: str, columns: int, tokens: int) -> tuple[Array, Float64]:
    """Activations as the kernel reads them, and what they stand for."""
    x = random.normal(0, 1, (tokens, columns)).astype(np.float32)
    if kind in FLOAT_TYPES:
        return x, x.astype(np.float64)
    blocks = q8_rows(x)
    return blocks, q8_values(blocks)


def counted(shape: Matmul, tokens: int) -> Step:
    # Where rows of logits are counted, tokens must not be.
    return Step(99, logits_rows=range(tokens)) if shape.at_logits_rows else Step(tokens)


def run_matmul(gpu: Gpu, shape: Matmul, launches: Launches, weights: Array, x: Array, out: Array, bias: Array) -> None:
    for kernel, grid in fitting(launches, len(out)):
        gpu.run(kernel, grid, counted(shape, len(out)), weights, padded(x), out, bias)


def on_gpus(name: str, kind: str) -> tuple[str, ...]:
    """GPUs for a product.

    What a type decides (`weights_quantized.h`: how a lane's block is loaded, unpacked and scaled) knows no GPU; what a
    GPU decides (how lanes lie over tiles, and which instructions sum) knows floats from quants, one scale from two.
    So, of the shape that has all in it, types of these three kinds run on all GPUs, and each other on one with waves
    of 32 or of 64 in turn. Rows that are added or asked for are no matter of a type, nor of an instruction.
    """
    if kind in ("F16", "Q4_1"):
        return ARCHES if name == "tail" else ARCHES[::2]
    if name == "tail" and kind == "Q6_K":
        return ARCHES
    if name == "tail":
        return (ARCHES[::2][WEIGHT_TYPES.index(kind) % 2],)
    return ("gfx1100",) if name == "smallest" and kind in FAMILIES else ()


PRODUCTS = [(arch, kind, name) for name in SHAPES for kind in WEIGHT_TYPES for arch in on_gpus(name, kind)]


@pytest.mark.parametrize(("arch", "kind", "name"), PRODUCTS)
def test_matmul(gpus: Gpus, arch: str, kind: str, name: str) -> None:
    shape = SHAPES[name](kind)
    launches = shape.launches(arch, kind)
    gpu, random = gpus(arch, launches), np.random.default_rng(shape.rows)
    raw = random_rows(random, kind, shape.rows, shape.columns)
    weights, bias = pack_lanes(raw, kind, shape.columns), random.normal(0, 1, shape.rows).astype(np.float32)
    most = 70 if name == "tail" else 17
    x, values = inputs(random, kind, shape.columns, most)
    start = random.normal(0, 1, (most, shape.stride or shape.rows)).astype(np.float32)
    mine = slice(shape.offset, shape.offset + shape.rows)
    expected = values @ weights_as_float64(raw, kind).T + bias * shape.bias
    # Half of the host's bound: a GPU always fuses, so that each multiply-add rounds once.
    tolerance = matmul_tolerance(raw, kind, values) / 2 + 16 * ROUNDING * (np.abs(expected) + np.abs(bias))
    if shape.accumulate:
        expected += start[:, mine]
        tolerance += 3 * ROUNDING * np.abs(start[:, mine])
    whole = start.copy()
    run_matmul(gpu, shape, launches, weights, x, whole, bias)
    assert (np.abs(whole[:, mine] - expected) <= tolerance).all()
    assert tolerance.max() < 0.2 * np.abs(values).mean() * np.abs(weights_as_float64(raw, kind)).mean()
    others = np.ones(whole.shape[1], bool)
    others[mine] = False
    assert np.array_equal(whole[:, others], start[:, others])
    # A row has the same bits in any batch: by the kernels for few tokens and by the one for many.
    for tokens in (1, 2, 3, 8, 9):
        part = start[:tokens].copy()
        run_matmul(gpu, shape, launches, weights, x[:tokens], part, bias)
        assert part.tobytes() == whole[:tokens].tobytes(), tokens


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "F16"])
@pytest.mark.parametrize("arch", ["gfx1100", "gfx942"])
def test_a_group_of_two_tiles_reads_nothing_past_the_last_one(gpus: Gpus, arch: str, kind: str) -> None:
    """Three tiles in groups of two: the emulator traps what is read beyond the weights."""
    shape = tail(kind)
    launches = shape.launches(arch, kind, Tuning(tile_n=64))
    gpu, random = gpus(arch, fitting(launches, 1), fitting(launches, 9)), np.random.default_rng(5)
    raw = random_rows(random, kind, shape.rows, shape.columns)
    weights, bias = pack_lanes(raw, kind, shape.columns), np.zeros(shape.rows, np.float32)
    assert weights.size % 3 == 0
    for tokens in (1, 9):
        x, values = inputs(random, kind, shape.columns, tokens)
        out = np.zeros((tokens, shape.stride), np.float32)
        run_matmul(gpu, shape, launches, weights, x, out, bias)
        found = out[:, shape.offset : shape.offset + shape.rows]
        expected = values @ weights_as_float64(raw, kind).T
        assert (
            np.abs(found - expected) <= matmul_tolerance(raw, kind, values) + 16 * ROUNDING * np.abs(expected)
        ).all()


# GPUs that are not emulated have other instructions: their code paths run where these are left unused.
OTHERS = {
    "waves of 32, sudot4, no matrices": ("gfx1100", "sudot4"),
    "waves of 32, no dots": ("gfx1201", "none"),
    "waves of 64, sdot4, no matrices": ("gfx942", "sdot4"),
    "waves of 64, no dots": ("gfx942", "none"),
}


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "Q8_0"])
@pytest.mark.parametrize("other", OTHERS)
def test_all_instructions_give_the_same_bits(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch, other: str, kind: str
) -> None:
    arch, dot = OTHERS[other]
    shape, random = tail(kind), np.random.default_rng(7)
    weights = pack_lanes(random_rows(random, kind, shape.rows, shape.columns), kind, shape.columns)
    bias = random.normal(0, 1, shape.rows).astype(np.float32)
    x, _ = inputs(random, kind, shape.columns, 70)
    results = []
    for changed in (False, True):
        if changed:
            features = TARGETS[arch].gpu
            assert features is not None
            plain = replace(TARGETS[arch], gpu=replace(features, dot=dot, matrix="none"))
            monkeypatch.setitem(TARGETS, arch, plain)
        launches = shape.launches(arch, kind)
        gpu = gpus(arch, fitting(launches, 70), fitting(launches, 5))
        for tokens in (70, 5):
            out = np.zeros((tokens, shape.stride), np.float32)
            run_matmul(gpu, shape, launches, weights, x[:tokens], out, bias)
            results.append(out)
        used = [counters.instructions for counters in gpu.api.counters().values()]
        assert any(counts["matrix"] for counts in used) != changed
        # Of plain arithmetic the compiler may make dots again, where the GPU has them.
        assert any(counts["dot"] for counts in used) or dot == "none"
    assert results[0].tobytes() == results[2].tobytes()
    assert results[1].tobytes() == results[3].tobytes() == results[0][:5].tobytes()


# gfx908 and gfx90a are not emulated. Their matrix instruction sums 16 columns, gfx942's 32: given 4 bytes of a lane and
# zeros in the place of the other 4, it brings each lane the same sums.
MFMA_OF_16_COLUMNS = """\
#define __builtin_amdgcn_mfma_i32_16x16x16i8(a, b, sums, ...) \\
    __builtin_amdgcn_mfma_i32_16x16x32_i8((uint32_t)(a), (uint32_t)(b), sums, 0, 0, 0)
"""


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "Q8_0"])
def test_matrices_of_16_columns_give_the_same_bits(gpus: Gpus, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    arch, shape, random = "gfx942", tail(kind), np.random.default_rng(7)
    weights = pack_lanes(random_rows(random, kind, shape.rows, shape.columns), kind, shape.columns)
    bias = random.normal(0, 1, shape.rows).astype(np.float32)
    x, _ = inputs(random, kind, shape.columns, 70)
    expected, found = (np.zeros((70, shape.stride), np.float32) for _ in range(2))
    launches = fitting(shape.launches(arch, kind), 70)
    run_matmul(gpus(arch, launches), shape, launches, weights, x, expected, bias)
    features = TARGETS["gfx90a"].gpu
    assert features is not None
    monkeypatch.setitem(TARGETS, arch, replace(TARGETS[arch], gpu=features))
    launches = fitting(shape.launches(arch, kind), 70)
    gpu = Gpu(arch, [kernel for kernel, _ in launches], gpus.cache, MFMA_OF_16_COLUMNS)
    run_matmul(gpu, shape, launches, weights, x, found, bias)
    assert any(counters.instructions["matrix"] for counters in gpu.api.counters().values())
    assert found.tobytes() == expected.tobytes()


LOADED = [
    (arch, kind)
    for index, kind in enumerate(kind for kind in WEIGHT_TYPES if kind not in ("F32", *LIKE_ANOTHER))
    for arch in (ARCHES if kind in FAMILIES else (ARCHES[::2][index % 2],))
]


@pytest.mark.parametrize(("arch", "kind"), LOADED)
def test_weights_come_in_whole_lines_and_once(gpus: Gpus, arch: str, kind: str) -> None:
    """For one token: every 128-byte line of the weights is loaded once, in one piece."""
    shape = Matmul(192, 1536)
    launches = fitting(shape.launches(arch, kind), 1)
    gpu, random = gpus(arch, launches), np.random.default_rng(1)
    weights = pack_lanes(random_rows(random, kind, 192, 1536), kind, 1536)
    x, _ = inputs(random, kind, 1536, 1)
    run_matmul(gpu, shape, launches, weights, x, np.zeros((1, 192), np.float32), np.zeros(0, np.float32))
    counters = gpu.counters(launches[0][0])
    loads = counters.by_allocation["argument 0"][0]
    assert (loads.bytes, loads.distinct_lines) == (weights.nbytes, weights.nbytes // 128)
    assert loads.full_transactions == loads.transactions
    # All that a decode step's product reads, against what it must: weights and activations once. Each of the 6 tiles
    # reads the activations, which are more than a tenth of weights of less than 3 bits; each wave its arguments.
    arguments = counters.by_allocation["kernarg"][0].bytes
    least = weights.nbytes + x.nbytes
    assert counters.loads.bytes <= max(1.10 * least, weights.nbytes + 6 * x.nbytes + arguments)
    assert counters.instructions["scratch"] == 0


# Beside the products above a pair has its order of tiles and its last step, which know floats from quants: a type of
# each family on one GPU, and on all those that a GPU's instructions tell apart.
PAIRS = [
    (arch, kind)
    for kind in FAMILIES
    for arch in (ARCHES if kind in ("F16", "Q4_1", "Q6_K") else ("gfx942" if kind == "Q2_K" else "gfx1100",))
]


@pytest.mark.parametrize(("arch", "kind"), PAIRS)
def test_gate_up(gpus: Gpus, arch: str, kind: str) -> None:
    columns = 256
    forms = {}
    for dtype in ("float32", "q8"):
        values = (Value("x", "T", columns, "float32" if kind in FLOAT_TYPES else "q8"), Value("y", "T", 96, dtype))
        weights = tuple(Weight(name, (96, columns), kind) for name in ("gate", "up"))
        forms[dtype] = lower(arch, Node("gate_up", ("x",), "y", ("gate", "up"), SILU), values, weights, CONFIG)
    gpu, random = gpus(arch, fitting(forms["float32"], 66), forms["q8"]), np.random.default_rng(4)
    gate, up = random_rows(random, kind, 96, columns), random_rows(random, kind, 96, columns)
    packed = interleave_lane_pairs(pack_lanes(gate, kind, columns), pack_lanes(up, kind, columns))
    x, real = inputs(random, kind, columns, 66)
    if kind in FLOAT_TYPES:
        x, real = (x / np.float32(8)).astype(np.float32), real / 8
    whole = np.zeros((66, 96), np.float32)
    none = np.zeros(0, np.float32)
    run_matmul(gpu, Matmul(96, columns), forms["float32"], packed, x, whole, none)
    g, u = real @ weights_as_float64(gate, kind).T, real @ weights_as_float64(up, kind).T
    g_error, u_error = matmul_tolerance(gate, kind, real), matmul_tolerance(up, kind, real)
    expected = silu(g) * u
    tolerance = SILU_TOLERANCE * np.abs(expected) + 1.1 * g_error * (np.abs(u) + u_error) + np.abs(silu(g)) * u_error
    assert (np.abs(whole - expected) <= tolerance + 1e-30).all()
    for tokens in (1, 2, 4, 7, 66):
        blocks = np.zeros((tokens, 3), Q8_BLOCK)
        run_matmul(gpu, Matmul(96, columns), forms["q8"], packed, x[:tokens], blocks, none)
        assert blocks.tobytes() == q8_rows(whole[:tokens]).tobytes()
