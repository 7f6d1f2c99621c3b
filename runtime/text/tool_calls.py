"""Calls of tools in a model's text, in the forms of the families, found as the text streams.

Hermes and Qwen write `<tool_call>{"name", "arguments"}</tool_call>`, Mistral `[TOOL_CALLS]` and an array, Llama 3
`{"name", "parameters"}`, maybe after `<|python_tag|>` and several with `;` between them. JSON alone is taken for a call
only where all of it names tools of the request: it may be the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

HERMES_OPEN: Final = "<tool_call>"
HERMES_CLOSE: Final = "</tool_call>"
_MARKERS: Final = (HERMES_OPEN, "[TOOL_CALLS]", "<|python_tag|>")
# A call up to the brace of its arguments, as nearly all models write it.
_HEAD: Final = re.compile(
    r'[\s\[]*\{\s*"name"\s*:\s*"(?P<name>[^"\\]{1,256})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_LONGEST_HEAD: Final = 1024  # it is looked for with each piece
_SEPARATORS: Final = " \t\r\n,;]"
_COMMA: Final = re.compile(r",\s*")
_COMMA_QUOTE: Final = re.compile(r',\s*"')
_IN_OBJECT: Final = re.compile(r'["{}<]')
_IN_STRING: Final = re.compile(r'["\\]')


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call: the tool's name, and its arguments as the model wrote them.

    Where it is `whole`, they are the text of a JSON object; else the model broke off, or wrote what is none.
    """

    name: str
    arguments: str
    whole: bool = True

    @property
    def text(self) -> str:
        """The call as text, for those that take whole calls alone."""
        return f'{{"name": {json.dumps(self.name, ensure_ascii=False)}, "arguments": {self.arguments}'


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a call. The first one has the name, the last one of a whole call says that it is whole.

    A call that has no such last piece has been broken off.
    """

    name: str | None = None
    arguments: str = ""
    whole: bool = False


Turn = str | CallPiece
"""Content, or a piece of a call."""


def join_calls(turns: Iterable[Turn]) -> list[ToolCall]:
    """The calls that pieces come to."""
    calls: list[list[CallPiece]] = []
    for turn in turns:
        if isinstance(turn, CallPiece):
            if turn.name is not None:
                calls.append([])
            calls[-1].append(turn)
    return [
        ToolCall(pieces[0].name or "", "".join(piece.arguments for piece in pieces), pieces[-1].whole)
        for pieces in calls
    ]


class WholeCalls:
    """Puts pieces of calls together, for those that take whole calls alone: one that is broken off is content."""

    def __init__(self) -> None:
        self._pieces: list[CallPiece] = []  # of the call that is open

    def take(self, turns: Iterable[Turn], end: bool) -> tuple[str, list[ToolCall]]:
        """The content and the calls that are known now; at the `end` of the text, all."""
        content, calls = "", list[ToolCall]()
        for turn in turns:
            if isinstance(turn, str):
                content += self._broken() + turn
                continue
            if turn.name is not None:
                content += self._broken()
            self._pieces.append(turn)
            if turn.whole:
                calls += join_calls(self._pieces)
                self._pieces = []
        return content + (self._broken() if end else ""), calls

    def _broken(self) -> str:
        pieces, self._pieces = self._pieces, []
        return "".join(call.text for call in join_calls(pieces))


class ToolCallParser:
    """Finds calls in a text that comes in pieces. However it is cut, the turns together give the same.

    A call after a marker that names a tool of the request streams from the brace of its arguments on: whatever follows,
    it is one. Others are given when they are complete: Hermes' at its closing marker, the rest at the end of the text.
    What turns out to be none is content, to the letter.

    Args:
        names: of the request's tools.
        forced: the text is the JSON of a call; a constraint on the output has seen to it.
    """

    def __init__(self, names: Collection[str], forced: bool = False) -> None:
        self._names = frozenset(names)
        self._held = ""
        self._begun = forced  # something that is not white space has come
        self._calls = _Calls("", self._names, certain=True) if forced else None  # that are open
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
            if not begun or any(len(begun) < len(marker) and marker.startswith(begun) for marker in _MARKERS):
                return None
            self._begun = True
            if begun[0] in "{[" and not begun.startswith(_MARKERS):
                self._calls = _Calls("", self._names, certain=False)
                return []
        found = [at for marker in _MARKERS if (at := self._held.find(marker)) >= 0]
        end = min(found) if found else _open_end(self._held, _MARKERS)
        content, self._held = self._held[:end], self._held[end:]
        if found:
            marker = next(marker for marker in _MARKERS if self._held.startswith(marker))
            white = content if self._fresh and not content.strip() else ""  # before a call it is no content
            self._calls = _Calls(marker, self._names, certain=True, before=white)
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
        names: of the request's tools.
        certain: that there are calls, if what comes looks like one.
        before: white space before the marker.
    """

    def __init__(self, marker: str, names: frozenset[str], certain: bool, before: str = "") -> None:
        self.rest: str | None = None
        self._marker = marker
        self._closer = HERMES_CLOSE if marker == HERMES_OPEN else ""
        self._opening = before + marker  # content, where no call follows it
        self._names = names
        self._certain = certain
        self._held = ""
        self._object = _ObjectEnd("")
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
        found = _HEAD.match(self._held[:_LONGEST_HEAD]) if self._certain else None
        if found is not None and found["name"] in self._names:
            self._held, self._opening = self._held[found.end() :], ""
            self._object, self._arguments, self._step = _ObjectEnd(self._closer), [], self._read_arguments
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
        calls = _read_calls(text)
        if not calls and not self._opening:  # earlier ones of the array have been read, and its bracket
            calls = _read_calls(f"[{text}")
        return [CallPiece(call.name, call.arguments, whole=True) for call in calls]

    def _read_arguments(self) -> list[Turn] | None:
        length, ended = self._object.find(self._held)
        piece, self._held = self._held[:length], self._held[length:]
        self._arguments.append(piece)
        if not ended:
            return [CallPiece(arguments=piece)] if piece else None
        closed = not self._object.depth
        self._step = self._read_members if closed else self._read_between
        whole = closed and _is_object("".join(self._arguments))
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
            self._object, self._step = _ObjectEnd(self._closer, depth=1), self._skip_members
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


class _ObjectEnd:
    """Finds the end of a JSON object, by its braces and strings, in a text that comes in pieces.

    Args:
        closer: a text that ends it too, outside of a string; "" for none.
        depth: of the braces that are open.
    """

    def __init__(self, closer: str, depth: int = 0) -> None:
        self.depth = depth
        self._closer = closer
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> tuple[int, bool]:
        """How much of a piece belongs to the object, and whether it ends there; the rest is to come again."""
        at = 0
        if self._escaped and text:
            self._escaped, at = False, 1
        while (found := (_IN_STRING if self._in_string else _IN_OBJECT).search(text, at)) is not None:
            start, at = found.span()
            match found[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    self._escaped = at == len(text)
                    at += 1
                case "{":
                    self.depth += 1
                case "}":
                    self.depth -= 1
                    if not self.depth:
                        return at, True
                case _ if self._closer and text.startswith(self._closer, start):
                    return start, True
                case _ if self._closer.startswith(text[start:]):
                    return start, False
        return len(text), False


def _open_end(text: str, markers: tuple[str, ...]) -> int:
    """Where the end of `text` may begin a marker; its length where it does not."""
    longest = max(map(len, markers)) - 1
    for at in range(max(0, len(text) - longest), len(text)):
        if any(marker.startswith(text[at:]) for marker in markers):
            return at
    return len(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # Python reads NaN, which is no JSON


_JSON: Final = json.JSONDecoder(parse_constant=_refuse)


def _is_object(text: str) -> bool:
    try:
        return isinstance(_JSON.decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _read_calls(text: str) -> list[ToolCall]:
    """Calls that a text consists of, one or an array or several with `;` between; none where it is anything else."""
    text, separator = text.strip(), ";"
    if text.startswith("[") and text.endswith("]"):
        text, separator = text[1:-1].strip(), ","
    calls, at = list[ToolCall](), 0
    while at < len(text):
        try:
            value, end = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        call = _call_of(value, text[at:end])
        following = text[end:].lstrip()
        if call is None or (following and following[0] != separator):
            return []
        calls.append(call)
        at = len(text) - len(following[1:].lstrip())
    return calls


def _call_of(value: object, text: str) -> ToolCall | None:
    """The call that a JSON value is, or None."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # some models write the object as a string
        return ToolCall(value["name"], arguments) if _is_object(arguments) else None
    if not isinstance(arguments, dict):
        return None
    return ToolCall(value["name"], _own_words(text, arguments) or json.dumps(arguments, ensure_ascii=False))


def _own_words(text: str, arguments: object) -> str | None:
    """The arguments as a call's text has them; None where they are not what it begins with."""
    head = _HEAD.match(text)
    if head is None:
        return None
    value, end = _JSON.raw_decode(text, head.end())
    return text[head.end() : end] if value == arguments else None
