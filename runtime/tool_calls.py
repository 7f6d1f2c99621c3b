"""Calls of tools in a model's text, in the forms of the families, found as the text streams.

Hermes and Qwen write `<tool_call>{"name", "arguments"}</tool_call>`, Mistral `[TOOL_CALLS]` and an array, Llama 3
`{"name", "parameters"}`, maybe after `<|python_tag|>` and several with `;` between them. JSON alone is taken for a call
only where all of it names tools of the request: it may be the answer.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

HERMES_OPEN: Final = "<tool_call>"
HERMES_CLOSE: Final = "</tool_call>"
_MARKERS: Final = (HERMES_OPEN, "[TOOL_CALLS]", "<|python_tag|>")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call: the tool's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str


Parts = tuple[str, list[ToolCall]]


class ToolCallParser:
    """Finds calls in a text that comes in pieces. However it is cut, pushes and flush together give the same.

    A call is given when it is complete: Hermes' at its closing marker, the others at the end of the text. What turns
    out to be none is content, to the letter.

    Args:
        names: of the request's tools.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._held = ""
        self._begun = False  # something that is not white space has come
        self._marker: str | None = None  # of the call that is open; "" for JSON alone
        self._fresh = True  # nothing but white space has come since the beginning, or since the last call
        self._called = False

    def push(self, text: str) -> Parts:
        """Take a piece; returns the content and the calls that are known now."""
        self._held += text
        content, calls = "", []
        while (step := self._step()) is not None:
            content += step[0]
            calls += step[1]
        return content, calls

    def flush(self) -> Parts:
        """End the text; returns what was held back."""
        held, self._held = self._held, ""
        if self._marker is None:
            return ("" if self._called and self._fresh and not held.strip() else held), []
        calls = _read_calls(held[len(self._marker) :])
        if calls and (self._marker or all(call.name in self._names for call in calls)):
            return "", calls
        return held, []

    def _step(self) -> Parts | None:
        """One piece of content or one call from what is held; None where more text is needed."""
        if self._marker is not None:
            return self._close() if self._marker == HERMES_OPEN else None
        if not self._begun:
            begun = self._held.lstrip()
            if not begun or any(len(begun) < len(marker) and marker.startswith(begun) for marker in _MARKERS):
                return None
            self._begun = True
            if begun[0] in "{[" and not begun.startswith(_MARKERS):
                self._marker = ""
                return None
        found = [at for marker in _MARKERS if (at := self._held.find(marker)) >= 0]
        end = min(found) if found else _open_end(self._held)
        content, self._held = self._held[:end], self._held[end:]
        if found:
            self._marker = next(marker for marker in _MARKERS if self._held.startswith(marker))
            return ("" if self._fresh and not content.strip() else content), []
        if self._fresh and not content.strip():
            self._held = content + self._held  # white space between calls is no content
            return None
        self._fresh = self._fresh and not content
        return (content, []) if content else None

    def _close(self) -> Parts | None:
        """The call of Hermes' form that is open. Its JSON is read first: a string in it may hold the marker."""
        body = self._held[len(HERMES_OPEN) :]
        at = body.find(HERMES_CLOSE)
        while at >= 0:
            calls = _read_calls(body[:at])
            if calls:
                self._marker, self._held = None, body[at + len(HERMES_CLOSE) :]
                self._fresh = self._called = True
                return "", calls
            at = body.find(HERMES_CLOSE, at + 1)
        return None


def _open_end(text: str) -> int:
    """Where the end of `text` may begin a marker; its length where it does not."""
    longest = max(map(len, _MARKERS)) - 1
    for at in range(max(0, len(text) - longest), len(text)):
        if any(marker.startswith(text[at:]) for marker in _MARKERS):
            return at
    return len(text)


def _read_calls(text: str) -> list[ToolCall]:
    """Calls that a text consists of, one or an array or several with `;` between; none where it is anything else."""
    decoder, calls, at = json.JSONDecoder(), list[ToolCall](), 0
    while rest := text[at:].lstrip():
        try:
            value, length = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            return []
        for item in value if isinstance(value, list) else [value]:
            call = _call_of(item)
            if call is None:
                return []
            calls.append(call)
        at = len(text) - len(rest) + length
        following = text[at:].lstrip()
        if following and not following.startswith(";"):
            return []
        at = len(text) - len(following) + 1 if following else len(text)
    return calls


def _call_of(value: object) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the object as a string
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    return ToolCall(value["name"], json.dumps(arguments, ensure_ascii=False))
