"""How deep JSON may be nested."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rocmforge.runtime.text.json_depth import MAX_DEPTH, too_deep


def nested(depth: int, kind: type) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value, "b": 2} if kind is dict else kind([value, 2])
    return value


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_a_value_is_nested_so_deep_and_no_deeper(kind: type) -> None:
    for depth in (MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, MAX_DEPTH + 40):
        value = nested(depth, kind)
        text = json.dumps(value)
        assert too_deep(value, text.count("{") + text.count("[")) == (depth > MAX_DEPTH), depth


def test_many_beside_one_another_are_not_deep() -> None:
    assert not too_deep([[]] * 1000, 1001)
    assert not too_deep("[" * 1000, 1000)
    assert not too_deep(None, 1000)
