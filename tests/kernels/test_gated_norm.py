"""Gated norms on the host and on emulated GPUs, against what their nodes mean; `columns` of groups and slices.

Bounds count roundings of float32, `ROUNDING` each.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Attribute, Graph, Node, Value, Weight
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.ops.activations import ACTIVATIONS
from rocmforge.tests.kernels import hip_harness, kernel_harness
from rocmforge.tests.kernels.kernel_harness import MAX_SHIFT, ROUNDING, Float64, Step
from rocmforge.tests.kernels.node_harness import ARCHES, PLACES, Case, Places

TOKENS = 4
RANDOM = np.random.default_rng(161)
EXP = 2.0**-21  # of a kernel's exponential, relative: tests/oracles/kernels.py


def case(norm: str, columns: int, gates: int, weight: int = 0, dtype: str = "float32", **attributes: Attribute) -> Case:
    weights = {"w": RANDOM.normal(1, 0.3, weight).astype(np.float32)} if weight else {}
    if norm != "none":
        attributes["epsilon"] = 1e-5
    node = Node("gated_norm", ("x", "z"), "y", tuple(weights), {"norm": norm, **attributes})
    values = Value("x", "T", columns), Value("z", "T", gates), Value("y", "T", columns, dtype)
    inputs = {
        name: RANDOM.normal(0.3, 1.5, (TOKENS, n)).astype(np.float32) for name, n in (("x", columns), ("z", gates))
    }
    return Case(node, values, weights, {}, inputs)


CASES = {
    "delta": case("before", 96, 96, 32, activation="silu", group=32),
    "kda": case("before", 66, 70, 22, activation="sigmoid", group=22, gate_first=4),
    "mamba2": case("after", 600, 1207, 600, activation="silu", group=300, gate_first=7),
    "whole": case("after", 61, 61, activation="silu"),
    "none": case("none", 61, 130, activation="silu", gate_first=69),
}
Q8 = {
    name: replace(CASES[name], values=(*CASES[name].values[:2], replace(CASES[name].values[2], dtype="q8")))
    for name in ("delta",)
}
Q8["after"] = case("after", 128, 128, 128, "q8", activation="silu", group=64)


def columns_case(columns: int, out: int, **attributes: Attribute) -> Case:
    node = Node("columns", ("x",), "y", (), attributes)
    inputs = {"x": RANDOM.normal(size=(TOKENS, columns)).astype(np.float32)}
    return Case(node, (Value("x", "T", columns), Value("y", "T", out)), {}, {}, inputs)


COLUMNS = {
    "groups": columns_case(93, 30, first=5, count=10, groups=3),
    "slice": columns_case(93, 77, first=21, count=10, groups=3, out_offset=9),
}


@pytest.fixture(scope="module")
def places(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Places:
    cases = (*CASES.values(), *Q8.values(), *COLUMNS.values())
    return Places(cases, build_cache, tmp_path_factory.mktemp("gated"))


def bound(one: Case) -> Float64:
    """Of the activation, of the sum of squares (half of it, twice where it sums gated elements), and three products."""
    group = one.node.integer("group", one.values[0].columns)
    relative = 2 * EXP + (group / 16 + 24) * ROUNDING
    found: Float64 = relative * np.abs(one.meaning())
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", PLACES)
def test_meaning(places: Places, place: str, name: str) -> None:
    one = CASES[name]
    found = places.run(place, one, Step(TOKENS))
    assert (np.abs(found - one.meaning()) <= bound(one)).all()


@pytest.mark.parametrize("name", CASES)
def test_meaning_is_the_formula(name: str) -> None:
    one = CASES[name]
    x, z = (one.inputs[value].astype(np.float64) for value in "xz")
    first, group = one.node.integer("gate_first", 0), one.node.integer("group", x.shape[1])
    gates = ACTIVATIONS[one.node.word("activation")](z[:, first : first + x.shape[1]])
    for c in (0, x.shape[1] // 2, x.shape[1] - 1):
        own = slice(c // group * group, c // group * group + group)
        rows = x[:, own] * (gates[:, own] if one.node.word("norm") == "after" else 1)
        root = 1 if one.node.word("norm") == "none" else np.sqrt((rows**2).mean(1) + 1e-5)
        weight = one.weights["w"][c % len(one.weights["w"])] if one.weights else 1
        assert np.allclose(one.meaning()[:, c], x[:, c] * gates[:, c] / root * weight, 1e-12)


@pytest.mark.parametrize("name", Q8)
@pytest.mark.parametrize("place", PLACES)
def test_int8_blocks_are_those_of_the_same_floats(places: Places, place: str, name: str) -> None:
    one = Q8[name]
    found = places.run(place, one, Step(TOKENS))
    values = hip_harness.q8_values(found) if place in ARCHES else kernel_harness.q8_values(found)
    steps = np.abs(one.meaning()).reshape(TOKENS, -1, 16).max(2) / 127
    if place not in ARCHES:
        steps = 2 * steps + steps.max() / 2**MAX_SHIFT  # powers of 2 of a block's unit
    assert (np.abs(values - one.meaning()).reshape(TOKENS, -1, 16) <= 0.501 * steps[..., None]).all()


@pytest.mark.parametrize("place", PLACES)
def test_nan_stays_in_its_row(places: Places, place: str) -> None:
    for name in ("x", "z"):
        one = CASES["delta"]
        inputs = {value: x.copy() for value, x in one.inputs.items()}
        inputs[name][1, 5] = np.nan
        found = np.isnan(places.run(place, replace(one, inputs=inputs), Step(TOKENS)))
        assert found.any(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("place", PLACES)
def test_columns(places: Places, place: str, name: str) -> None:
    one = COLUMNS[name]
    offset, expected = one.node.integer("out_offset", 0), one.meaning().astype(np.float32)
    x = one.inputs["x"]
    first = one.node.integer("first")
    assert np.array_equal(expected, np.concatenate([x[:, 31 * g + first :][:, :10] for g in range(3)], 1))
    found = places.run(place, one, Step(TOKENS))
    assert np.array_equal(found[:, offset : offset + 30], expected)
    beside = np.delete(found, range(offset, offset + 30), axis=1)
    assert (beside.view(np.uint32) == 0xA5A5A5A5).all()


@pytest.mark.parametrize(
    "one, changed, problem",
    [
        (CASES["delta"], {"norm": "behind"}, "expected a norm of before, after, none, found behind"),
        (CASES["delta"], {"gate_first": 1}, "expected gates of 97 columns, found 96"),
        (CASES["whole"], {"group": 7}, "expected groups that 61 columns are a multiple of, found 7"),
        (CASES["delta"], {"norm": "none"}, "expected an epsilon where there is a norm, and none without"),
        (CASES["none"], {"norm": "after"}, "expected an epsilon where there is a norm, and none without"),
        (CASES["delta"], {"group": 48}, "expected a weight of 96 or of 48, or none, found [32]"),
        (COLUMNS["groups"], {"first": 22}, "expected an input of 32 columns in each of 3 groups, found 93"),
        (COLUMNS["groups"], {"groups": 2}, "expected an input of 15 columns in each of 2 groups, found 93"),
        (COLUMNS["groups"], {"count": 9}, "expected an output of 27 columns, found 30"),
        (COLUMNS["slice"], {"out_offset": 48}, "expected an output of 78 columns, found 77"),
    ],
)
def test_problems(one: Case, changed: dict[str, Attribute], problem: str) -> None:
    node = replace(one.node, attributes={**one.node.attributes, **changed})
    weights = {name: Weight(name, x.shape, "F32") for name, x in one.weights.items()}
    graph = Graph((node,), {value.name: value for value in one.values}, weights)
    assert OPERATIONS[node.op].problem(graph, one.node) == ""
    assert OPERATIONS[node.op].problem(graph, node) == problem
