"""A call that must be made, in the form of the model's family: the grammar that its output must match."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ...artifacts.errors import RequestError
from .answer_format import AnswerFormat
from .argument_types import types_of
from .chat_styles import Literals, NamedCalls, Tagged
from .closed_schema import closed
from .constraints import JSON_OPTIONS, ConstraintSpec
from .nested_tags import ITEM
from .tool_prompt import Tool, arguments_schema, call_schema

NAME: Final = "{name}"
ARGUMENTS: Final = "{arguments}"
_ANY_TEXT: Final = "/(?s:.*)/"
_DEFINITIONS: Final = ("$defs", "definitions")
_SCALARS: Final = frozenset(("integer", "number", "boolean", "null"))
_KINDS: Final = {"integer": "number"}  # what Kimi K3 calls it


def required_call(answers: AnswerFormat, tools: Sequence[Tool]) -> ConstraintSpec:
    """What an answer must match that calls one of these tools; see `AnswerFormat.forms_calls`.

    Raises:
        RequestError: a schema is nested too deep.
    """
    if not answers.forms_calls:
        return ConstraintSpec("json_schema", call_schema(tools), "tools")
    try:
        return ConstraintSpec("calls", _Grammar(answers).text(tools), "tools")
    except RecursionError:
        raise RequestError("tools", "nested too deep") from None


class _Grammar:
    """Writes one in the library's form of Lark's language."""

    def __init__(self, answers: AnswerFormat) -> None:
        self._written = answers.format.written
        channels = answers.format.channels
        calls = answers.format.calls if channels is None else channels.calls
        self._style = calls.arguments if isinstance(calls, NamedCalls) else None
        self._tokens = dict(zip(answers.hidden, answers.kept_tokens, strict=True))
        marks = sorted(self._tokens, key=len, reverse=True)
        self._marks = re.compile("(" + "|".join(map(re.escape, marks)) + ")") if marks else None
        self._rules: list[str] = []
        self._values: dict[str, str] = {}  # see `_any_value`

    def text(self, tools: Sequence[Tool]) -> str:
        """The grammar of a call of one of them."""
        calls = " | ".join([self._call(tool) for tool in tools])
        return "\n".join([f"start: {calls}", *self._rules])

    def _call(self, tool: Tool) -> str:
        schema = arguments_schema(tool)
        before, _, after = self._written.replace(NAME, json.dumps(tool.name)[1:-1]).partition(ARGUMENTS)
        if self._style is None:
            arguments = [self._json(schema)]
        elif isinstance(self._style, Tagged):
            arguments = self._parameters(schema, _shared(schema), self._style)
        else:
            arguments = [self._listed(schema, self._style)]
        return self._rule(" ".join([*self._literals(before), *arguments, *self._literals(after)]))

    def _literals(self, text: str) -> Iterator[str]:
        """A text, with its control tokens as such."""
        for piece in self._marks.split(text) if self._marks is not None else [text]:
            if piece in self._tokens:
                yield f"<[{self._tokens[piece]}]>"
            elif piece:
                yield json.dumps(piece, ensure_ascii=False)

    def _json(self, schema: object) -> str:
        made = closed(schema)
        options = {**made, "x-guidance": JSON_OPTIONS} if isinstance(made, dict) else {"x-guidance": JSON_OPTIONS}
        return self._rule(f"%json {json.dumps(options)}")

    def _parameters(self, schema: Mapping[str, Any], shared: Mapping[str, object], tags: Tagged) -> list[str]:
        """One after the other, as the schema has them; those that need not be there may be left out."""
        return [
            self._rule(self._parameter(key, part, shared, tags)) + ("" if needed else "?")
            for key, part, needed in _members(schema)
        ]

    def _parameter(self, key: str, schema: object, shared: Mapping[str, object], tags: Tagged) -> str:
        types = types_of(schema)
        is_text = "string" in types
        kind = "string" if is_text else next(iter(sorted(types)), "object")
        opening = tags.written_key.replace("{key}", key).replace("{text}", "true" if is_text else "false")
        opening = opening.replace("{kind}", _KINDS.get(kind, kind))
        closing = list(self._literals(tags.written_close.replace("{key}", key)))
        if not is_text:
            value = [*self._structured(schema, shared, tags), *closing]
        elif isinstance(schema, Mapping) and (choices := _texts(schema)):
            value = ["(" + " | ".join(choices) + ")", *closing]
        else:
            value = self._free_text(tags, key)
        return " ".join([*self._literals(opening), *value])

    def _structured(self, schema: object, shared: Mapping[str, object], tags: Tagged) -> list[str]:
        """A value that is no text: in tags of its own where the family has those and the schema says which; or JSON."""
        types = types_of(schema)
        if tags.nested and isinstance(schema, Mapping):
            if types == {"array"} and "items" in schema:
                return [self._rule(self._parameter(ITEM, schema["items"], shared, tags)) + "*"]
            if types == {"object"} and _members(schema):
                return self._parameters(schema, shared, tags)
        return [self._json(_with(schema, shared))]

    def _free_text(self, tags: Tagged, key: str) -> list[str]:
        """Whatever a model writes, up to the first closing tag; a line break before that is its own."""
        _, close, rest = (part.replace("{key}", key) for part in tags.written_close.partition(tags.close))
        closing = list(self._literals(close))
        if len(closing) == 1 and closing[0].startswith('"'):
            return [self._rule(_ANY_TEXT, f"[suffix={closing[0]}]"), *self._literals(rest)]
        return [self._rule(_ANY_TEXT), *closing, *self._literals(rest)]

    def _listed(self, schema: Mapping[str, Any], style: Literals) -> str:
        """The same with commas between: a rule for what may come first, one for what follows, from the last on."""
        shared, comma = _shared(schema), " ".join(self._literals(style.written_comma))
        first = following = '""'
        for key, part, needed in reversed(_members(schema)):
            opening = self._literals(style.written_key.replace("{key}", key))
            value = self._json(_with(part, shared)) if style.escapes else self._quoted(part, style)
            one = self._rule(" ".join([*opening, value]))
            first = self._rule(f"{one} {following}" + ("" if needed else f" | {first}"))
            following = self._rule(f"{comma} {one} {following}" + ("" if needed else f" | {following}"))
        return first

    def _quoted(self, schema: object, style: Literals) -> str:
        """A value whose strings stand in quotes of the family; any, where the schema does not say of what type."""
        types = types_of(schema)
        if types == {"string"} and isinstance(schema, Mapping) and (choices := _texts(schema)):
            quote = " ".join(self._literals(style.quotes[0]))
            return self._rule(f"{quote} ({' | '.join(choices)}) {quote}")
        if types and types <= _SCALARS:
            return self._json(schema)
        if types == {"array"} and isinstance(schema, Mapping) and "items" in schema:
            item, comma = self._quoted(schema["items"], style), " ".join(self._literals(style.written_comma))
            return self._rule(f'"[" ({item} ({comma} {item})*)? "]"')
        if types == {"object"} and isinstance(schema, Mapping) and _members(schema):
            return self._rule(f'"{{" {self._listed(schema, style)} "}}"')
        any_value = self._any_value(style)
        return any_value.get(next(iter(types)), any_value[""]) if len(types) == 1 else any_value[""]

    def _any_value(self, style: Literals) -> dict[str, str]:
        """Rules of a string, an array, an object and whatever value, by their types; made once."""
        if not self._values:
            quote = list(self._literals(style.quotes[0]))
            if quote[0].startswith('"'):
                text = f"{quote[0]} {self._rule(_ANY_TEXT, f'[suffix={quote[0]}]')}"
            else:
                text = f"{quote[0]} {self._rule(_ANY_TEXT)} {quote[0]}"
            self._values |= {"string": self._rule(text), "array": "array", "object": "object", "": "value"}
            scalar, member = self._json({"type": sorted(_SCALARS)}), self._rule("/[A-Za-z_][A-Za-z0-9_]*/")
            self._rules += [
                f"value: {self._values['string']} | {scalar} | array | object",
                'array: "[" (value ("," value)*)? "]"',
                f'object: "{{" ({member} ":" value ("," {member} ":" value)*)? "}}"',
            ]
        return self._values

    def _rule(self, body: str, attributes: str = "") -> str:
        """The name of a rule of its own."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {body}")
        return name


def _members(schema: Mapping[str, Any]) -> list[tuple[str, object, bool]]:
    """Of an object its keys, their schemas, and whether they must be there."""
    properties, required = schema.get("properties"), schema.get("required")
    needed = required if isinstance(required, list) else []
    return [(key, part, key in needed) for key, part in (properties.items() if isinstance(properties, dict) else ())]


def _shared(schema: Mapping[str, Any]) -> dict[str, object]:
    """What its parts may refer to."""
    return {name: schema[name] for name in _DEFINITIONS if name in schema}


def _with(schema: object, shared: Mapping[str, object]) -> object:
    return {**schema, **shared} if isinstance(schema, dict) else shared


def _texts(schema: Mapping[str, Any]) -> list[str]:
    """The texts that a schema names, if it allows no others, as literals."""
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
        return []
    return [json.dumps(value, ensure_ascii=False) for value in values]
