"""Values within tags of their own, MiniMax M3's: members of an object, items of an array."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from .argument_types import as_json, member, types_of
from .chat_styles import Tagged

_MAX_DEPTH: Final = 50
ITEM: Final = "item"


def nested_json(text: str, schema: object, style: Tagged, depth: int = 0) -> str:
    """The JSON of a value that may hold tags; where the schema says that it is a text, they are its own."""
    types = types_of(schema)
    children = None if "string" in types or depth > _MAX_DEPTH else _children(text, style)
    if not children:
        empty = {"array": "[]", "object": "{}"}
        if not text.strip() and len(types) == 1 and (kind := next(iter(types))) in empty:
            return empty[kind]
        return as_json(text, types)
    if all(key == ITEM for key, _ in children) and (not types or "array" in types):
        items = _part(schema, "items")
        return "[" + ", ".join(nested_json(value, items, style, depth + 1) for _, value in children) + "]"
    members = (
        f"{json.dumps(key, ensure_ascii=False)}: {nested_json(value, _member(schema, key), style, depth + 1)}"
        for key, value in children
    )
    return "{" + ", ".join(members) + "}"


def _children(text: str, style: Tagged) -> list[tuple[str, str]] | None:
    """The tags that a text consists of, but for white space, and what is within each; None: it is something else."""
    found: list[tuple[str, str]] = []
    text = text.strip()
    while text:
        key = style.key.match(text)
        if key is None:
            return None
        end = _closing(text, key, style)
        if end is None:
            return None
        found.append((key["key"], text[key.end() : end[0]]))
        text = text[end[1] :].lstrip()
    return found


def _closing(text: str, key: re.Match[str], style: Tagged) -> tuple[int, int] | None:
    """Where the tag that opens there is closed, its likes within it left out: beginning and end."""
    close, opening, open_tags, at = style.close.format(key=key["key"]), key[0], 1, key.end()
    while True:
        end, inner = text.find(close, at), text.find(opening, at)
        if end < 0:
            return None
        if 0 <= inner < end:
            open_tags, at = open_tags + 1, inner + len(opening)
            continue
        open_tags, at = open_tags - 1, end + len(close)
        if not open_tags:
            return end, at


def _part(schema: object, name: str) -> object:
    """A part of a schema, or of the first of its alternatives that has it."""
    if not isinstance(schema, Mapping):
        return None
    if name in schema:
        return schema[name]
    for key in ("anyOf", "oneOf"):
        for branch in schema.get(key) or ():
            if isinstance(branch, Mapping) and name in branch:
                return branch[name]
    return None


def _member(schema: object, key: str) -> object:
    return member({"properties": _part(schema, "properties")}, key)
