"""Arguments of calls that are written as plain text: whether each is a text or JSON, as the tool's schema says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from .json_scan import JSON

_NAMES: Final = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
_MOST_PARTS: Final = 100  # of a schema's alternatives that are looked at


def types_of(schema: object) -> frozenset[str]:
    """The JSON types that a schema allows, "number" and "integer" apart; empty where it does not say."""
    types: set[str] = set()
    left = [schema]
    for _ in range(_MOST_PARTS):
        if not left:
            break
        part = left.pop()
        if not isinstance(part, Mapping):
            continue
        named = part.get("type")
        types.update([named] if isinstance(named, str) else [name for name in _listed(named) if isinstance(name, str)])
        for key in ("anyOf", "oneOf", "allOf"):
            left += _listed(part.get(key))
        types.update(map(type_of, _listed(part.get("enum"))))
        if "const" in part:
            types.add(type_of(part["const"]))
    return frozenset(types)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def type_of(value: object) -> str:
    """The JSON type of a value."""
    return _NAMES.get(type(value), "null")


def member(schema: object, key: str) -> object:
    """The schema of an object's member; None where nothing is said of it."""
    if not isinstance(schema, Mapping):
        return None
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, Mapping) else None


def is_text(types: frozenset[str]) -> bool:
    """Whether a value of these types is a text, whatever it says."""
    return types == {"string"}


def as_json(text: str, types: frozenset[str]) -> str:
    """The JSON of a value that was written as text: JSON of one of these types as it is, all else as a string."""
    written = text.strip()
    try:
        value = JSON.decode(written)
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)
    found = type_of(value)
    if not types or found in types or (found == "integer" and "number" in types):
        return written if found != "string" or "string" not in types else json.dumps(text, ensure_ascii=False)
    if found == "number" and "integer" in types and value == int(value):
        return written
    return json.dumps(text, ensure_ascii=False) if "string" in types else written
