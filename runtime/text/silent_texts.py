"""Texts that an answer is read by and that nobody is shown, left out as the text streams."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .json_scan import open_end


class SilentTexts:
    """Leaves texts out of another that comes in pieces. However it is cut, what is left is the same.

    Args:
        texts: to leave out; where several stand in one place, the longest.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = tuple(sorted({text for text in texts if text}, key=len, reverse=True))
        self._any = re.compile("|".join(map(re.escape, self._texts))) if self._texts else None
        self._held = ""

    def push(self, text: str) -> str:
        """Take a piece; returns what is known now."""
        if self._any is None:
            return text
        text, self._held = self._held + text, ""
        out, at = "", 0
        while True:
            found = self._any.search(text, at)
            start = len(text) if found is None else found.start()
            # A longer one that begins no later may still be open.
            waits = at + open_end(text[at:], self._texts)
            if waits <= start:
                self._held = text[waits:]
                return out + text[at:waits]
            assert found is not None  # else the whole text would have been taken
            out, at = out + text[at:start], found.end()

    def flush(self) -> str:
        """End the text; returns what was held back."""
        text, self._held = self._held, ""
        return text if self._any is None else self._any.sub("", text)
