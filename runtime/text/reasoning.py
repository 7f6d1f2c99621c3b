"""Reasoning text (`<think>` ... `</think>`) split off an answer as it streams."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class ReasoningSplitter:
    """Splits a text that comes in pieces. However it is cut, the parts of all pushes and the flush are the same.

    Only what the answer begins with, but for white space, is reasoning; the markers belong to neither part, nor does
    the white space around them. An answer that ends within its reasoning is reasoning alone.

    Args:
        inside: the prompt has opened the reasoning itself, as some templates do.
    """

    def __init__(self, inside: bool = False) -> None:
        self._held = ""
        self._state = "reasoning" if inside else "start"
        self._trim = inside  # white space at the beginning of a part is left out

    def push(self, text: str) -> tuple[str, str]:
        """Take a piece; returns what is known now of the reasoning and of the content."""
        text, self._held = self._held + text, ""
        if self._state == "start":
            begun = text.lstrip()
            if len(begun) < len(OPEN) and OPEN.startswith(begun):
                self._held = text
                return "", ""
            self._state = "content"
            if begun.startswith(OPEN):
                self._state, self._trim, text = "reasoning", True, begun[len(OPEN) :]
        if self._state == "reasoning":
            return self._reason(text)
        return "", self._trimmed(text)

    def flush(self) -> tuple[str, str]:
        """End the text; returns what was held back."""
        text, self._held = self._held, ""
        return (self._trimmed(text.rstrip()), "") if self._state == "reasoning" else ("", text)

    def _reason(self, text: str) -> tuple[str, str]:
        at = text.find(CLOSE)
        if at < 0:
            # White space waits, and what may begin the marker: the one may stand before the other.
            body = text[: _marker_start(text)].rstrip()
            self._held = text[len(body) :]
            return self._trimmed(body), ""
        reasoning = self._trimmed(text[:at].rstrip())
        self._state, self._trim = "content", True
        return reasoning, self._trimmed(text[at + len(CLOSE) :])

    def _trimmed(self, text: str) -> str:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text


def _marker_start(text: str) -> int:
    """Where the end of `text` may begin the closing marker; its length where it does not."""
    for length in range(len(CLOSE), 0, -1):
        if text.endswith(CLOSE[:length]):
            return len(text) - length
    return len(text)
