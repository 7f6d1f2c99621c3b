"""Rows that come from outside, on the host and on emulated GPUs: to the bit what their operation means."""

from __future__ import annotations

import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Attribute, Node, Value
from rocmforge.tests.kernels.kernel_harness import Step
from rocmforge.tests.kernels.node_harness import PLACES, Case, Places

TOKENS, WIDTH = 5, 300
RANDOM = np.random.default_rng(16)
ROWS = RANDOM.normal(0, 1, (3, WIDTH)).astype(np.float32)
ROW_OF = (-1, 2, 0, -1, 2)
GIVEN = np.where(np.array(ROW_OF)[:, None] < 0, np.float32(np.nan), ROWS[list(ROW_OF)])


def case(source: bool, **attributes: Attribute) -> Case:
    count = int(attributes["count"])
    inputs = {"x": RANDOM.normal(0, 1, (TOKENS, count)).astype(np.float32)} if source else {}
    values = [Value(name, "T", count) for name in (*inputs, "y")]
    return Case(Node("input_rows", tuple(inputs), "y", (), attributes), tuple(values), {}, {}, inputs, (GIVEN,))


CASES = {
    "alone": case(False, column=0, count=WIDTH),
    "instead": case(True, column=WIDTH - 61, count=61),
    "added": case(True, column=WIDTH - 290, count=290, add=True),
}


@pytest.fixture(scope="module")
def places(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(CASES.values(), build_cache, tmp_path_factory.mktemp("nodes"))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", PLACES)
def test_rows_from_outside(places: Places, place: str, name: str) -> None:
    one = CASES[name]
    found = places.run(place, one, Step(TOKENS, input_rows=ROWS, row_of=ROW_OF))
    expected = one.meaning().astype(np.float32)
    assert np.array_equal(found, expected)
    kept = one.inputs.get("x", np.zeros_like(expected))
    assert (found[1] != kept[1]).all()
    assert np.array_equal(found[[0, 3]], kept[[0, 3]])
    assert np.array_equal(places.run(place, one, Step(TOKENS)), kept)  # a step that is given none
