"""WordPiece: of each word the longest token that begins it, then the longest that begins the rest.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour); BERT's `BasicTokenizer`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final

from ....artifacts.token_table import TokenTable
from .model import SPACE, TableModel

_WORDS_OF_PIECE: Final = 1024
# Ideographs, each of which is a word. The sixth range begins where the library of BERT's tokenizers has it.
_IDEOGRAPHS: Final = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


class _Characters(dict[int, str]):
    """What each character becomes, for `str.translate`, found when it is first met."""

    def __init__(self, lowercase: bool, strip_accents: bool) -> None:
        self._lowercase = lowercase
        self._strip_accents = strip_accents

    def __missing__(self, code: int) -> str:
        self[code] = self._mapped(chr(code))
        return self[code]

    def _mapped(self, char: str) -> str:
        if self._strip_accents:
            char = unicodedata.normalize("NFD", char)[0]
        kind = unicodedata.category(char)
        if char.isspace() and char not in "\x1c\x1d\x1e\x1f":
            return " "
        if char in "\0\ufffd" or kind in ("Cc", "Cf", "Cs", "Co") or (self._strip_accents and kind[0] == "M"):
            return ""
        lower = char.lower() if self._lowercase else char
        lower = lower if len(lower) == 1 else char
        alone = kind[0] == "P" or (char < "\x7f" and kind[0] == "S")
        if alone or any(low <= ord(char) <= high for low, high in _IDEOGRAPHS):
            return f" {lower} "
        return lower


class WordPieces(TableModel):
    """Words of BERT's kind; one that is not made of tokens throughout is unknown."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__(table)
        self._characters = _Characters(table.lowercase, table.strip_accents)

    def pieces(self, text: str, begins: bool) -> Iterator[str]:
        """Words, a thousand at a time."""
        words = text.translate(self._characters).split()
        for at in range(0, len(words), _WORDS_OF_PIECE):
            yield " ".join(words[at : at + _WORDS_OF_PIECE])

    def _segments(self, piece: str) -> Iterator[str]:
        return (SPACE + word for word in piece.split(" "))

    def tokens_of(self, segment: str) -> tuple[int, ...]:
        """Ids of a word."""
        found: list[int] = []
        start = 0
        while start < len(segment):
            stops = range(min(len(segment), start + self.most_chars), start, -1)
            stop = next((stop for stop in stops if segment[start:stop] in self.ids), None)
            if stop is None:
                return () if self.table.unknown is None else (self.table.unknown,)
            found.append(self.ids[segment[start:stop]])
            start = stop
        return tuple(found)
