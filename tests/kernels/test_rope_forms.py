"""What becomes of queries, keys and values before attention, in every form: host and emulated GPUs against NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest

from rocmforge.artifacts.layout import KvLayout
from rocmforge.compiler.buffers import assign_buffers
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Attribute, Graph, Node, Value, Weight
from rocmforge.compiler.lower_host import Q8_BLOCKS, HostPlanner
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.ops.rope_kv import OPTIONAL, compute, section_axes
from rocmforge.compiler.plan import KernelSpec
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.kernels.hip_harness import CONFIG, Gpu, lower
from rocmforge.tests.kernels.kernel_harness import (
    LEVELS,
    ROUNDING,
    Array,
    Float32,
    Float64,
    Kernels,
    Step,
    build,
    kv_pages,
    page_masks,
)

Built = Callable[[str], Kernels]
POSITIONS, ROWS = [14, 15, 16, 3, 0], [1, 1, 1, 0, 2]
ROTARY = [[14, 14, 30, 3, 0], [15, 2, 31, 8, 1], [16, 9, 1, 0, 2], [7, 21, 6, 5, 3]]
"""Of tokens that stand for a picture: time, height, width and extra."""
BLOCKS = [[4, 0], [2, 5], [1, 3]]
LENGTH = 32  # rows of tables
TABLES = ("rope_table", "temperatures")


@dataclass(frozen=True, slots=True)
class Form:
    """A node: its heads, its attributes that are not as usual, and which weights it has."""

    heads: int = 3
    kv_heads: int = 2
    head_dim: int = 32
    rope_dim: int = 32
    interleaved: bool = False
    norm_shape: str = ""  # "": none; "head": all heads share it; "heads": each its own
    bias: bool = False
    kv_dtype: str = "f16"
    more: Mapping[str, Attribute] = field(default_factory=dict)

    @property
    def value_dim(self) -> int:
        return int(self.more.get("value_dim", self.head_dim))

    @property
    def values_in_keys(self) -> bool:
        return bool(self.more.get("values_in_keys"))

    @property
    def columns(self) -> int:
        of_values = 0 if self.values_in_keys else self.value_dim
        return self.heads * self.head_dim + self.kv_heads * (self.head_dim + of_values)


FORMS: dict[str, Form] = {
    "no-rotation": Form(rope_dim=0),
    "rotation-from-the-8th": Form(head_dim=48, rope_dim=16, interleaved=True, more={"rope_first": 8}),
    "clamp": Form(more={"clamp": 0.75}),
    "layer-norm-of-each-head": Form(norm_shape="heads", bias=True, more={"norm": "layer"}),
    "layer-norm-without-bias": Form(norm_shape="heads", head_dim=20, rope_dim=4, more={"norm": "layer"}),
    "rms-norm-of-rows": Form(norm_shape="heads", more={"norm_rows": True}),
    "layer-norm-of-rows": Form(norm_shape="heads", bias=True, rope_dim=0, more={"norm_rows": True, "norm": "layer"}),
    "norm-after": Form(norm_shape="head", interleaved=True, rope_dim=16, more={"norm_after": True}),
    "layer-norm-of-rows-after": Form(
        norm_shape="heads",
        bias=True,
        head_dim=18,
        rope_dim=6,
        more={"norm_rows": True, "norm": "layer", "norm_after": True},
    ),
    "weightless-after": Form(more={"weightless": True, "norm_after": True}),
    "norm-of-values": Form(norm_shape="head", more={"value_norm": True}),
    "temperature": Form(rope_dim=0, more={"temperature": True}),
    "small-values": Form(head_dim=48, rope_dim=32, more={"value_dim": 16}),
    "queries-alone": Form(kv_heads=0, norm_shape="head"),
    "odd-head": Form(heads=1, kv_heads=1, head_dim=7, rope_dim=6, norm_shape="head"),
    "large-head": Form(heads=2, kv_heads=1, head_dim=576, rope_dim=64, more={"value_dim": 512, "rope_first": 512}),
    "sections": Form(more={"sections": "4,5,3,2"}),
    "sections-of-a-part": Form(head_dim=48, rope_dim=24, more={"sections": "2,1,3,0", "rope_first": 8}),
    "sections-in-turn": Form(norm_shape="head", more={"sections": "6,5,3,0", "sections_interleaved": True}),
    "latent": Form(
        heads=3,
        kv_heads=1,
        head_dim=44,
        rope_dim=12,
        interleaved=True,
        more={"value_dim": 32, "rope_first": 32, "values_in_keys": True, "temperature": True},
    ),
    "latent-of-8-bits": Form(
        heads=2,
        kv_heads=1,
        head_dim=96,
        kv_dtype="q8_0",
        more={"value_dim": 64, "rope_first": 64, "values_in_keys": True},
    ),
    "8-bits": Form(kv_dtype="q8_0", norm_shape="heads", bias=True, more={"norm_rows": True, "value_norm": True}),
    "all-at-once": Form(
        heads=4,
        norm_shape="heads",
        bias=True,
        rope_dim=16,
        interleaved=True,
        more={"clamp": 1.5, "norm": "layer", "norm_after": True, "temperature": True, "value_dim": 40, "rope_first": 4},
    ),
}


ELSEWHERE = ("odd-head", "8-bits", "all-at-once", "latent", "sections-in-turn")
"""At other levels of the host, and on waves of 64."""


@dataclass(frozen=True, slots=True)
class Case:
    """A node, numbers for it, and what it makes of them."""

    node: Node
    weights: tuple[Weight, ...]
    numbers: tuple[Float32, ...]  # of the weights
    rows: Float32
    expected: Float64
    tolerance: Float64


@cache
def case(name: str) -> Case:
    form, random = FORMS[name], np.random.default_rng(len(name))
    sizes = {"": 0, "head": form.head_dim, "heads": form.heads * form.head_dim}
    weights = [Weight("rope_table", (LENGTH, form.rope_dim), "F32")] if form.rope_dim else []
    for kind in ("norm", "bias") if form.bias else ("norm",):
        names = ("q", "k") if form.norm_shape and form.kv_heads else ("q",) if form.norm_shape else ()
        for part in names:
            heads = form.heads if part == "q" else form.kv_heads
            size = heads * form.head_dim if form.norm_shape == "heads" else sizes[form.norm_shape]
            weights.append(Weight(f"{part}_{kind}", (size,), "F32"))
    if form.more.get("temperature"):
        weights.append(Weight("temperatures", (LENGTH,), "F32"))
    numbers = [random.normal(1, 0.3, weight.shape).astype(np.float32) for weight in weights]
    rows = random.normal(0.2, 1, (len(ROWS), form.columns)).astype(np.float32)
    heads_of = {"num_heads": form.heads, "num_kv_heads": form.kv_heads, "head_dim": form.head_dim}
    usual = {"layer": 0, "epsilon": 1e-6, "rope_dim": form.rope_dim, "interleaved": form.interleaved}
    node = Node("rope_kv", ("x",), "y", tuple(weight.name for weight in weights), {**usual, **heads_of, **form.more})
    # The operation counts rows from position 0: it is given the tables' rows that the positions have.
    own = [x[POSITIONS] if w.name in TABLES else x for x, w in zip(numbers, weights, strict=True)]
    exact = rows.astype(np.float64)
    if form.more.get("sections"):
        expected = compute(node, [exact], [x.astype(np.float64) for x in numbers], np.array(ROTARY))
    else:
        expected = compute(node, [exact], [x.astype(np.float64) for x in own])
    # A norm sums over `count` elements at most, 16 or more side by side; what it makes is a number near 1 times a
    # weight, plus a bias; then there are a rotation, whose numbers are below 2.5, and a temperature.
    count = form.columns
    roundings = 2 * (count / 16 + 30) * ROUNDING
    largest = max([1.0, *(float(np.abs(x).max()) for x in numbers)])
    tolerance = roundings * largest**3 * (np.abs(expected).max() + np.abs(rows).max() + 2)
    return Case(node, tuple(weights), tuple(numbers), rows, expected, np.full(expected.shape, tolerance))


def arguments(c: Case, rows: Array, pages: tuple[Array, Array] | tuple[None, None]) -> list[Array | None]:
    """As `ops/rope_kv.py` orders them."""
    by_name = {weight.name: x for weight, x in zip(c.weights, c.numbers, strict=True)}
    biases = [x for name, x in by_name.items() if name.endswith("_bias")]
    norms = [by_name.get("q_norm"), by_name.get("k_norm")]
    joined = np.concatenate(biases) if biases else None
    return [rows, by_name.get("rope_table"), *pages, *norms, joined, by_name.get("temperatures")]


def step_of(name: str) -> Step:
    rotary = ROTARY if FORMS[name].more.get("sections") else ()
    return Step(len(ROWS), positions=POSITIONS, rows=ROWS, block_table=BLOCKS, rope_positions=rotary)


def empty_pages(form: Form, multiple: int) -> tuple[Array, Array] | tuple[None, None]:
    """Of 0xA5 throughout."""
    if not form.kv_heads:
        return None, None
    widths = (-(-size // multiple) * multiple for size in (form.head_dim, form.value_dim))
    sizes = (16 * (w * 2 if form.kv_dtype == "f16" else w + w // 16) for w in widths)
    keys, values = (np.full((6, form.kv_heads, size), 0xA5, np.uint8) for size in sizes)
    return keys, values


def host_spec(name: str) -> KernelSpec:
    """As `ops/rope_kv.py` lowers the node."""
    c = case(name)
    table = {weight.name: weight for weight in (*c.weights, Weight("source", (64, 64), "F32"))}
    values = {one: Value(one, "T", FORMS[name].columns) for one in "xy"}
    graph = Graph((Node("embedding", (), "x", ("source",)), c.node), values, table)
    kv = KvLayout(1, 1, 32, 16, FORMS[name].kv_dtype)
    planner = HostPlanner(graph, TARGETS["host"], assign_buffers(graph, TARGETS["host"], Q8_BLOCKS), kv, 32)
    OPERATIONS["rope_kv"].host(planner, c.node)
    return planner.kernels[planner.launches[0].kernel]


@pytest.fixture(scope="module")
def built(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder, loaded = tmp_path_factory.mktemp("kernels"), {}
    for level in LEVELS:
        specs = [host_spec(name) for name in (FORMS if level == LEVELS[0] else ELSEWHERE)]
        loaded[level] = build(specs, build_cache, folder, [level])[level]
    return loaded.__getitem__


def check_pages(form: Form, pages: tuple[Array, ...], keys: Float32, values: Float32, multiple: int) -> None:
    """Pages hold keys and values [T, kv heads, elements], rounded, zeros behind them, and nothing else."""
    written = np.zeros((6, 16), bool)
    whole = []
    for unpadded in (keys, values):
        x = np.pad(unpadded, ((0, 0), (0, 0), (0, -unpadded.shape[-1] % multiple)))
        page = np.zeros((6, form.kv_heads, 16, x.shape[-1]), np.float32)
        for t, (row, position) in enumerate(zip(ROWS, POSITIONS, strict=True)):
            block, slot = BLOCKS[row][position // 16], position % 16
            page[block, :, slot], written[block, slot] = x[t], True
        whole.append(page)
    lanes = multiple == 8
    wanted = kv_pages(whole[0].swapaxes(2, 3), whole[1], form.kv_dtype, lanes)
    if form.values_in_keys:  # elements of a position are neighbours, as those of values are elsewhere
        assert (pages[1] == 0xA5).all()
        pages, wanted = (pages[1], pages[0]), (pages[1], wanted[1])
    for which, page in enumerate(pages):
        if form.values_in_keys and which == 0:
            continue
        masks = page_masks(written, form.kv_heads, whole[which].shape[-1], form.kv_dtype, lanes)
        assert np.array_equal(page, np.where(masks[which], wanted[which], 0xA5)), ("keys", "values")[which]


@pytest.mark.parametrize(
    "level, name", [(level, name) for level in LEVELS for name in (FORMS if level == LEVELS[0] else ELSEWHERE)]
)
def test_on_the_host(built: Built, level: str, name: str) -> None:
    form, c = FORMS[name], case(name)
    out, pages = c.rows.copy(), empty_pages(form, 16)
    built(level).run(host_spec(name), step_of(name), *arguments(c, out, pages), by_item=True)
    assert (np.abs(out - c.expected) <= c.tolerance).all()
    assert c.tolerance.max() < 0.01
    if pages[0] is not None:
        keys, values = np.split(out[:, form.heads * form.head_dim :], [form.kv_heads * form.head_dim], axis=1)
        values = keys if form.values_in_keys else values
        heads = (len(ROWS), form.kv_heads, -1)
        check_pages(form, pages, keys.reshape(heads), values.reshape(heads), 16)


@pytest.mark.parametrize(
    "arch, name", [*(("gfx1100", name) for name in FORMS), *(("gfx942", name) for name in ELSEWHERE)]
)
def test_on_a_gpu(build_cache: BuildCache, arch: str, name: str) -> None:
    """Keys and values are in the pages alone: what these hold is judged as float16 or int8 with its own rounding."""
    form, c = FORMS[name], case(name)
    values = (Value("x", "T", form.columns), Value("y", "T", form.columns))
    config = replace(CONFIG, max_seq_len=LENGTH)
    launches = lower(arch, c.node, values, c.weights, config, form.kv_dtype)
    ((kernel, grid),) = launches
    gpu, out, pages = Gpu(arch, [kernel], build_cache), c.rows.copy(), empty_pages(form, 8)
    gpu.run(kernel, grid, step_of(name), *arguments(c, out, pages))
    queries = form.heads * form.head_dim
    assert (np.abs(out - c.expected) <= c.tolerance)[:, :queries].all()
    assert np.array_equal(out[:, queries:], c.rows[:, queries:])
    if pages[0] is not None:
        parts = 1 if form.values_in_keys else 2
        assert all((page == 0xA5).all() for page in pages[parts:])
        stored = [read_page(form, page, which) for which, page in enumerate(pages[:parts])]
        expected = np.split(c.expected[:, queries:], [form.kv_heads * form.head_dim], axis=1)[:parts]
        for found, wanted in zip(stored, expected, strict=True):
            x = wanted.reshape(*found.shape[:2], -1)
            assert (found[..., x.shape[-1] :] == 0).all()
            step_size = np.abs(x) * 2.0**-11 + 2.0**-24
            if form.kv_dtype == "q8_0":
                step_size = np.repeat(np.abs(x.reshape(*x.shape[:2], -1, 32)).max(-1) / 127, 32, -1) * 0.51
            assert (np.abs(found[..., : x.shape[-1]] - x) <= step_size + c.tolerance.max()).all()


def read_page(form: Form, page: Array, which: int) -> Float64:
    """Keys or values of the step's tokens, [T, kv heads, elements], as a GPU's pages have them."""
    size = (form.head_dim, form.value_dim)[which]
    width = -(-size // 8) * 8
    if form.kv_dtype == "f16":
        elements = page.view(np.float16).reshape(6, form.kv_heads, -1).astype(np.float64)
    else:
        scales = page[..., 16 * width :].copy().view(np.float16).reshape(6, form.kv_heads, width // 32, 16)
        elements = page[..., : 16 * width].view(np.int8).astype(np.float64)
    if which == 0:
        lanes = elements.reshape(6, form.kv_heads, width // 8, 16, 8)
        elements = lanes.swapaxes(2, 3).reshape(6, form.kv_heads, -1)
    by_position = elements.reshape(6, form.kv_heads, 16, width)
    if form.kv_dtype != "f16":
        by_position = by_position * np.repeat(scales.swapaxes(2, 3).astype(np.float64), 32, -1)
    places = [(BLOCKS[row][position // 16], position % 16) for row, position in zip(ROWS, POSITIONS, strict=True)]
    return np.array([by_position[block, :, slot] for block, slot in places])


TEXT = Step(len(ROWS), positions=POSITIONS, rows=ROWS, block_table=BLOCKS)
"""Without rotary positions, as steps of texts alone are."""
SAME = replace(TEXT, rope_positions=[POSITIONS] * 4)


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.more.get("sections")])
def test_texts_keep_their_bits_with_sections(built: Built, build_cache: BuildCache, name: str) -> None:
    """A token whose rotary positions are all its position, or that has none, rotates by its position."""
    c, form = case(name), FORMS[name]
    own = [x[POSITIONS] if w.name in TABLES else x for x, w in zip(c.numbers, c.weights, strict=True)]
    expected = compute(c.node, [c.rows.astype(np.float64)], [x.astype(np.float64) for x in own])
    for step in (TEXT, SAME):
        out = c.rows.copy()
        built(LEVELS[0]).run(host_spec(name), step, *arguments(c, out, empty_pages(form, 16)))
        assert (np.abs(out - expected) <= c.tolerance).all()
    values = (Value("x", "T", form.columns), Value("y", "T", form.columns))
    ((kernel, grid),) = lower("gfx1100", c.node, values, c.weights, CONFIG)
    gpu, found = Gpu("gfx1100", [kernel], build_cache), []
    for step in (TEXT, SAME):
        out = c.rows.copy()
        gpu.run(kernel, grid, step, *arguments(c, out, empty_pages(form, 8)))
        found.append(out.tobytes())
    assert found[0] == found[1]
    queries = np.frombuffer(found[0], np.float32).reshape(c.rows.shape)[:, : form.heads * form.head_dim]
    assert (np.abs(queries - expected[:, : queries.shape[1]]) <= c.tolerance[:, : queries.shape[1]]).all()


def axes(pairs: int, sections: str, interleaved: bool) -> str:
    more: dict[str, Attribute] = {"sections": sections, "sections_interleaved": interleaved}
    found = section_axes(Node("rope_kv", ("x",), "y", (), {"rope_dim": 2 * pairs, **more}))
    return "".join("thwe"[axis] for axis in found)


def test_the_axes_of_sections_by_hand() -> None:
    """Of Qwen2-VL and Qwen3-VL, and as llama.cpp draws them where there are fewer or more pairs than sections have."""
    assert axes(64, "16,24,24,0", False) == "t" * 16 + "h" * 24 + "w" * 24
    assert axes(64, "24,20,20,0", True) == "thw" * 20 + "tttt"
    assert axes(32, "11,11,10,0", True) == "thw" * 10 + "th"
    assert axes(9, "2,1,1,1", False) == "tthwe" + "tthw"
    assert axes(8, "2,1,1,0", True) == "thwt" * 2


def test_every_attribute_is_in_a_form() -> None:
    assert {name for form in FORMS.values() for name in form.more} == set(OPTIONAL)


def test_the_norm_of_rows_and_of_heads_by_hand() -> None:
    """Of one token at position 0, where nothing turns: numbers that a reader can check."""
    form = {"layer": 0, "num_heads": 2, "num_kv_heads": 1, "head_dim": 2, "rope_dim": 0, "interleaved": False}
    row = np.array([[3.0, 4.0, 0.0, 12.0, 6.0, 8.0, 5.0, 5.0]])
    weights = [np.array([1.0, 1.0, 2.0, 2.0]), np.array([1.0, 10.0])]

    def result(**more: Attribute) -> list[float]:
        node = Node("rope_kv", ("x",), "y", ("q", "k"), {**form, "epsilon": 0.0, **more})
        found: list[float] = OPERATIONS["rope_kv"].compute(node, [row], weights)[0].tolist()
        return found

    head, whole, key = math.sqrt(12.5), math.sqrt(169 / 4), math.sqrt(50)
    tail = [6 / key, 80 / key]
    assert result() == pytest.approx([3 / head, 4 / head, 0, 2 * math.sqrt(2), *tail, 5, 5])
    assert result(norm_rows=True) == pytest.approx([3 / whole, 4 / whole, 0, 24 / whole, *tail, 5, 5])
    assert result(norm="layer") == pytest.approx([-1, 1, -2, 2, -1, 10, 5, 5])
    assert result(value_norm=True)[6:] == pytest.approx([1, 1])
    assert result(clamp=5.0)[4:] == pytest.approx([1, 10, 5, 5])
