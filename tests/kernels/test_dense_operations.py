"""Operations of dense models on the host and on emulated GPUs, against what their nodes mean.

Bounds count roundings of float32, `ROUNDING` each; portable code rounds a multiply-add twice, hence factors of 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Attribute, Node, Value
from rocmforge.tests.kernels.kernel_harness import FLOAT_TYPES, ROUNDING, Array, Float32, Float64, Step, random_rows
from rocmforge.tests.kernels.node_harness import PLACES, Case, Places, quantized
from rocmforge.tests.oracles.kernels import matmul_tolerance

TOKENS = 5
RANDOM = np.random.default_rng(14)
EXP = 2.0**-21  # of a kernel's exponential, relative: tests/oracles/kernels.py


def normal(*shape: int, size: float = 1.0, mean: float = 0.0) -> Float32:
    return RANDOM.normal(mean, size, shape).astype(np.float32)


# Norms: columns, attributes, columns of weight and bias (0: none), rows of input and output.
NORMS: dict[str, tuple[int, dict[str, Attribute], int, int, str]] = {
    "bias": (61, {}, 61, 61, "TT"),
    "layer": (576, {"kind": "layer"}, 576, 0, "TT"),
    "layer-bias": (96, {"kind": "layer"}, 96, 96, "TT"),
    "layer-bare": (61, {"kind": "layer"}, 0, 0, "TT"),
    "bare": (96, {}, 0, 0, "TT"),
    "group-shared": (96, {"group": 32}, 32, 32, "TT"),
    "group-each": (60, {"kind": "layer", "group": 12}, 60, 60, "TT"),
    "logits": (61, {"kind": "layer"}, 61, 61, "TR"),
    "packed": (61, {}, 61, 0, "RR"),
}


def norm_case(name: str, dtype: str = "float32") -> Case:
    columns, attributes, weight, bias, rows = NORMS[name]
    sizes = {"w": weight, "w_bias": bias}
    weights = {role: normal(size, mean=1, size=0.3) for role, size in sizes.items() if size}
    node = Node("norm", ("x",), "y", tuple(weights), {"epsilon": 1e-5, **attributes})
    values = Value("x", rows[0], columns), Value("y", rows[1], columns, dtype)
    return Case(node, values, weights, {}, {"x": normal(TOKENS, columns, size=2, mean=3)})


def norm_bound(case: Case) -> Float64:
    """Of mean and centred elements, then of the deviation, then of the last products and the bias."""
    x = case.inputs["x"].astype(np.float64)
    group = case.node.integer("group", x.shape[1])
    grouped = x.reshape(len(x), -1, group)
    additions = 2 * (group / 16 + 16) * ROUNDING
    layer = case.node.word("kind", "rms") == "layer"
    centred = grouped - grouped.mean(-1, keepdims=True) * layer
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True))
    shift = additions * np.abs(grouped).mean(-1, keepdims=True) * layer
    off = (shift + np.abs(centred) * (additions + shift / deviation)) / deviation
    weight = np.abs(case.numbers("w")) if "w" in case.weights else np.ones(group)
    found: Float64 = (off * weight.reshape(-1, group)).reshape(x.shape)
    bias = np.abs(case.weights["w_bias"]).max() if "w_bias" in case.weights else 0
    return found + 2 * ROUNDING * (np.abs(case.meaning()) + bias)


NORM_CASES = {name: norm_case(name) for name in NORMS}
Q8_NORMS = {
    name: replace(
        NORM_CASES[name], values=(NORM_CASES[name].values[0], replace(NORM_CASES[name].values[1], dtype="q8"))
    )
    for name in ("layer", "layer-bias", "bare", "group-shared")
}

HARD = np.array(
    [-1e30, -200, -88, -12, -0.51, -0.49, -0.2, -1e-3, -1e-7, 0, 1e-7, 1e-3, 0.2, 0.26, 1, 12, 88, 200], np.float32
)


def hard_rows(columns: int, size: float = 3.0) -> Float32:
    x = normal(TOKENS, columns, size=size)
    x[0, : len(HARD)] = HARD
    return x


def activate_case(name: str, columns: int = 37, dtype: str = "float32", rows: str = "T") -> Case:
    values = Value("x", rows, columns), Value("y", rows, columns, dtype)
    return Case(Node("activate", ("x",), "y", (), {"activation": name}), values, {}, {}, {"x": hard_rows(columns)})


Bound = Callable[[Float64, Float64], Float64]
ARGUMENT = 5 * ROUNDING  # of gelu's tanh: two constants and three operations, relative


def _xielu_bound(x: Float64, y: Float64) -> Float64:
    far = np.where(x <= -0.5, EXP, 0)
    return 0.7 * (far + 8 * ROUNDING * np.abs(x)) + 8 * ROUNDING * (np.abs(y) + np.abs(x))


ACTIVATIONS: Mapping[str, Bound] = {
    "gelu": lambda x, y: (EXP + 6 * ROUNDING + np.minimum(2 * ARGUMENT * np.abs(x + 0.04 * x**3), 1)) * np.abs(y),
    # The series of Abramowitz and Stegun, its sums, the exponential and its argument; half of it, of x.
    "gelu_erf": lambda x, y: np.abs(x) * (0.75e-7 + 10 * ROUNDING + EXP / 2),
    "gelu_quick": lambda x, y: (EXP + 6 * ROUNDING + np.minimum(4 * ROUNDING * np.abs(x), 1)) * np.abs(y),
    "relu": lambda x, y: np.zeros_like(x),
    "relu2": lambda x, y: ROUNDING * np.abs(y),
    "sigmoid": lambda x, y: (EXP + 4 * ROUNDING) * np.abs(y),
    "silu": lambda x, y: (EXP + 6 * ROUNDING) * np.abs(y),
    # Of the exponential, of a series of 8 terms and what it leaves out (2 s^17 / 17, s <= 1/3), and of the sum.
    "softplus": lambda x, y: (EXP + 16 * ROUNDING) * np.abs(y),
    "tanh": lambda x, y: (2 * EXP + 8 * ROUNDING) * np.abs(y),
    "clamp": lambda x, y: np.zeros_like(x),
    "xielu": _xielu_bound,
}
"""Of how far a kernel may be off, by x and what it is to make of it."""
FLOOR = np.exp(-86.9)  # where the exponential stands still, of |x|


def xielu_case() -> Case:
    numbers = {"positive": 0.8, "negative": 0.7, "beta": 0.5, "epsilon": -1e-6}
    x = np.clip(hard_rows(37), -1e4, 1e4)
    return Case(Node("xielu", ("x",), "y", (), numbers), (Value("x", "T", 37), Value("y", "T", 37)), {}, {}, {"x": x})


def clamp_case() -> Case:
    numbers: dict[str, Attribute] = {"low": -1.5, "high": float(np.finfo(np.float32).max)}
    return Case(
        Node("clamp", ("x",), "y", (), numbers),
        (Value("x", "T", 37), Value("y", "T", 37)),
        {},
        {},
        {"x": hard_rows(37)},
    )


OWN = {"xielu": xielu_case, "clamp": clamp_case}
ACTIVATE = {name: OWN[name]() if name in OWN else activate_case(name) for name in ACTIVATIONS}
LOGITS_ACTIVATE = activate_case("tanh", rows="R")
Q8_ACTIVATE = activate_case("gelu", 96, "q8")
FLOAT_ACTIVATE = replace(Q8_ACTIVATE, values=(Q8_ACTIVATE.values[0], replace(Q8_ACTIVATE.values[1], dtype="float32")))


def pair_case(op: str, other: str) -> Case:
    """A sum or product with a value or a weight of all columns, or of one."""
    columns = 1 if other.endswith("1") else 37
    if other.startswith("value"):
        inputs = {"x": normal(TOKENS, 37), "z": normal(TOKENS, columns)}
        three = Value("x", "T", 37), Value("z", "T", columns), Value("y", "T", 37)
        return Case(Node(op, ("x", "z"), "y"), three, {}, {}, inputs)
    values = Value("x", "T", 37), Value("y", "T", 37)
    return Case(Node(op, ("x",), "y", ("w",)), values, {"w": normal(columns)}, {}, {"x": normal(TOKENS, 37)})


PAIRS = {
    f"{op}-{other}": pair_case(op, other) for op in ("add", "mul") for other in ("value", "value1", "weight", "weight1")
}


def sliced_case() -> Case:
    """A product with the columns from 7 on of a wider value."""
    values = Value("x", "T", 37), Value("z", "T", 61), Value("y", "T", 37)
    node = Node("mul", ("x", "z"), "y", (), {"other_offset": 7})
    return Case(node, values, {}, {}, {"x": normal(TOKENS, 37), "z": normal(TOKENS, 61)})


PAIRS["mul-slice"] = sliced_case()


def position_case(kind: str, columns: int = 64) -> Case:
    node = Node("position_embedding", ("x",), "y", ("w",))
    weights = {"w": random_rows(RANDOM, kind, 40, columns)}
    values = Value("x", "T", columns), Value("y", "T", columns)
    return Case(node, values, weights, {"w": kind}, {"x": normal(TOKENS, columns)})


POSITIONS = {kind: position_case(kind) for kind in ("F32", "F16", "Q8_0")} | {"odd": position_case("F16", 61)}


def embedding_case(kind: str, columns: int = 64) -> Case:
    node = Node("embedding", (), "y", ("w",), {"scale": 7.5})
    return Case(node, (Value("y", "T", columns),), {"w": random_rows(RANDOM, kind, 40, columns)}, {"w": kind})


EMBEDDINGS = {kind: embedding_case(kind) for kind in ("F32", "Q8_0")}
EMBEDDINGS |= {f"{kind}-{columns}": embedding_case(kind, columns) for kind, columns in (("F32", 7), ("BF16", 61))}


def logits_case(softcap: float) -> Case:
    attributes: dict[str, Attribute] = {"scale": 0.25, **({"softcap": softcap} if softcap else {})}
    values = Value("x", "R", 37), Value("y", "R", 37)
    return Case(Node("logits_map", ("x",), "y", (), attributes), values, {}, {}, {"x": hard_rows(37, 100)})


LOGITS = {softcap: logits_case(softcap) for softcap in (0.0, 30.0)}


def token_logits_case() -> Case:
    """The first and last columns, one that no token has, and tokens without one, more than a wave of them."""
    column = np.full(300, -1, np.float32)
    column[[0, 7, 40, 150, 299]] = [4, 0, 5, 2, 3]
    values = Value("x", "R", 6), Value("y", "R", 300)
    return Case(Node("token_logits", ("x",), "y", ("w",), {}), values, {"w": column}, {}, {"x": normal(TOKENS, 6)})


TOKEN_LOGITS = token_logits_case()


def linear_case(
    kind: str, matrices: int, bias: bool, scales: bool, scale: float, accumulate: bool, columns: int = 256
) -> Case:
    """Matrices of 41 rows or of 23 side by side, from column 3 of an output of 96 on."""
    height = 41 if matrices == 1 else 23
    weights: dict[str, Array] = {}
    for index in range(matrices):
        weights[f"w{index}"] = random_rows(RANDOM, kind, height, columns)
        if bias:
            weights[f"w{index}_bias"] = normal(height, size=8)
        if scales:
            weights[f"w{index}_scale"] = normal(1, mean=2, size=0.5)
    types = {name: kind for name in weights if name[-1].isdigit()}
    attributes: dict[str, Attribute] = {"out_offset": 3, **({"scale": scale} if scale != 1 else {})}
    values = (Value("x", "T", columns, "float32" if kind in FLOAT_TYPES else "q8"), Value("y", "T", 96))
    inputs = {"x": normal(TOKENS + 4, columns)} | ({"y": normal(TOKENS + 4, 96, size=8)} if accumulate else {})
    return Case(Node("linear", tuple(inputs), "y", tuple(weights), attributes), values, weights, types, inputs)


LINEARS = {
    "scale": linear_case("F16", 1, True, False, 0.22, True),
    "scales": linear_case("Q4_1", 3, False, True, 1, False),
    "scales-bias-scale": linear_case("Q8_0", 2, True, True, 0.5, True),
    "odd-F32": linear_case("F32", 1, False, False, 1, False, 7),
    "odd-F16": linear_case("F16", 2, True, False, 1, True, 131),
    "odd-BF16": linear_case("BF16", 1, False, False, 1, False, 61),
    "fours-F16": linear_case("F16", 1, False, False, 1, False, 92),
}


def gate_up_case(kind: str, activation: str, bias: bool, scales: bool, columns: int = 256) -> Case:
    weights: dict[str, Array] = {}
    for name in ("gate", "up"):
        weights[name] = random_rows(RANDOM, kind, 64, columns)
        if bias:
            weights[f"{name}_bias"] = normal(64)
        if scales:
            weights[f"{name}_scale"] = normal(1, mean=0.1, size=0.02)
    values = (Value("x", "T", columns, "float32" if kind in FLOAT_TYPES else "q8"), Value("y", "T", 64))
    node = Node("gate_up", ("x",), "y", tuple(weights), {"activation": activation})
    return Case(node, values, weights, {"gate": kind, "up": kind}, {"x": normal(TOKENS + 4, columns, size=0.2)})


GATES = {
    "gelu-bias": gate_up_case("F16", "gelu", True, False),
    "gelu_erf-scales": gate_up_case("Q4_1", "gelu_erf", False, True),
    "relu-both": gate_up_case("Q8_0", "relu", True, True),
    "silu-odd": gate_up_case("F32", "silu", False, False, 70),
}


@pytest.fixture(scope="module")
def places(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Places:
    groups = (NORM_CASES, Q8_NORMS, ACTIVATE, PAIRS, POSITIONS, EMBEDDINGS, LOGITS, LINEARS, GATES)
    cases = [case for group in groups for case in group.values()]
    return Places(
        [*cases, TOKEN_LOGITS, LOGITS_ACTIVATE, Q8_ACTIVATE, FLOAT_ACTIVATE],
        build_cache,
        tmp_path_factory.mktemp("nodes"),
    )


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("place", PLACES)
def test_norm(places: Places, place: str, name: str) -> None:
    case, rows = NORM_CASES[name], NORMS[name][4]
    asked = [3, 0, 4] if rows == "TR" else list(range(TOKENS))
    step = Step(99 if rows == "RR" else TOKENS, logits_rows=asked if "R" in rows else ())
    found = places.run(place, case, step)
    assert (np.abs(found - case.meaning()[asked]) <= norm_bound(case)[asked]).all()
    if name in Q8_NORMS:
        assert places.run(place, Q8_NORMS[name], step).tobytes() == quantized(place, found).tobytes()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("place", PLACES)
def test_activations(places: Places, place: str, name: str) -> None:
    case = ACTIVATE[name]
    with np.errstate(over="ignore"):
        expected = case.meaning()
    found = places.run(place, case, Step(TOKENS))
    x = case.inputs["x"].astype(np.float64)
    finite = np.abs(expected) < 3e38
    bound = ACTIVATIONS[name](x, expected) + FLOOR * (1 + np.abs(x))
    assert (np.abs(found - expected)[finite] <= bound[finite]).all()
    assert np.array_equal(found[~finite], np.full((~finite).sum(), np.inf))
    not_numbers = replace(case, inputs={"x": np.full_like(case.inputs["x"], np.nan)})
    assert np.isnan(places.run(place, not_numbers, Step(TOKENS))).all()


@pytest.mark.parametrize("place", PLACES)
def test_activations_as_blocks_and_at_rows_of_logits(places: Places, place: str) -> None:
    found = places.run(place, FLOAT_ACTIVATE, Step(TOKENS))
    assert places.run(place, Q8_ACTIVATE, Step(TOKENS)).tobytes() == quantized(place, found).tobytes()
    found = places.run(place, LOGITS_ACTIVATE, Step(99, logits_rows=range(3)))
    assert found.shape == (3, 37)
    assert (np.abs(found - LOGITS_ACTIVATE.meaning()[:3]) <= 2 * EXP + 8 * ROUNDING).all()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("place", PLACES)
def test_sums_and_products(places: Places, place: str, name: str) -> None:
    assert np.array_equal(places.run(place, PAIRS[name], Step(TOKENS)), PAIRS[name].meaning().astype(np.float32))


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("place", PLACES)
def test_position_embedding(places: Places, place: str, kind: str) -> None:
    case, positions = POSITIONS[kind], [39, 0, 31, 32, 5]
    found = places.run(place, case, Step(TOKENS, positions=positions))
    expected = (case.inputs["x"] + case.numbers("w")[positions]).astype(np.float32)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", EMBEDDINGS)
@pytest.mark.parametrize("place", PLACES)
def test_embedding_times_a_number(places: Places, place: str, kind: str) -> None:
    case, ids = EMBEDDINGS[kind], [39, 0, 31, 32, 5]
    found = places.run(place, case, Step(TOKENS, token_ids=ids))
    assert np.array_equal(found, case.meaning(np.array(ids)[:, None]).astype(np.float32))


@pytest.mark.parametrize("softcap", LOGITS)
@pytest.mark.parametrize("place", PLACES)
def test_logits_map(places: Places, place: str, softcap: float) -> None:
    case = LOGITS[softcap]
    found = places.run(place, case, Step(99, logits_rows=range(TOKENS)))
    expected = case.meaning()
    bound = (2 * EXP + 12 * ROUNDING) * np.abs(expected) if softcap else np.zeros_like(expected)
    assert (np.abs(found - expected) <= bound).all()


@pytest.mark.parametrize("place", PLACES)
def test_token_logits(places: Places, place: str) -> None:
    found = places.run(place, TOKEN_LOGITS, Step(99, logits_rows=range(TOKENS)))
    assert np.array_equal(found, TOKEN_LOGITS.meaning().astype(np.float32))


def products(place: str, case: Case) -> tuple[list[Float64], list[Float64]]:
    """x as the kernels have it times each matrix and its scale, and how far those may be off."""
    found, bounds = [], []
    kind = next(iter(case.types.values()))
    x = case.read(place, "x")
    for name in case.types:
        scale = case.numbers(f"{name}_scale")[0] if f"{name}_scale" in case.weights else 1
        bias = case.numbers(f"{name}_bias") if f"{name}_bias" in case.weights else 0
        product = x @ case.numbers(name).T * scale
        bound = matmul_tolerance(case.weights[name], kind, x) * abs(scale) + 2 * ROUNDING * np.abs(product)
        found.append(product + bias)
        bounds.append(bound + 2 * ROUNDING * np.abs(found[-1]))
    return found, bounds


def check_batches(places: Places, place: str, case: Case, whole: Array) -> None:
    """A row has the same bits in any batch."""
    for tokens in (1, 2, TOKENS):
        assert places.run(place, case, Step(tokens), tokens)[:tokens].tobytes() == whole[:tokens].tobytes(), tokens


@pytest.mark.parametrize("name", LINEARS)
@pytest.mark.parametrize("place", PLACES)
def test_linear_with_scales(places: Places, place: str, name: str) -> None:
    case = LINEARS[name]
    found, bounds = (np.concatenate(parts, axis=1) for parts in products(place, case))
    mine, scale = slice(3, 3 + found.shape[1]), case.node.real("scale", 1)
    expected = found * scale
    bound = bounds * abs(scale) + 2 * ROUNDING * np.abs(expected)
    if "y" in case.inputs:
        expected = expected + case.inputs["y"][:, mine]
        bound = bound + 2 * ROUNDING * (np.abs(expected) + np.abs(case.inputs["y"][:, mine]))
    whole = places.run(place, case, Step(len(expected)))
    assert (np.abs(whole[:, mine] - expected) <= bound).all()
    check_batches(places, place, case, whole)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("place", PLACES)
def test_gate_up_with_biases_and_scales(places: Places, place: str, name: str) -> None:
    case = GATES[name]
    (gate, up), (gate_bound, up_bound) = products(place, case)
    activation = case.node.word("activation")
    gated = ACTIVATE[activation].meaning(gate)
    # A gelu is nowhere steeper than 1.13.
    off = ACTIVATIONS[activation](gate, gated) + 1.13 * gate_bound
    bound = off * (np.abs(up) + up_bound) + np.abs(gated) * up_bound + 2 * ROUNDING * np.abs(gated * up)
    whole = places.run(place, case, Step(len(gate)))
    assert (np.abs(whole - gated * up) <= bound).all()
    check_batches(places, place, case, whole)
