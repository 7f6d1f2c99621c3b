"""Reasoning text (`<think>` ... `</think>`) split off an answer as it streams."""

from __future__ import annotations

from .chat_styles import Reasoning
from .json_scan import open_end

THINK = Reasoning()
OPEN, CLOSE = THINK.open, THINK.close


class ReasoningSplitter:
    """Splits a text that comes in pieces. However it is cut, the parts of all pushes and the flush are the same.

    Only what the answer begins with, but for white space, is reasoning; the markers belong to neither part, nor does
    the white space around them. An answer that ends within its reasoning is reasoning alone.

    Args:
        inside: the prompt has opened the reasoning itself, as some templates do.
        style: its markers.
        calls: texts with which a call of a tool begins, where that ends it as well.
        begun: the prompt holds the beginning of the reasoning.
    """

    def __init__(
        self, inside: bool = False, style: Reasoning = THINK, calls: tuple[str, ...] = (), begun: bool = False
    ) -> None:
        self._open, self._close = style.open, style.close
        self._ends = (style.close, *calls)
        self._held = ""
        self._state = "reasoning" if inside else "start"
        self._trim = inside and not begun  # white space at the beginning of a part is left out

    def push(self, text: str) -> tuple[str, str]:
        """Take a piece; returns what is known now of the reasoning and of the content."""
        text, self._held = self._held + text, ""
        if self._state == "start":
            begun = text.lstrip()
            if len(begun) < len(self._open) and self._open.startswith(begun):
                self._held = text
                return "", ""
            self._state = "content"
            if begun.startswith(self._open):
                self._state, self._trim, text = "reasoning", True, begun[len(self._open) :]
        if self._state == "reasoning":
            return self._reason(text)
        return "", self._trimmed(text)

    def flush(self) -> tuple[str, str]:
        """End the text; returns what was held back."""
        text, self._held = self._held, ""
        return (self._trimmed(text.rstrip()), "") if self._state == "reasoning" else ("", text)

    def _reason(self, text: str) -> tuple[str, str]:
        found = [(at, end) for end in self._ends if (at := text.find(end)) >= 0]
        if not found:
            # White space waits, and what may begin a marker: the one may stand before the other.
            body = text[: open_end(text, self._ends)].rstrip()
            self._held = text[len(body) :]
            return self._trimmed(body), ""
        at, end = min(found)
        reasoning = self._trimmed(text[:at].rstrip())
        self._state, self._trim = "content", True
        return reasoning, self._trimmed(text[at + len(end) :] if end == self._close else text[at:])

    def _trimmed(self, text: str) -> str:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text
