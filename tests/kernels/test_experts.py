"""Operations of mixtures on the host and on emulated GPUs, against what their nodes mean.

Bounds count roundings of float32, `ROUNDING` each.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Attribute, Node, Value
from rocmforge.tests.kernels.kernel_harness import FLOAT_TYPES, ROUNDING, Array, Float32, Float64, Step, random_rows
from rocmforge.tests.kernels.node_harness import PLACES, Case, Places
from rocmforge.tests.oracles.kernels import matmul_tolerance

RANDOM = np.random.default_rng(16)
EXP = 2.0**-21  # of a kernel's exponential, relative: tests/oracles/kernels.py
TOKENS = 11


def route_case(experts: int, used: int, scoring: str, bias: bool = False, **attributes: Attribute) -> Case:
    """Logits far enough apart that no rounding changes their order."""
    rows = [RANDOM.permutation(experts) for _ in range(TOKENS)]
    logits = (np.array(rows) * 0.07 - 2).astype(np.float32)
    node = Node("route", ("x",), "y", ("bias",) * bias, {"used": used, "scoring": scoring, **attributes})
    weights = {"bias": (RANDOM.permutation(experts) * 0.011).astype(np.float32)} if bias else {}
    return Case(node, (Value("x", "T", experts), Value("y", "T", 2 * used)), weights, {}, {"x": logits})


ROUTES = {
    "softmax": route_case(128, 8, "softmax", normalise=True),
    "softmax-odd": route_case(61, 6, "softmax", scale=2.5),
    "softmax-few": route_case(4, 2, "softmax", normalise=True),
    "sigmoid-bias": route_case(72, 8, "sigmoid", True, normalise=True, scale=2.5),
    "sigmoid-groups": route_case(64, 4, "sigmoid", True, normalise=True, groups=8, groups_used=3),
    "softmax-groups": route_case(96, 3, "softmax", groups=4, groups_used=1),
    "softmax-shared": route_case(24, 6, "softmax", normalise=True, scale=1.5, shared=3),
    "chosen": route_case(32, 4, "chosen"),
    "chosen-all": route_case(32, 32, "chosen", scale=0.5),
}


def linear_case(
    kind: str,
    experts: int,
    used: int,
    rows: int,
    columns: int,
    bias: bool = False,
    scales: bool = False,
    **attributes: Attribute,
) -> Case:
    """Into an output that has three columns more before the products, and two behind."""
    each = bool(attributes.get("each"))
    weights: dict[str, Array] = {"w": random_rows(RANDOM, kind, experts * rows, columns)}
    if bias:
        weights["w_bias"] = RANDOM.normal(0, 4, experts * rows).astype(np.float32)
    if scales:
        weights["w_scale"] = RANDOM.normal(2, 0.5, experts).astype(np.float32)
    x = RANDOM.normal(0, 1, (TOKENS, columns * used if each else columns)).astype(np.float32)
    chosen = np.array([RANDOM.choice(experts, used, replace="repeats" in attributes) for _ in range(TOKENS)])
    for row in () if "repeats" in attributes else chosen[1:9]:  # more of one expert than a kernel takes at once
        row[row == chosen[0, 0]] = row[0]
        row[0] = chosen[0, 0]
    routed = np.concatenate([RANDOM.uniform(0.1, 1, chosen.shape), chosen], axis=1).astype(np.float32)
    numbers: dict[str, Attribute] = {"experts": experts, "used": used, "out_offset": 3, **attributes}
    values = (
        Value("x", "T", x.shape[1], "float32" if kind in FLOAT_TYPES else "q8"),
        Value("r", "T", 2 * used),
        Value("y", "T", used * rows + 5),
    )
    node = Node("expert_linear", ("x", "r"), "y", tuple(weights), numbers)
    return Case(node, values, weights, {"w": kind}, {"x": x, "r": routed})


LINEARS = {
    "float": linear_case("F16", 5, 2, 64, 96),
    "float-odd": linear_case("F32", 40, 3, 23, 61, bias=True),
    "quantized": linear_case("Q4_0", 6, 2, 96, 128),
    "quantized-few-pairs": linear_case("Q8_0", 60, 4, 48, 64, bias=True, scales=True),
    "superblocks-each": linear_case("Q4_K", 4, 2, 33, 256, each=True),
    "codes-each": linear_case("MXFP4", 5, 3, 64, 96, bias=True, each=True),
    "repeated": linear_case("F16", 7, 4, 40, 96, repeats=4),
    "repeated-each": linear_case("Q8_0", 1, 8, 33, 64, each=True, repeats=8),  # more than a tile of one expert
    "weighted": linear_case("Q6_K", 3, 1, 40, 256, weighted=True, scales=True),
}


def heads_case(kind: str, heads: int, rows: int, columns: int, bias: bool = False, scales: bool = False) -> Case:
    """Each head's columns with a matrix of its own."""
    weights: dict[str, Array] = {"w": random_rows(RANDOM, kind, heads * rows, columns)}
    if bias:
        weights["w_bias"] = RANDOM.normal(0, 4, heads * rows).astype(np.float32)
    if scales:
        weights["w_scale"] = RANDOM.normal(2, 0.5, heads).astype(np.float32)
    x = RANDOM.normal(0, 1, (TOKENS, heads * columns)).astype(np.float32)
    values = Value("x", "T", x.shape[1], "float32" if kind in FLOAT_TYPES else "q8"), Value("y", "T", heads * rows)
    node = Node("head_linear", ("x",), "y", tuple(weights), {"num_heads": heads})
    return Case(node, values, weights, {"w": kind}, {"x": x})


HEADS = {
    "float": heads_case("F16", 5, 64, 96),
    "float-odd": heads_case("F32", 3, 23, 61, bias=True),
    "quantized": heads_case("Q4_0", 4, 96, 128),
    "quantized-odd": heads_case("Q8_0", 7, 24, 64, bias=True, scales=True),
    "superblocks": heads_case("Q4_K", 2, 33, 256),
    "one": heads_case("Q8_0", 1, 48, 32),
}


def sum_case(used: int, columns: int, **attributes: Attribute) -> Case:
    x = RANDOM.normal(0, 1, (TOKENS, used * columns)).astype(np.float32)
    routed = RANDOM.uniform(0.1, 1, (TOKENS, 2 * used)).astype(np.float32)
    values = Value("x", "T", used * columns), Value("r", "T", 2 * used), Value("y", "T", columns)
    node = Node("expert_sum", ("x", "r"), "y", (), {"used": used, **attributes})
    return Case(node, values, {}, {}, {"x": x, "r": routed})


SUMS = {"two": sum_case(2, 300), "eight": sum_case(8, 37, scale=0.22), "weighted": sum_case(3, 64, weighted=True)}


def gate_case() -> Case:
    attributes: dict[str, Attribute] = {"activation": "gelu_quick", "limit": 7.0, "up_offset": 1.0}
    x = RANDOM.normal(0, 8, (TOKENS, 96)).astype(np.float32)
    return Case(Node("gate", ("x",), "y", (), attributes), (Value("x", "T", 96), Value("y", "T", 48)), {}, {}, {"x": x})


GATE = gate_case()


@pytest.fixture(scope="module")
def places(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Places:
    cases = [*ROUTES.values(), *LINEARS.values(), *HEADS.values(), *SUMS.values(), GATE]
    return Places(cases, build_cache, tmp_path_factory.mktemp("experts"))


@pytest.mark.parametrize("name", ROUTES)
@pytest.mark.parametrize("place", PLACES)
def test_route(places: Places, place: str, name: str) -> None:
    case = ROUTES[name]
    experts, used = case.values[0].columns, case.node.integer("used")
    found, expected = places.run(place, case, Step(TOKENS)), case.meaning()
    assert np.array_equal(found[:, used:], expected[:, used:])
    bound = (4 * EXP + (experts + used + 16) * ROUNDING) * expected[:, :used]
    assert (np.abs(found - expected)[:, :used] <= bound).all()
    check_batches(places, place, case, found)


@pytest.mark.parametrize("place", PLACES)
def test_of_equal_scores_the_first_is_chosen(places: Places, place: str) -> None:
    """Of sigmoids that are all 1 too, and of whatever a broken model has: the numbers are those of experts."""
    case, used = ROUTES["sigmoid-groups"], 4
    x = np.full_like(case.inputs["x"], 40)
    no_bias = replace(case, weights={"bias": np.zeros(64, np.float32)})
    found = places.run(place, replace(no_bias, inputs={"x": x}), Step(TOKENS))
    assert np.array_equal(found[:, used:], np.tile(np.arange(4), (TOKENS, 1)))
    x[:, ::2] = np.nan
    found = places.run(place, replace(no_bias, inputs={"x": x}), Step(TOKENS))
    chosen = found[:, used:]
    assert ((chosen >= 0) & (chosen < 64)).all()
    assert all(len(set(row)) == used for row in chosen.tolist())


def products(place: str, case: Case) -> tuple[Float64, Float64]:
    """What the node means of x as the kernels have it, and how far they may be off."""
    kind, columns = case.types["w"], case.numbers("w").shape[1]
    x = case.read(place, "x")
    expected = case.meaning(x, case.inputs["r"])
    node = case.node
    used, experts = node.integer("used"), node.integer("experts")
    rows = len(case.weights["w"]) // experts
    factors = np.ones((TOKENS, used))
    chosen = case.inputs["r"][:, used:].astype(int)
    if "w_scale" in case.weights:
        factors = factors * case.numbers("w_scale")[chosen]
    if node.attributes.get("weighted"):
        factors = factors * case.inputs["r"][:, :used]
    bound = np.empty((TOKENS, used, rows))
    for token, slot in np.ndindex(TOKENS, used):
        one = x[token].reshape(-1, columns)[slot if node.attributes.get("each") else 0][None]
        mine = case.weights["w"].reshape(experts, rows, -1)[chosen[token, slot]]
        bound[token, slot] = matmul_tolerance(mine, kind, one)[0] * abs(factors[token, slot])
    return expected, bound.reshape(TOKENS, -1) + 4 * ROUNDING * np.abs(expected) + 1e-6


def check_batches(places: Places, place: str, case: Case, whole: Array) -> None:
    """A row has the same bits in any batch."""
    for tokens in (1, 2, 5):
        assert places.run(place, case, Step(tokens), tokens)[:tokens].tobytes() == whole[:tokens].tobytes(), tokens


@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("place", PLACES)
def test_expert_linear(places: Places, place: str, name: str) -> None:
    case = LINEARS[name]
    expected, bound = products(place, case)
    whole = places.run(place, case, Step(TOKENS))
    assert (np.abs(whole[:, 3:-2] - expected) <= bound).all()
    check_batches(places, place, case, whole)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("place", PLACES)
def test_head_linear(places: Places, place: str, name: str) -> None:
    case, kind = HEADS[name], HEADS[name].types["w"]
    x = case.read(place, "x")
    heads, matrices = case.node.integer("num_heads"), case.numbers("w")
    by_head = zip(np.split(x, heads, axis=1), np.split(matrices, heads), strict=True)
    expected = np.stack([columns @ matrix.T for columns, matrix in by_head], axis=1)
    stored = zip(np.split(x, heads, axis=1), np.split(case.weights["w"], heads), strict=True)
    bound = np.stack([matmul_tolerance(matrix, kind, columns) for columns, matrix in stored], axis=1)
    if "w_scale" in case.weights:
        scales = case.numbers("w_scale")[:, None]
        expected, bound = expected * scales, bound * np.abs(scales)
    if "w_bias" in case.weights:
        expected = expected + case.numbers("w_bias").reshape(heads, -1)
    expected = expected.reshape(TOKENS, -1)
    np.testing.assert_allclose(case.meaning(x), expected, rtol=1e-12, atol=1e-12)
    whole = places.run(place, case, Step(TOKENS))
    assert (np.abs(whole - expected) <= bound.reshape(TOKENS, -1) + 4 * ROUNDING * np.abs(expected) + 1e-6).all()
    check_batches(places, place, case, whole)


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("place", PLACES)
def test_expert_sum(places: Places, place: str, name: str) -> None:
    case = SUMS[name]
    used = case.node.integer("used")
    parts = np.abs(case.inputs["x"].reshape(TOKENS, used, -1)).sum(axis=1)
    found = places.run(place, case, Step(TOKENS))
    assert (np.abs(found - case.meaning()) <= (used + 2) * ROUNDING * parts).all()


@pytest.mark.parametrize("place", PLACES)
def test_gates_that_are_held(places: Places, place: str) -> None:
    x: Float32 = GATE.inputs["x"]
    found, expected = places.run(place, GATE, Step(TOKENS)), GATE.meaning()
    argument = np.minimum(4 * ROUNDING * np.abs(x[:, :48]), 1)
    assert (np.abs(found - expected) <= (EXP + 10 * ROUNDING + argument) * np.abs(expected) + 1e-36).all()
