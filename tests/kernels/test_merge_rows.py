"""Rows made one, on the host and on emulated GPUs: to the bit what their operation means, but for a mean's rounding."""

from __future__ import annotations

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Node, Value
from rocmforge.tests.kernels.kernel_harness import ROUNDING, Step
from rocmforge.tests.kernels.node_harness import PLACES, Case, Places

TOKENS = 11
ROWS = (8, 0, 4)
"""The first ends beyond the last token."""
RANDOM = np.random.default_rng(16)


def case(kind: str, columns: int, merged: int) -> Case:
    values = Value("x", "T", columns), Value("y", "R", columns * (1 if kind == "mean" else merged))
    inputs = {"x": RANDOM.normal(0, 1, (TOKENS, columns)).astype(np.float32)}
    return Case(Node("merge_rows", ("x",), "y", (), {"kind": kind, "merged": merged}), values, {}, {}, inputs)


CASES = {"side": case("side", 61, 4), "mean": case("mean", 300, 4), "turned": case("turned", 96, 4)}


@pytest.fixture(scope="module")
def places(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(CASES.values(), build_cache, tmp_path_factory.mktemp("nodes"))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", PLACES)
def test_rows_made_one(places: Places, place: str, name: str) -> None:
    one = CASES[name]
    found = places.run(place, one, Step(TOKENS, logits_rows=ROWS))
    expected = one.meaning()[list(ROWS)]
    x = np.abs(one.inputs["x"])
    bound = 4 * ROUNDING * x.max() if name == "mean" else 0  # three additions and a division
    assert np.abs(found - expected).max() <= bound


def test_what_they_mean() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    rows = {
        kind: Case(Node("merge_rows", ("x",), "y", (), {"kind": kind, "merged": 2}), ()).meaning(x)
        for kind in ("side", "mean", "turned")
    }
    assert rows["side"].tolist() == [[1, 2, 3, 4], [3, 4, 5, 7], [5, 7, 0, 0]]
    assert rows["mean"].tolist() == [[2, 3], [4, 5.5], [2.5, 3.5]]
    assert rows["turned"].tolist() == [[1, 3, 2, 4], [3, 5, 4, 7], [5, 0, 7, 0]]
