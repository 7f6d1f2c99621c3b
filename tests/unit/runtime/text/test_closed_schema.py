"""Objects of a schema are closed where that contradicts nothing."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from rocmforge.runtime.text.closed_schema import closed

CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NO_MORE = {"additionalProperties": False}


@pytest.mark.parametrize(
    "schema, expected",
    [
        pytest.param(CITY, CITY | NO_MORE, id="object"),
        pytest.param({"type": "object"}, {"type": "object"}, id="any-object"),
        pytest.param({"properties": {}}, {"properties": {}} | NO_MORE, id="no-properties"),
        pytest.param({"type": "array", "items": CITY}, {"type": "array", "items": CITY | NO_MORE}, id="items"),
        pytest.param(
            {"$defs": {"c": CITY}, "$ref": "#/$defs/c"},
            {"$defs": {"c": CITY | NO_MORE}, "$ref": "#/$defs/c"},
            id="definition",
        ),
        pytest.param({"anyOf": [CITY, {"type": "null"}]}, {"anyOf": [CITY | NO_MORE, {"type": "null"}]}, id="any-of"),
        pytest.param(
            {"properties": {"properties": CITY}},
            {"properties": {"properties": CITY | NO_MORE}} | NO_MORE,
            id="a-property-of-that-name",
        ),
        pytest.param(True, True, id="anything"),
    ],
)
def test_what_is_closed(schema: object, expected: object) -> None:
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(CITY | {"additionalProperties": True}, id="open-by-its-word"),
        pytest.param(CITY | {"additionalProperties": {"type": "integer"}}, id="others-by-type"),
        pytest.param(CITY | {"required": ["city", "country"]}, id="requires-what-it-does-not-name"),
        pytest.param({"allOf": [CITY, {"properties": {"days": {}}, "required": ["days"]}]}, id="all-of"),
        pytest.param(CITY | {"anyOf": [{"required": ["city"]}, {"properties": {"days": {}}}]}, id="any-of-beside"),
        pytest.param(CITY | {"$ref": "#/$defs/more", "$defs": {"more": {"properties": {"days": {}}}}}, id="ref-beside"),
        pytest.param(CITY | {"patternProperties": {"^x": {}}}, id="patterns"),
        pytest.param({"items": CITY | {"not": {"properties": {"city": {"const": "x"}}}}}, id="not-below"),
        pytest.param({"const": {"properties": {}}}, id="a-value"),
        pytest.param({"enum": [{"properties": {}}], "default": {"properties": {}}}, id="values"),
    ],
)
def test_what_stays_as_it_is(schema: object) -> None:
    assert closed(schema) == schema


MAPS = ["properties", "$defs", "definitions", "patternProperties", "dependentSchemas"]
PARTS = [
    *("items", "prefixItems", "additionalItems", "additionalProperties", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
]
COMBINING = ["allOf", "not", "if", "dependentSchemas", "unevaluatedProperties"]


@pytest.mark.parametrize("name", [*MAPS, *PARTS])
def test_every_part_that_is_a_schema_is_closed(name: str) -> None:
    """Unless it speaks of the same object; then nothing is, wherever it stands."""
    forms: list[Any] = [{"a": CITY}] if name in MAPS else [CITY, [CITY, True]]
    for form in forms:
        shut: Any = CITY | NO_MORE if form is CITY else [CITY | NO_MORE, True]
        schema = {name: form}
        expected: Any = {name: {"a": CITY | NO_MORE} if name in MAPS else shut}
        if name == "properties":
            expected |= NO_MORE
        assert closed(schema) == (schema if name in COMBINING else expected)
        assert closed({"items": schema}) == {"items": schema if name in COMBINING else expected}
        assert schema == {name: form}  # the client's own is left alone
    odd = {name: 5}
    assert closed(odd) == odd


@pytest.mark.parametrize("name", ["anyOf", "oneOf", "patternProperties", "$ref", *COMBINING])
def test_what_combines_beside_properties_closes_nothing(name: str) -> None:
    schema = CITY | {name: {}}
    assert closed(schema) == schema
    assert closed({"$defs": {"x": [], "y": schema}, "items": CITY}) == {"$defs": {"x": [], "y": schema}, "items": CITY}


def test_properties_or_names_that_are_none() -> None:
    cases: list[dict[str, Any]] = [{"properties": []}, CITY | {"required": "city"}, {"required": []}]
    for odd in cases:
        assert closed(odd) == odd
    assert closed({"properties": {"a": True}, "required": []}) == {
        "properties": {"a": True},
        "required": [],
        "additionalProperties": False,
    }


@pytest.mark.parametrize("value", [{"city": "Rome"}, {"city": "Rome", "days": 3}, {"days": 3}, {}])
@pytest.mark.parametrize("schema", [CITY, {"anyOf": [CITY, {"properties": {"days": {}}}]}])
def test_what_matches_the_result_matches_the_schema(schema: dict[str, Any], value: object) -> None:
    if jsonschema.Draft202012Validator(closed(schema)).is_valid(value):
        assert jsonschema.Draft202012Validator(schema).is_valid(value)
