"""RWKV's rule: at each place the longest token, over bytes.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from ....artifacts.token_table import TokenTable
from .model import TableModel

_ESCAPE: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
_ESCAPES: Final = {"t": "\t", "n": "\n", "r": "\r"}


class LongestMatch(TableModel):
    """Greedy matches of bytes, which stand for characters of Latin-1 here; a byte that begins no token is unknown."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__(table)
        self._bytes = [_unescaped(text) for text in table.texts]
        self._tokens = {raw.decode("latin-1"): i for i, raw in enumerate(self._bytes)}
        self._most: defaultdict[str, int] = defaultdict(lambda: 1)  # bytes of the longest token that begins with two
        for text in self._tokens:
            self._most[text[:2]] = max(self._most[text[:2]], len(text))
        self._most.default_factory = None
        self.most_chars = max(self._most.values(), default=1)

    def pieces(self, text: str, begins: bool) -> Iterator[str]:
        """The text whole: it takes memory in proportion to its length alone."""
        yield text

    def encode(self, piece: str) -> list[int]:
        """Ids of a text."""
        raw, at, ids = piece.encode().decode("latin-1"), 0, []
        while at < len(raw):
            sizes = range(self._most.get(raw[at : at + 2], 1), 0, -1)
            size = next((size for size in sizes if raw[at : at + size] in self._tokens), 0)
            if size:
                ids.append(self._tokens[raw[at : at + size]])
            elif self.table.unknown is not None:
                ids.append(self.table.unknown)
            at += size or 1
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token, which its text spells with backslashes."""
        return self._bytes[token_id]


def _unescaped(text: str) -> bytes:
    """Bytes of a token's text, in which `\\x41`, `\\t`, `\\n`, `\\r` are one each, and a backslash hides the next."""
    out, at = b"", 0
    for found in _ESCAPE.finditer(text):
        out += text[at : found.start()].encode()
        number, char = found.groups()
        out += bytes([int(number, 16)]) if number is not None else _ESCAPES.get(char, char).encode()
        at = found.end()
    return out + text[at:].encode()
