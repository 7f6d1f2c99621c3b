"""The facts of a vision part: what is read is what was written, and nothing else is."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rocmforge.artifacts.checker import Checker
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.vision import Vision, read_vision
from rocmforge.tests.support.vision import FACTS


def test_what_is_read_is_what_was_written() -> None:
    text = json.dumps(FACTS.to_json())
    assert read_vision(Checker("manifest.json"), json.loads(text)) == FACTS


def test_a_picture_has_a_row_for_each_block_of_patches_and_values_for_each_channel() -> None:
    assert FACTS.rows(6, 4) == 6
    assert FACTS.patch_values == 588
    assert dataclasses.replace(FACTS, deepstack=3).row_width == 4 * 2048


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("kind", "", "vision.kind: expected 1 to 512 characters, found 0"),
        ("merge", 0, "vision.merge: expected 1 to 64, found 0"),
        ("patch_size", True, "vision.patch_size: expected an integer, found bool"),
        ("mean", [0.5, 0.5], "vision.mean: expected 3 to 3 elements, found 2"),
        ("mean", [0.5, 0.5, "x"], "vision.mean: expected finite numbers of at least -1000000.0, found 'x'"),
        ("std", [0.5, 0.0, 0.5], "vision.std: expected finite numbers of at least 1e-06, found 0.0"),
        ("std", [0.5, float("nan"), 0.5], "vision.std: expected finite numbers of at least 1e-06, found nan"),
        ("resize", "crop", "vision.resize: expected one of square, pixels, idefics3, internvl, found 'crop'"),
        ("both_ways", 1, "vision.both_ways: expected true or false, found int"),
        ("colour", 1, "vision.colour: expected no such field, found one"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(field: str, value: object, problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        read_vision(Checker("manifest.json"), {**FACTS.to_json(), field: value})
    assert problem in str(caught.value)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Vision)])
def test_each_field_has_to_be_there(field: str) -> None:
    table = FACTS.to_json()
    del table[field]
    with pytest.raises(BundleError, match=f"vision.{field}: expected a value, found none"):
        read_vision(Checker("manifest.json"), table)
