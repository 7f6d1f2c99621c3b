"""Calls of tools that take a text where functions take JSON: OpenAI's custom tools.

A model is told of a function with one argument, `input`, and calls it as any other; or it must call it, and its answer
is that text.
"""

from __future__ import annotations

import json
import re
from typing import Final

from .call_turns import CallPiece, Turn

INPUT: Final = "input"
INPUT_SCHEMA: Final[dict[str, object]] = {
    "type": "object",
    "properties": {INPUT: {"type": "string"}},
    "required": [INPUT],
    "additionalProperties": False,
}

_HEAD: Final = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
# Characters and escapes of a JSON string, the two halves of a surrogate pair together.
_TEXT: Final = re.compile(
    r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*"
)


def input_arguments(text: str) -> str:
    """The arguments of a call with this input."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


class TextCallParser:
    """An answer that is the input of one tool, as the pieces of a call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def push(self, text: str) -> list[Turn]:
        """Take a piece of the text."""
        turns: list[Turn] = []
        if not self._begun:
            self._begun = True
            turns += [CallPiece(self._name), CallPiece(arguments=f'{{"{INPUT}": "')]
        return [*turns, CallPiece(arguments=json.dumps(text, ensure_ascii=False)[1:-1])] if text else turns

    def flush(self, cut: bool) -> list[Turn]:
        """End it; `cut`: the model would have gone on."""
        return self.push("") if cut else [*self.push(""), CallPiece(arguments='"}', whole=True)]


class TextInput:
    """The input of a call, from the pieces of its arguments."""

    def __init__(self) -> None:
        self._arguments = self._held = self._said = ""
        self._inside: bool | None = None  # the string; None: it has not begun

    def push(self, piece: str) -> str:
        """Take a piece; returns what is known now."""
        self._arguments += piece
        self._held += piece
        if self._inside is None and (head := _HEAD.match(self._held)) is not None:
            self._inside, self._held = True, self._held[head.end() :]
        if not self._inside:
            return ""
        found = _TEXT.match(self._held)
        assert found is not None  # it may be empty
        self._held = self._held[found.end() :]
        self._inside = not self._held.startswith('"')
        text = str(json.loads(f'"{found[0]}"'))
        self._said += text
        return text

    def flush(self) -> str:
        """End whole arguments; returns what was held back. Other arguments than `input` are the input as they are."""
        text = json.loads(self._arguments).get(INPUT)
        if not isinstance(text, str):
            text = self._arguments
        return text.removeprefix(self._said)
