"""Adapters and images of a program: what is none is refused before a model is asked."""

from __future__ import annotations

from typing import Any

import pytest

from rocmforge.artifacts.errors import RequestError
from rocmforge.library.adapters import scales_of
from rocmforge.library.images import given_images


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        (5, "expected a name, or scales by name, found 5"),
        ({"a": "x"}, "expected a name, or scales by name, found {'a': 'x'}"),
        ({"a": 10**400}, "expected a scale from -1e+06 to 1e+06, found an integer of 1329 bits"),
        ({"a": -(10**5000)}, "expected a scale from -1e+06 to 1e+06, found an integer of 16610 bits"),
        ({"a": 1.0, "b": float("nan")}, "expected a scale from -1e+06 to 1e+06, found nan"),
        ({"a": 10**7}, "expected a scale from -1e+06 to 1e+06, found 1e+07"),
        ([{"a": 1}, "b"], "expected 1, one for each input, found 2"),
    ],
)
def test_adapters_that_are_none(adapter: Any, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        scales_of(adapter, 1)
    assert str(caught.value) == f"adapter: {problem}"
    assert scales_of({"a": 10**6, "b": -0.5}, 1) == [(("a", 1e6), ("b", -0.5))]


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        ("a.png", "images: expected a list of paths or bytes, found 'a.png'"),
        ([5], "images[0]: expected a path or bytes, found 5"),
        ([b"x", "a\0.png"], r"images[1]: expected a path that a file can have, found 'a\x00.png'"),
        (["\ud800.png"], r"images[0]: expected a path that a file can have, found '\ud800.png'"),
    ],
)
def test_images_that_are_none(images: Any, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        given_images(images, "images")
    assert str(caught.value) == problem
