"""Calls of tools that are JSON objects, found as the text streams.

Hermes and Qwen write `<tool_call>{"name", "arguments"}</tool_call>`, Mistral `[TOOL_CALLS]` and an array, Llama 3
`{"name", "parameters"}`, maybe after `<|python_tag|>` and several with `;` between them; other families have other
markers (see `chat_formats`). JSON alone is taken for a call only where all of it names tools of the request: it may be
the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Final

from .call_turns import CallPiece, ToolCall, Turn, join_calls
from .chat_styles import JsonCalls
from .json_scan import JSON, ObjectEnd, is_object, open_end

# What is looked for where a chat template says nothing else.
ANY_JSON: Final = JsonCalls((("<tool_call>", "</tool_call>"), ("[TOOL_CALLS]", ""), ("<|python_tag|>", "")), bare=True)
_LONGEST_HEAD: Final = 1024  # it is looked for with each piece
_SEPARATORS: Final = " \t\r\n,;]"
_COMMA: Final = re.compile(r",\s*")
_COMMA_QUOTE: Final = re.compile(r',\s*"')


class ToolCallParser:
    """Finds calls in a text that comes in pieces. However it is cut, the turns together give the same.

    A call after a marker that names a tool of the request streams from the brace of its arguments on: whatever follows,
    it is one. Others are given when they are complete: Hermes' at its closing marker, the rest at the end of the text.
    What turns out to be none is content, to the letter.

    Args:
        names: of the request's tools.
        forced: the text is the JSON of a call; a constraint on the output has seen to it.
        style: how the family writes them.
    """

    def __init__(self, names: Collection[str], forced: bool = False, style: JsonCalls = ANY_JSON) -> None:
        self._names = frozenset(names)
        self._style = style
        self._markers = tuple(marker for marker, _ in style.markers)
        self._held = ""
        self._begun = forced or not style.bare  # something that is not white space has come
        self._calls = _Calls("", ANY_JSON, self._names, certain=True) if forced else None  # that are open
        self._fresh = True  # nothing but white space has come since the beginning, or since the last call
        self._called = False

    def push(self, text: str) -> list[Turn]:
        """Take a piece; returns what is known now."""
        self._held += text
        turns: list[Turn] = []
        while (step := self._step()) is not None:
            turns += step
        return turns

    def flush(self, cut: bool = False) -> list[Turn]:
        """End the text, `cut` or not; returns what was held back."""
        held, self._held = self._held, ""
        if self._calls is not None:
            return self._calls.flush()
        return [] if not held or (self._called and self._fresh and not held.strip()) else [held]

    def _step(self) -> list[Turn] | None:
        """What is held, a little further; None where more text is needed."""
        if self._calls is not None:
            return self._read_calls(self._calls)
        if not self._begun:
            begun = self._held.lstrip()
            if not begun or any(len(begun) < len(marker) and marker.startswith(begun) for marker in self._markers):
                return None
            self._begun = True
            if begun[0] in "{[" and not begun.startswith(self._markers):
                self._calls = _Calls("", self._style, self._names, certain=False)
                return []
        found = [at for marker in self._markers if (at := self._held.find(marker)) >= 0]
        end = min(found) if found else open_end(self._held, self._markers)
        content, self._held = self._held[:end], self._held[end:]
        if found:
            marker = next(marker for marker in self._markers if self._held.startswith(marker))
            white = content if self._fresh and not content.strip() else ""  # before a call it is no content
            self._calls = _Calls(marker, self._style, self._names, certain=True, before=white)
            self._held = self._held[len(marker) :]
            return [content] if content != white else []
        if self._fresh and not content.strip():
            self._held = content + self._held  # white space between calls is no content
            return None
        self._fresh = self._fresh and not content
        return [content] if content else None

    def _read_calls(self, calls: _Calls) -> list[Turn] | None:
        text, self._held = self._held, ""
        turns = calls.push(text)
        if calls.rest is None:
            return turns or None
        self._calls, self._held = None, calls.rest
        self._fresh = self._called = True
        return turns


class _Calls:
    """The calls after a marker, or of JSON alone.

    Attributes:
        rest: what follows them; None while they go on.

    Args:
        marker: which; "" for JSON alone.
        style: how the family writes them.
        names: of the request's tools.
        certain: that there are calls, if what comes looks like one.
        before: white space before the marker.
    """

    def __init__(self, marker: str, style: JsonCalls, names: frozenset[str], certain: bool, before: str = "") -> None:
        self.rest: str | None = None
        self._marker = marker
        self._style = style
        self._closer = dict(style.markers).get(marker, "")
        self._opening = before + marker  # content, where no call follows it
        self._names = names
        self._certain = certain
        self._held = ""
        self._object = ObjectEnd("")
        self._arguments: list[str] = []
        self._step: Callable[[], list[Turn] | None] = self._read_head

    def push(self, text: str) -> list[Turn]:
        """Take a piece; returns what is known now."""
        self._held += text
        turns: list[Turn] = []
        while self.rest is None and (step := self._step()) is not None:
            turns += step
        return turns

    def flush(self) -> list[Turn]:
        """End the text; returns what was held back."""
        held, self._held = self._held, ""
        if self._step == self._read_arguments:
            return [CallPiece(arguments=held)] if held else []
        if self._step != self._read_head:
            return []
        calls = self._whole_calls(held)
        if calls and (self._marker or all(call.name in self._names for call in join_calls(calls))):
            return calls
        return [content] if (content := self._opening + held) else []

    def _read_head(self) -> list[Turn] | None:
        """Up to the brace of the arguments; of a call in another form, all of it."""
        found = self._style.head.match(self._held[:_LONGEST_HEAD]) if self._certain else None
        if found is not None and found["name"] in self._names:
            self._held, self._opening = self._held[found.end() :], ""
            self._object, self._arguments, self._step = ObjectEnd(self._closer), [], self._read_arguments
            return [CallPiece(found["name"])]
        at = self._held.find(self._closer) if self._closer else -1
        while at >= 0:  # a string in the JSON may hold the marker
            calls = self._whole_calls(self._held[:at])
            if calls:
                self.rest = self._held[at + len(self._closer) :]
                return calls
            at = self._held.find(self._closer, at + 1)
        return None

    def _whole_calls(self, text: str) -> list[Turn]:
        calls = _read_calls(text, self._style)
        if not calls and not self._opening:  # earlier ones of the array have been read, and its bracket
            calls = _read_calls(f"[{text}", self._style)
        return [CallPiece(call.name, call.arguments, whole=True) for call in calls]

    def _read_arguments(self) -> list[Turn] | None:
        length, ended = self._object.find(self._held)
        piece, self._held = self._held[:length], self._held[length:]
        self._arguments.append(piece)
        if not ended:
            return [CallPiece(arguments=piece)] if piece else None
        closed = not self._object.depth
        self._step = self._read_members if closed else self._read_between
        whole = closed and is_object("".join(self._arguments))
        return [CallPiece(arguments=piece, whole=whole)] if piece else []

    def _read_members(self) -> list[Turn] | None:
        """What a call has behind its arguments, up to its brace, is left out."""
        begun = self._held.lstrip()
        if not begun or _COMMA.fullmatch(begun):
            return None
        self._step = self._read_between
        if begun.startswith("}"):
            self._held = begun[1:]
        elif _COMMA_QUOTE.match(begun):
            self._object, self._step = ObjectEnd(self._closer, depth=1), self._skip_members
        return []

    def _skip_members(self) -> list[Turn] | None:
        length, ended = self._object.find(self._held)
        self._held = self._held[length:]
        if not ended:
            return None
        self._step = self._read_between
        return []

    def _read_between(self) -> list[Turn] | None:
        """From the end of a call to the beginning of the next, or of what is none."""
        self._held = self._held.lstrip(_SEPARATORS)
        if not self._held or (self._closer.startswith(self._held) and self._held != self._closer):
            return None
        if self._held.startswith("{"):
            self._step = self._read_head
        else:
            self.rest = self._held.removeprefix(self._closer)
        return []


def _read_calls(text: str, style: JsonCalls) -> list[ToolCall]:
    """Calls that a text consists of, one or an array or several with `;` between; none where it is anything else."""
    text, separator = text.strip(), ";"
    if text.startswith("[") and text.endswith("]"):
        text, separator = text[1:-1].strip(), ","
    calls, at = list[ToolCall](), 0
    while at < len(text):
        try:
            value, end = JSON.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        call = _call_of(value, text[at:end], style)
        following = text[end:].lstrip()
        if call is None or (following and following[0] != separator):
            return []
        calls.append(call)
        at = len(text) - len(following[1:].lstrip())
    return calls


def _call_of(value: object, text: str, style: JsonCalls) -> ToolCall | None:
    """The call that a JSON value is, or None."""
    if not isinstance(value, dict):
        return None
    if style.name_keys:
        name = next((value[key] for key in style.name_keys if key in value), None)
        arguments = value.get("arguments", value.get("parameters", {}))
    else:
        name, arguments = next(iter(value.items()), (None, {}))
    if not isinstance(name, str) or not name:
        return None
    if isinstance(arguments, str):  # some models write the object as a string
        return ToolCall(name, arguments) if is_object(arguments) else None
    if not isinstance(arguments, dict):
        return None
    return ToolCall(name, _own_words(text, arguments, style) or json.dumps(arguments, ensure_ascii=False))


def _own_words(text: str, arguments: object, style: JsonCalls) -> str | None:
    """The arguments as a call's text has them; None where they are not what it begins with."""
    head = style.head.match(text)
    if head is None:
        return None
    value, end = JSON.raw_decode(text, head.end())
    return text[head.end() : end] if value == arguments else None
