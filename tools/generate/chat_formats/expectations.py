"""The cases of llama.cpp's `tests/test-chat.cpp`: what a model wrote, and which call, reasoning and content it is."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .cpp import Expressions, Function, Unknown, tokens_of

Call = tuple[str, str]
"""A tool's name, and its arguments as JSON."""


@dataclass(frozen=True, slots=True)
class Case:
    """A text of a model, and what llama.cpp expects it to be read as.

    Attributes:
        template: path of the chat template, below the sources.
        text: that the model wrote.
        conditions: by the names of llama.cpp's test: `tools`, `enable_thinking`, `messages`, `is_partial` ...
        content, reasoning, calls: what is expected.
    """

    template: str
    text: str
    conditions: dict[str, Any]
    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


@dataclass(slots=True)
class _Message:
    """A message of an assistant, as the test's helpers make it."""

    role: str = "assistant"
    content: str = ""
    reasoning_content: str = ""
    tool_calls: list[list[Any]] = field(default_factory=list)
    tool_call_id: str = ""
    tool_name: str = ""


def _simple(content: str, reasoning: str = "", name: str = "", arguments: str = "", call_id: str = "") -> _Message:
    calls = [[name, arguments, call_id]] if name or call_id else []
    return _Message(content=content, reasoning_content=reasoning, tool_calls=calls)


def _several(reasoning: str, content: str, calls: list[list[str]]) -> _Message:
    return _Message(content=content, reasoning_content=reasoning, tool_calls=[[*call, ""] for call in calls])


_HELPERS: Final[dict[str, Function]] = {
    "simple_assist_msg": _simple,
    "message_with_tool_calls": lambda name, arguments: _simple("", "", name, arguments),
    "message_with_tool_calls_and_reasoning": lambda name, arguments, reasoning: _simple("", reasoning, name, arguments),
    "message_with_reasoning_content_and_multiple_tool_calls": _several,
    "message_with_content_and_tool_call": lambda content, name, arguments: _simple(content, "", name, arguments),
    "message_with_reasoning_and_tool_call": lambda reasoning, name, arguments: _simple("", reasoning, name, arguments),
    "peg_tester": lambda path, *_: path,
    "read_templates": lambda path: path,
}
_TYPES: Final = ("common_chat_msg", "common_chat_tool")


def read_cases(path: Path) -> list[Case]:
    """All cases of a `test-chat.cpp`."""
    return list(_Reader(path.read_text()).cases())


class _Reader:
    """Goes through the file, with the variables of each block."""

    def __init__(self, source: str) -> None:
        self._tokens = tokens_of(source)
        self._expressions = Expressions(self._tokens, _HELPERS)
        self._functions = {}
        for at, token in enumerate(self._tokens):
            if token.kind == "name" and token.text.startswith("test_") and self._is_definition(at):
                self._functions[token.text] = at

    def _is_definition(self, at: int) -> bool:
        if self._tokens[at - 1].text != "void" or not self._expressions.is_sign(at + 1, "("):
            return False
        return self._expressions.is_sign(self._expressions.closing(at + 1) + 1, "{")

    def cases(self) -> Iterator[Case]:
        """Those of the test of what models write, and of the functions that it calls."""
        variables: dict[str, Any] = {}
        first = min(self._functions.values())
        list(self._block(0, first, variables))  # messages and tools that all share
        yield from self._function("test_template_output_peg_parsers", [], variables)

    def _function(self, name: str, values: list[Any], variables: dict[str, Any]) -> Iterator[Case]:
        at = self._functions[name] + 1
        end = self._expressions.closing(at)
        names = [token.text for token, after in zip(self._tokens[at:end], self._tokens[at + 1 :], strict=False)
                 if token.kind == "name" and after.text in ",)"]  # fmt: skip
        body = self._expressions.closing(end + 1)
        inner = {**variables, **dict(zip(names, values, strict=False))}
        yield from self._block(end + 2, body, inner)

    def _block(self, at: int, end: int, variables: dict[str, Any]) -> Iterator[Case]:
        while at < end:
            token = self._tokens[at]
            if self._expressions.is_sign(at, "{"):
                closing = self._expressions.closing(at)
                yield from self._block(at + 1, closing, dict(variables))
                at = closing + 1
            elif token.text == "for" and token.kind == "name":
                closing = yield from self._loop(at, variables)
                at = closing + 1
            elif token.kind == "name" and token.text in self._functions and self._tokens[at - 1].text != "void":
                try:
                    values, after = self._expressions.arguments(at + 1, variables)
                except Unknown:
                    values, after = [], at + 1
                if values:
                    yield from self._function(token.text, values, variables)
                at = after
            elif token.kind == "name" and self._tokens[at + 1 : at + 3] == tokens_of(".test"):
                case, at = self._chain(at, variables)
                yield case
            else:
                at = self._declaration(at, variables)

    def _loop(self, at: int, variables: dict[str, Any]) -> Generator[Case, None, int]:
        """A loop over a list; returns where its body ends."""
        head = self._expressions.closing(at + 1)
        body = self._expressions.closing(head + 1) if self._expressions.is_sign(head + 1, "{") else head
        colon = next((i for i in range(at, head) if self._expressions.is_sign(i, ":")), None)
        if colon is not None and body > head:
            try:
                values, _ = self._expressions.value(colon + 1, variables)
            except Unknown:
                values = []
            for value in values if isinstance(values, list) else []:
                yield from self._block(head + 2, body, {**variables, self._tokens[colon - 1].text: value})
        return body

    def _declaration(self, at: int, variables: dict[str, Any]) -> int:
        """Take what a variable or its field is set to, if that is what begins there; returns where to go on."""
        name = self._tokens[at]
        if name.kind != "name":
            return at + 1
        try:
            if self._expressions.is_sign(at + 1, "="):
                variables[name.text], after = self._expressions.value(at + 2, variables)
                return after
            if self._tokens[at - 1].text in _TYPES:
                if self._expressions.is_sign(at + 1, "{"):
                    values, after = self._expressions.arguments(at + 1, variables)
                    is_tool = self._tokens[at - 1].text == "common_chat_tool"
                    variables[name.text] = values if is_tool else _Message(role=values[0], content=values[1])
                    return after
                if self._expressions.is_sign(at + 1, ";"):
                    variables[name.text] = _Message()
            elif self._expressions.is_sign(at + 1, ".") and isinstance(variables.get(name.text), _Message):
                field_name = self._tokens[at + 2].text
                if self._expressions.is_sign(at + 3, "="):
                    value, after = self._expressions.value(at + 4, variables)
                    setattr(variables[name.text], field_name, value)
                    return after
        except (Unknown, AttributeError, IndexError):
            pass
        return at + 1

    def _chain(self, at: int, variables: dict[str, Any]) -> tuple[Case, int]:
        """A chain that begins with `tester.test(text)` and ends with `.run()`."""
        template = variables[self._tokens[at].text]
        conditions: dict[str, Any] = {}
        expected = _Message()
        text = ""
        at += 1
        while self._expressions.is_sign(at, "."):
            name = self._tokens[at + 1].text
            values, at = self._expressions.arguments(at + 2, variables)
            if name == "test":
                text = values[0]
            elif name == "expect":
                expected = copy.deepcopy(values[0])
            elif name == "expect_content":
                expected.content = values[0]
            elif name == "expect_reasoning":
                expected.reasoning_content = values[0]
            elif name == "expect_tool_calls":
                expected.tool_calls = values[0]
            elif name != "run":
                conditions[name] = values[0] if values else True
        calls = tuple((call[0], call[1]) for call in expected.tool_calls)
        return Case(template, text, conditions, expected.content, expected.reasoning_content, calls), at
