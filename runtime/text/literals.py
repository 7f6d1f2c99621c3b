"""Values as Python or Gemma 4 writes them, made JSON: strings in other quotes, other words, keys without quotes."""

from __future__ import annotations

import json
import re
from typing import Final

from .chat_styles import Literals
from .json_scan import JSON

_WORDS: Final = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_BARE: Final = re.compile(r"[^\s,:\[\]{}()\"']+")
_MAX_DEPTH: Final = 100


class LiteralError(ValueError):
    """A text that is no value."""


def json_of(text: str, style: Literals) -> str:
    """The JSON of a value.

    Raises:
        LiteralError: it is none, or nested too deep.
    """
    reader = _Reader(text, style)
    value = reader.value(0)
    reader.skip()
    if reader.at < len(text):
        raise LiteralError(text)
    return value


class _Reader:
    """Goes through a text from its beginning."""

    def __init__(self, text: str, style: Literals) -> None:
        self.at = 0
        self._text = text
        self._style = style

    def skip(self) -> None:
        """White space."""
        while self._text[self.at : self.at + 1].isspace():
            self.at += 1

    def _take(self, sign: str) -> bool:
        self.skip()
        taken = self._text.startswith(sign, self.at)
        self.at += len(sign) * taken
        return taken

    def value(self, depth: int) -> str:
        """The next one."""
        if depth > _MAX_DEPTH:
            raise LiteralError
        self.skip()
        for quote in self._style.quotes:
            if self._text.startswith(quote, self.at):
                return json.dumps(self._string(quote), ensure_ascii=False)
        if self._take("{"):
            return "{" + ", ".join(self._items("}", depth, keys=True)) + "}"
        for opening, closing in (("[", "]"), ("(", ")")):
            if self._take(opening):
                return "[" + ", ".join(self._items(closing, depth, keys=False)) + "]"
        return self._word()

    def _items(self, closing: str, depth: int, keys: bool) -> list[str]:
        items: list[str] = []
        while not self._take(closing):
            if items and not self._take(","):
                raise LiteralError
            if items and self._take(closing):
                break
            items.append(f"{self._key()}: {self.value(depth + 1)}" if keys else self.value(depth + 1))
        return items

    def _key(self) -> str:
        self.skip()
        for quote in self._style.quotes:
            if self._text.startswith(quote, self.at):
                key = self._string(quote)
                break
        else:
            found = _BARE.match(self._text, self.at)
            if found is None:
                raise LiteralError
            key, self.at = found[0], found.end()
        if not self._take(":"):
            raise LiteralError
        return json.dumps(key, ensure_ascii=False)

    def _string(self, quote: str) -> str:
        start = self.at + len(quote)
        end = string_end(self._text, start, quote, self._style.escapes)
        if end < 0:
            raise LiteralError
        self.at = end + len(quote)
        body = self._text[start:end]
        return _unescaped(body) if self._style.escapes else body

    def _word(self) -> str:
        found = _BARE.match(self._text, self.at)
        if found is None:
            raise LiteralError
        self.at = found.end()
        if found[0] in _WORDS:
            return _WORDS[found[0]]
        try:
            JSON.decode(found[0])
        except ValueError:
            raise LiteralError from None
        return found[0]


def string_end(text: str, start: int, quote: str, escapes: bool) -> int:
    """Where a string ends that begins there, at its closing quote; -1 where it does not."""
    while True:
        end = text.find(quote, start)
        if end < 0 or not escapes:
            return end
        back = end
        while back > start and text[back - 1] == "\\":
            back -= 1
        if (end - back) % 2 == 0:
            return end
        start = end + 1


_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SIMPLE: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}


def _unescaped(text: str) -> str:
    """A string of Python's with its escapes read; what is none stays as it is."""

    def one(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code is None:
            return _SIMPLE.get(found[4], found[4] if found[4] in "\\'\"" else found[0])
        return chr(int(code, 16)) if int(code, 16) <= 0x10FFFF else found[0]

    # Halves of a pair, as JSON writes them, become one character.
    return _ESCAPE.sub(one, text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
