"""Operations of latent attention and of Gemma 3n's streams, on the host and on emulated GPUs, against their meaning.

Bounds count roundings of float32, `ROUNDING` each.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Attribute, Graph, Node, Value
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.tests.kernels.kernel_harness import ROUNDING, Float32, Float64, Step
from rocmforge.tests.kernels.node_harness import PLACES, Case, Places

TOKENS = 5
RANDOM = np.random.default_rng(16)


def case(op: str, columns: tuple[int, ...], output: int, size: float = 1.0, **attributes: Attribute) -> Case:
    """A node of inputs with so many columns."""
    names = tuple("abcd"[: len(columns)])
    inputs = {
        name: RANDOM.normal(0.3, size, (TOKENS, count)).astype(np.float32)
        for name, count in zip(names, columns, strict=True)
    }
    values = [Value(name, "T", count) for name, count in zip(names, columns, strict=True)]
    return Case(Node(op, names, "y", (), attributes), (*values, Value("y", "T", output)), {}, {}, inputs)


HEADS = {"num_heads": 3, "rank": 16, "tail_dim": 6}
COPIES = {
    "columns": case("columns", (97,), 61, first=7, count=61),
    "columns-all": case("columns", (61,), 61, first=0, count=61),
    "latent_heads": case("latent_heads", (18, 16, 6, 48), 88, **HEADS),
    "latent_heads-all-shared": case("latent_heads", (18, 16, 6), 88, **HEADS),
}
STREAMS = {
    "predict": case("altup", (4 * 61, 16), 4 * 61, kind="predict", streams=4),
    "correct": case("altup", (4 * 61, 61, 4), 4 * 61, kind="correct", streams=4),
    "spread": case("altup", (3 * 300, 300), 3 * 300, kind="spread", streams=3),
}
MAGNITUDES = {
    "joined": case("magnitude", (3 * 61, 61), 4 * 61, least=1e-5, joined=True),
    "wide": case("magnitude", (300, 300), 300, least=1e-5, joined=False),
    "least": case("magnitude", (64, 32), 64, size=1e-4, least=1e3, joined=False),
}
CUTS = {
    "odd": case("gaussian_cut", (61,), 61, deviations=0.5),
    "wide": case("gaussian_cut", (700,), 700, size=20.0, deviations=1.6448533535003662),
    "below": case("gaussian_cut", (37,), 37, deviations=-1.0),
}


@pytest.fixture(scope="module")
def places(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Places:
    groups = (COPIES, STREAMS, MAGNITUDES, CUTS)
    cases = [one for group in groups for one in group.values()]
    return Places(cases, build_cache, tmp_path_factory.mktemp("nodes"))


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("place", PLACES)
def test_copies(places: Places, place: str, name: str) -> None:
    assert np.array_equal(places.run(place, COPIES[name], Step(TOKENS)), COPIES[name].meaning().astype(np.float32))


def sizes(one: Case) -> Float64:
    """Of all that is summed, where each part counts as its magnitude."""
    inputs = {name: np.abs(x) for name, x in one.inputs.items()}
    if one.node.attributes["kind"] == "correct":  # a difference, of which each part may be as large as both
        first = inputs["a"][:, : inputs["b"].shape[1]]
        inputs["b"] = inputs["b"] + 2 * first
    found: Float64 = replace(one, inputs=inputs).meaning() + 2 * inputs["a"]
    return found


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("place", PLACES)
def test_streams(places: Places, place: str, name: str) -> None:
    one = STREAMS[name]
    found = places.run(place, one, Step(TOKENS))
    assert (np.abs(found - one.meaning()) <= 8 * ROUNDING * sizes(one)).all()


def spoiled(one: Case, value: float) -> Float32:
    """The first input with a value in the second token's row."""
    x = one.inputs["a"].copy()
    x[1, 3] = value
    return x


@pytest.mark.parametrize("name", MAGNITUDES)
@pytest.mark.parametrize("place", PLACES)
def test_magnitudes(places: Places, place: str, name: str) -> None:
    one = MAGNITUDES[name]
    columns = one.values[1].columns
    found, expected = places.run(place, one, Step(TOKENS)), one.meaning()
    # Two sums of squares (half of what they are off by, each), their quotient's root, and the product.
    assert (np.abs(found - expected) <= (2 * (columns / 16 + 16) + 6) * ROUNDING * np.abs(expected)).all()
    broken = places.run(place, replace(one, inputs={**one.inputs, "a": spoiled(one, np.nan)}), Step(TOKENS))
    group = np.isnan(broken).sum(1)
    assert group.tolist() == [0, columns, 0, 0, 0]


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("place", PLACES)
def test_cuts(places: Places, place: str, name: str) -> None:
    one = CUTS[name]
    x, deviations = one.inputs["a"].astype(np.float64), one.node.real("deviations")
    found, expected = places.run(place, one, Step(TOKENS)), one.meaning()
    assert 0 < (expected == 0).mean() < 1
    sums = (2 * (x.shape[1] / 16 + 16) + 6) * ROUNDING
    spread = (
        np.abs(x).mean(1, keepdims=True) + 3 * abs(deviations) * np.abs(x - x.mean(1, keepdims=True)).max(1)[:, None]
    )
    assert (np.abs(found - expected) <= sums * spread + 4 * ROUNDING * np.abs(x)).all()
    broken = places.run(place, replace(one, inputs={"a": spoiled(one, np.nan)}), Step(TOKENS))
    assert np.isnan(broken).all(1).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    "one, columns, problem",
    [
        (COPIES["columns"], {"a": 67}, "expected an input of 68 columns, found 67"),
        (COPIES["latent_heads"], {"c": 7}, "expected columns [18, 16, 6, 48, 88], found [18, 16, 7, 48, 88]"),
        (STREAMS["predict"], {"b": 4}, "expected inputs of (244, 16) columns, in 4 streams, found (244, 4)"),
        (STREAMS["correct"], {"c": 3}, "expected inputs of (244, 61, 4) columns, in 4 streams, found (244, 61, 3)"),
        (MAGNITUDES["joined"], {"b": 60}, "expected groups of 60 columns and 243 of the output, found 183 and 244"),
        (CUTS["odd"], {"a": 1}, "expected more than a column, found 1"),
    ],
)
def test_problems(one: Case, columns: dict[str, int], problem: str) -> None:
    values = {value.name: replace(value, columns=columns.get(value.name, value.columns)) for value in one.values}
    assert OPERATIONS[one.node.op].problem(Graph((one.node,), values, {}), one.node) == problem
    unknown = replace(one.node, attributes={**one.node.attributes, "kind": "sum"})
    if one.node.op == "altup":
        found = OPERATIONS["altup"].problem(Graph((unknown,), values, {}), unknown)
        assert found == "expected a kind of predict, correct, spread, found sum"
