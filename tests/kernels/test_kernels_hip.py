"""Each GPU kernel, run by itself on emulated GPUs of three families, against NumPy in float64.

References and bounds of errors are those of the host's kernels, whose arithmetic is the same but for the order of sums:
a GPU cuts a row into slices, so that its terms go through no more additions than on the host, and one for each slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rocmforge.artifacts.layout import kv_head_bytes
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Node, Value, Weight
from rocmforge.compiler.packing_lanes import interleave_lane_pairs, pack_lanes
from rocmforge.compiler.target import TARGETS
from rocmforge.compiler.tuning import DEFAULT_TUNING, Tuning
from rocmforge.tests.kernels.hip_harness import (
    ARCHES,
    CONFIG,
    Q8_BLOCK,
    Gpu,
    Launches,
    fitting,
    lower,
    q8_rows,
    q8_values,
)
from rocmforge.tests.kernels.kernel_harness import (
    FLOAT_TYPES,
    LIKE_ANOTHER,
    ROUNDING,
    SUPER_TYPES,
    WEIGHT_TYPES,
    Array,
    Float32,
    Float64,
    Step,
    kv_pages,
    page_masks,
    random_rows,
    whole_columns,
)
from rocmforge.tests.oracles.dequantize import dequantize
from rocmforge.tests.oracles.kernels import HARD_TO_ROUND, SILU_TOLERANCE, matmul_tolerance, silu, weights_as_float64


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


SILU = {"activation": "silu"}


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


class Gpus:
    """Emulated GPUs, each loaded with the kernels that a test names."""

    def __init__(self, cache: BuildCache) -> None:
        self.cache = cache

    def __call__(self, arch: str, *launches: Launches) -> Gpu:
        return Gpu(arch, [kernel for some in launches for kernel, _ in some], self.cache)


@pytest.fixture(scope="module")
def gpus(build_cache: BuildCache) -> Gpus:
    return Gpus(build_cache)


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


# A type of each family of code, for what hangs on shapes or on a GPU's instructions beside the type.
FAMILIES = ("F16", "Q8_0", "Q4_1", "Q6_K", "Q2_K", "IQ4_XS")


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
