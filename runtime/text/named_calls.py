"""Calls of tools whose name stands between marks, found as the text streams; see `NamedCalls` for what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from .call_arguments import Arguments, JsonArguments, LiteralArguments, TaggedArguments
from .call_turns import CallPiece, Turn
from .chat_styles import NamedCalls, Tagged
from .json_scan import open_end

_LONGEST_HEAD: Final = 512  # it is looked for with each piece, and text waits for it


class NamedCallParser:
    """Finds calls in a text that comes in pieces. However it is cut, the turns together give the same.

    A call streams from its name on. What turns out to be none is content, to the letter; white space between calls,
    and before the first where nothing else comes, is none.

    Args:
        style: of the family.
        schemas: of the arguments of the request's tools, by name.
    """

    def __init__(self, style: NamedCalls, schemas: Mapping[str, object]) -> None:
        self._style = style
        self._schemas = schemas
        self._held = ""
        self._before = ""  # white space before a call that may begin
        self._fresh = True  # nothing but white space has come since the beginning, or since the last call
        self._called = False
        self._ended = False
        self._arguments: Arguments = JsonArguments()
        self._head = style.head
        self._step: Callable[[], list[Turn] | None] = self._read_content
        self._marks = tuple(filter(None, (*style.starts, *style.closers, style.more_start)))

    def push(self, text: str) -> list[Turn]:
        """Take a piece; returns what is known now."""
        self._held += text
        turns: list[Turn] = []
        while (step := self._step()) is not None:
            turns += step
        return turns

    def flush(self, cut: bool = False) -> list[Turn]:
        """End the text, `cut` or not; returns what was held back."""
        self._ended = True
        turns = self.push("")
        held, self._held = self._held, ""
        if self._step == self._read_arguments or (self._called and self._fresh and not held.strip()):
            return turns
        if self._step == self._read_between and any(mark.startswith(held.strip()) for mark in self._marks):
            return turns  # a mark that was broken off
        return [*turns, held] if held else turns

    def _read_content(self) -> list[Turn] | None:
        """Up to where a call may begin."""
        found = [at for start in self._style.starts if (at := self._held.find(start)) >= 0]
        at = min(found) if found else open_end(self._held, self._style.starts)
        content = self._held[:at]
        white = self._fresh and not content.strip()
        if white and not found:
            return None
        self._held = self._held[at:]
        if found:
            self._before, self._head, self._step = content if white else "", self._style.head, self._read_head
        elif not content:
            return None
        self._fresh = white
        return [] if white else [content]

    def _read_head(self) -> list[Turn] | None:
        """The head of a call, or what is none."""
        found = self._head.match(self._held[:_LONGEST_HEAD])
        name = "" if found is None else found["name"].strip()
        if found is not None and name and (not self._style.known or name in self._schemas):
            self._held, self._before = self._held[found.end() :], ""
            self._arguments, self._step = self._arguments_of(name), self._read_arguments
            return [CallPiece(name)]
        if found is None and not self._ended and len(self._held) < _LONGEST_HEAD:
            return None
        content, self._held, self._before = self._before + self._held[:1], self._held[1:], ""
        self._fresh, self._step = False, self._read_content
        return [content]

    def _arguments_of(self, name: str) -> Arguments:
        style = self._style.arguments
        if style is None:
            return JsonArguments()
        return TaggedArguments(style, self._schemas.get(name)) if isinstance(style, Tagged) else LiteralArguments(style)

    def _read_arguments(self) -> list[Turn] | None:
        made, self._held = self._arguments.push(self._held), ""
        if self._arguments.rest is None:
            return [CallPiece(arguments=made)] if made else None
        self._held, self._step = self._arguments.rest, self._read_between
        self._fresh = self._called = True
        whole = self._arguments.whole
        return [CallPiece(arguments=made, whole=whole)] if made or whole else []

    def _read_between(self) -> list[Turn] | None:
        """From the end of a call to the beginning of the next, or of what is none."""
        text = self._held.lstrip()
        if not self._ended and any(len(mark) > len(text) and mark.startswith(text) for mark in self._marks):
            return None
        if text.startswith(self._style.starts):
            self._held, self._head, self._step = text, self._style.head, self._read_head
        elif self._style.more is not None and text.startswith(self._style.more_start):
            self._held, self._head, self._step = text, self._style.more, self._read_head
        elif closers := [closer for closer in self._style.closers if text.startswith(closer)]:
            self._held = text[len(max(closers, key=len)) :]
        elif text:
            self._step = self._read_content
        else:
            return None
        return []
