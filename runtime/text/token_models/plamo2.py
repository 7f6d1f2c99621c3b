"""PLaMo 2's rule: of all ways to part a text into tokens the one that costs least, from the end of the text on.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour).
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Final

from ....artifacts.token_table import BYTE, TokenTable
from .model import TableModel

_SCALE: Final = 1e4  # scores are compared as whole numbers of these
_UNKNOWN_COST: Final = 10_000_000


class Plamo2(TableModel):
    """The cheapest path, of equal ones that which begins with the longer token; what no token holds is spelled."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__(table)
        self._costs = {
            text: (_rounded(-score), i)
            for i, (text, kind, score) in enumerate(zip(table.texts, table.types, table.scores, strict=True))
            if kind != BYTE and math.isfinite(score)
        }
        self._most: defaultdict[str, int] = defaultdict(int)  # characters of the longest token that begins with one
        for text in self._costs:
            self._most[text[0]] = max(self._most[text[0]], len(text))
        self._most.default_factory = None

    def prepare(self, text: str, begins: bool) -> str:
        """A text without the mark of its byte order."""
        return text.removeprefix("\ufeff")

    def tokens_of(self, segment: str) -> tuple[int, ...]:
        """Ids of a segment."""
        end = len(segment)
        best: list[tuple[int, int, int | None]] = [(0, 0, None)] * (end + 1)  # cost from here on, characters, token
        for start in range(end - 1, -1, -1):
            paths: list[tuple[int, int, int | None]] = []
            for size in range(min(end - start, self._most.get(segment[start], 0)), 0, -1):
                found = self._costs.get(segment[start : start + size])
                if found is not None:
                    paths.append((best[start + size][0] + found[0], size, found[1]))
            paths.append((best[start + 1][0] + _UNKNOWN_COST, 1, None))
            best[start] = min(paths, key=lambda path: path[0])
        ids: list[int] = []
        at = 0
        while at < end:
            _, size, token = best[at]
            ids += self.spell(segment[at]) if token is None else [token]
            at += size
        return tuple(ids)

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token, as its text has them."""
        if token_id in self.bytes_of:
            return bytes([self.bytes_of[token_id]])
        return self.table.texts[token_id].encode()


def _rounded(score: float) -> int:
    """A score in whole numbers; halves go away from zero."""
    scaled = abs(score) * _SCALE
    return int(math.copysign(math.floor(scaled + 0.5), score))
