"""Answers in messages with headers, gpt-oss's: reasoning, content and calls by channel and recipient.

`<|channel|>analysis<|message|>...<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{...}`.
Source: OpenAI's Harmony response format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from .call_arguments import JsonArguments
from .call_turns import CallPiece, Turn
from .chat_styles import Channels
from .json_scan import open_end
from .named_calls import NamedCallParser

MESSAGE: Final = "<|message|>"
START: Final = "<|start|>"
CHANNEL: Final = "<|channel|>"
_BEGINNINGS: Final = (START, CHANNEL, MESSAGE, "to=")  # of a header
_LONGEST_HEADER: Final = 512
_RECIPIENT: Final = re.compile(r"to=(?P<name>[^\s<]+)")
_CHANNEL: Final = re.compile(r"<\|channel\|>\s*(?P<name>\w+)")


class ChannelReader:
    """Reads an answer in messages that comes in pieces. However it is cut, the turns together give the same.

    Args:
        style: of the family.
        schemas: of the arguments of the request's tools, by name.
        inside: the prompt ends within a message of reasoning.
        begun: it ends with what the assistant has begun to say.
    """

    def __init__(
        self, style: Channels, schemas: Mapping[str, object], inside: bool = False, begun: bool = False
    ) -> None:
        self._style = style
        self._schemas = schemas
        self._held = ""
        self._ends = (*style.ends, START)
        self._space = False  # the one that begins a message may still come
        self._trim = False  # white space at the beginning of reasoning is left out
        self._arguments = JsonArguments()
        self._calls: NamedCallParser | None = None
        self._body: Callable[[str, bool], tuple[str, list[Turn]]] = self._content
        self._header = not (inside or begun)
        if inside:
            self._body, self._trim = self._reasoning, not begun

    def push(self, text: str) -> tuple[str, list[Turn]]:
        """Take a piece; returns what is known now of the reasoning, and the turns."""
        self._held += text
        return self._read(ended=False)

    def flush(self, cut: bool = False) -> tuple[str, list[Turn]]:
        """End the text, `cut` or not; returns what was held back."""
        return self._read(ended=True)

    def _read(self, ended: bool) -> tuple[str, list[Turn]]:
        reasoning, turns = "", list[Turn]()
        while True:
            if self._header:
                if not self._read_header(ended):
                    return reasoning, turns
                continue
            found = [(at, end) for end in self._ends if (at := self._held.find(end)) >= 0]
            end, mark = min(found) if found else (open_end(self._held, self._ends), "")
            if ended and not found:
                end = len(self._held)
            piece, self._held = self._held[:end], self._held[end:]
            more, further = self._message(piece, bool(found) or ended)
            reasoning, turns = reasoning + more, turns + further
            if not found:
                return reasoning, turns
            self._header = True
            self._held = self._held if mark == START else self._held[len(mark) :]

    def _read_header(self, ended: bool) -> bool:
        """Take a header; whether it is whole, or what comes is none."""
        begun = self._held.lstrip()
        if not begun:
            return False
        known = any(begun.startswith(text[: len(begun)]) for text in _BEGINNINGS)
        end = self._held.find(MESSAGE)
        if known and end < 0:
            if not ended and len(self._held) < _LONGEST_HEADER:
                return False
            known = len(self._held) < _LONGEST_HEADER
            self._held = "" if known else self._held
        header = self._held[:end] if known and end >= 0 else ""
        self._held = self._held[end + len(MESSAGE) :] if known and end >= 0 else self._held
        self._open(header)
        return bool(self._held) or not ended

    def _open(self, header: str) -> None:
        """Begin the message of a header."""
        self._header, self._space = False, self._style.space
        recipient = _RECIPIENT.search(header)
        to = "" if recipient is None else recipient["name"].removeprefix("functions.")
        channel = next((found["name"] for found in reversed([*_CHANNEL.finditer(header)])), "")
        self._calls = None
        if to in self._schemas or (recipient is not None and recipient["name"] != to):
            self._begin_call(to)
        elif to in self._style.reasons or (channel in self._style.reasons and to in ("", "assistant")):
            self._body, self._trim = self._reasoning, True
        elif to in ("", "assistant", "user"):
            self._body = self._content
        else:
            self._body = self._nothing

    def _begin_call(self, name: str) -> None:
        if not self._schemas:
            self._body = self._nothing
        elif self._style.calls is not None:
            self._calls, self._body = NamedCallParser(self._style.calls, self._schemas), self._marked_call
        else:
            self._arguments, self._name, self._body = JsonArguments(), name, self._json_call

    def _message(self, piece: str, ended: bool) -> tuple[str, list[Turn]]:
        if self._space and piece:
            piece, self._space = piece.removeprefix(" "), False
        return self._body(piece, ended)

    def _content(self, piece: str, ended: bool) -> tuple[str, list[Turn]]:
        return "", [piece] if piece else []

    def _reasoning(self, piece: str, ended: bool) -> tuple[str, list[Turn]]:
        if self._trim:
            piece = piece.lstrip()
            self._trim = not piece
        return piece, []

    def _nothing(self, piece: str, ended: bool) -> tuple[str, list[Turn]]:
        return "", []

    def _json_call(self, piece: str, ended: bool) -> tuple[str, list[Turn]]:
        """Its arguments from the brace on; what stands behind them is left out."""
        turns: list[Turn] = []
        if self._name and (piece := piece.lstrip()):
            turns.append(CallPiece(self._name))
            self._name = ""
        if not piece or self._name or self._arguments.rest is not None:
            return "", turns
        made = self._arguments.push(piece)
        whole = self._arguments.rest is not None and self._arguments.whole
        return "", [*turns, CallPiece(arguments=made, whole=whole)]

    def _marked_call(self, piece: str, ended: bool) -> tuple[str, list[Turn]]:
        assert self._calls is not None  # `_begin_call` has set it
        turns = self._calls.push(piece)
        return "", turns + self._calls.flush() if ended else turns
