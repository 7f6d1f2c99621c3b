"""JSON schemas whose objects hold what they name and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# Of a schema: its parts that are schemas by name, and those that are one schema or a list of them.
# Source: JSON Schema 2020-12, "A Vocabulary for Applying Subschemas", and the older spellings.
_MAPS: Final = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_PARTS: Final = (
    *("items", "prefixItems", "additionalItems", "additionalProperties", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"),
)
# By these, several schemas speak of one object: none of them may be closed. The others do so only beside `properties`.
_COMBINING: Final = frozenset(("allOf", "not", "if", "dependentSchemas", "unevaluatedProperties"))
_COMBINING_HERE: Final = frozenset(("anyOf", "oneOf", "patternProperties", "$ref"))


def closed(schema: object) -> object:
    """A schema whose objects hold no other properties than it names, where it says nothing of others.

    JSON Schema lets them, and a model that may write more of them goes on and on. What matches the result matches the
    schema. One by which several parts speak of the same object stays as it is.
    """
    return schema if _combines(schema) else _close(schema)


def _parts(schema: dict[str, object]) -> Iterator[object]:
    for name in _MAPS:
        named = schema.get(name)
        yield from named.values() if isinstance(named, dict) else ()
    for name in _PARTS:
        part = schema.get(name)
        yield from part if isinstance(part, list) else (part,)


def _combines(schema: object) -> bool:
    if not isinstance(schema, dict):
        return False
    keys = _COMBINING | _COMBINING_HERE if "properties" in schema else _COMBINING
    return not keys.isdisjoint(schema) or any(_combines(part) for part in _parts(schema))


def _close(schema: object) -> object:
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for name in _MAPS:
        named = schema.get(name)
        if isinstance(named, dict):
            made[name] = {key: _close(part) for key, part in named.items()}
    for name in _PARTS:
        if name in schema:
            part = schema[name]
            made[name] = [_close(item) for item in part] if isinstance(part, list) else _close(part)
    if _names_all(schema):
        made.setdefault("additionalProperties", False)
    return made


def _names_all(schema: dict[str, object]) -> bool:
    """Whether a schema names properties, and among them all that must be there."""
    properties, required = schema.get("properties"), schema.get("required", [])
    return isinstance(properties, dict) and isinstance(required, list) and all(key in properties for key in required)
