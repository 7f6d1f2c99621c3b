"""SentencePiece's Unigram: of all ways to part a text into tokens the one whose scores add up to the most.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour); Kudo, https://arxiv.org/abs/1804.10959.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from ....artifacts.token_table import NORMAL, UNUSED, USER_DEFINED, TokenTable
from .charsmap import Charsmap
from .model import SPACE, TableModel

_UNKNOWN_PENALTY: Final = 10.0  # below the worst token


class Unigram(TableModel):
    """The best path, found by dynamic programming; characters that no token holds, in a row, are one unknown."""

    cuts_words = False

    def __init__(self, table: TokenTable) -> None:
        super().__init__(table)
        kinds = (NORMAL, USER_DEFINED, UNUSED)
        self._scores = {
            text: (i, 0.0 if kind == USER_DEFINED else score)
            for i, (text, kind, score) in enumerate(zip(table.texts, table.types, table.scores, strict=True))
            if kind in kinds
        }
        normal = (score for kind, score in zip(table.types, table.scores, strict=True) if kind == NORMAL)
        self._unknown_score = min(normal, default=0.0) - _UNKNOWN_PENALTY
        self._most: defaultdict[str, int] = defaultdict(int)  # characters of the longest token that begins with one
        for text in self._scores:
            self._most[text[0]] = max(self._most[text[0]], len(text))
        self._most.default_factory = None
        self._charsmap = Charsmap(table.charsmap)

    def prepare(self, text: str, begins: bool) -> str:
        """A text with its characters mapped, and spaces as the tokens have them."""
        mapped = self._charsmap.apply(text)
        if self.table.merge_spaces:
            return "".join(SPACE + word for word in mapped.split(" ") if word)
        body = mapped.lstrip(" ")
        first = SPACE if body and self.table.space_first else ""
        return SPACE * (len(mapped) - len(body)) + first + body.replace(" ", SPACE)

    def encode(self, piece: str) -> list[int]:
        """Ids of a piece: unknowns of neighbouring segments are one too."""
        ids = super().encode(piece)
        unknown = self.table.unknown
        return [i for at, i in enumerate(ids) if i != unknown or at == 0 or ids[at - 1] != unknown]

    def tokens_of(self, segment: str) -> tuple[int, ...]:
        """Ids of a segment."""
        unknown = -1 if self.table.unknown is None else self.table.unknown
        end = len(segment)
        best: list[tuple[float, int, int]] = [(0.0, 0, unknown), *[(-float("inf"), 0, unknown)] * end]
        for start in range(end):
            total = best[start][0]
            for stop in range(start + 1, min(end, start + self._most.get(segment[start], 0)) + 1):
                found = self._scores.get(segment[start:stop])
                if found is not None and total + found[1] > best[stop][0]:
                    best[stop] = (total + found[1], start, found[0])
            if segment[start] not in self._scores and total + self._unknown_score > best[start + 1][0]:
                best[start + 1] = (total + self._unknown_score, start, unknown)
        ids = []
        while end > 0:
            _, end, token = best[end]
            ids.append(token)
        return tuple(i for i in reversed(ids) if i >= 0)
