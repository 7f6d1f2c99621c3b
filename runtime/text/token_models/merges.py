"""Byte-pair encoding over characters: the best two neighbours are joined, until no two can be.

Which are the best SentencePiece tells by the score of the token that they become, others by a list of merges.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour); Sennrich et al., https://arxiv.org/abs/1508.07909.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from ....artifacts.token_table import TokenTable
from .model import SPACE, TableModel

_LINES: Final = re.compile(r"[^\n]+|\n+")
_LINE_BEGINNINGS: Final = re.compile(rf"(?<![^\n])(?=[^\n{SPACE}])")
_SPACED_WORDS: Final = re.compile(f"{SPACE}?[^{SPACE}]+|{SPACE}")
_WHITE: Final = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_WORDS: Final = re.compile(f"[^{_WHITE}]+|[{_WHITE}]+")


_Part = TypeVar("_Part", str, int)


def join_parts(parts: list[_Part], join: Callable[[_Part, _Part], tuple[float, _Part] | None]) -> list[_Part]:
    """Join the best two neighbours, of equally good ones the first, until no two can be.

    Args:
        parts: of a text, changed by this.
        join: how good it is to join two, the least first, and what becomes of them; None: they are not joined.
    """
    end = len(parts)
    after, before = list(range(1, end + 1)), list(range(-1, end - 1))  # -1 after one that was joined to the one before
    queue: list[tuple[float, int, int, _Part, _Part]] = []

    def offer(left: int, right: int) -> None:
        found = join(parts[left], parts[right])
        if found is not None:
            heapq.heappush(queue, (found[0], left, right, parts[right], found[1]))

    for left in range(end - 1):
        offer(left, left + 1)
    while queue:
        _, left, right, was, both = heapq.heappop(queue)
        if after[left] != right or parts[right] != was:
            continue  # one of them has been joined since
        parts[left] = both
        after[left], after[right] = after[right], -1
        if after[left] < end:
            before[after[left]] = left
            offer(left, after[left])
        if before[left] >= 0:
            offer(before[left], left)
    return [part for part, following in zip(parts, after, strict=True) if following >= 0]


class Merges(TableModel):
    """Merges, of equally good ones the first in the text; what is no token in the end is spelled by its bytes."""

    def join(self, left: str, right: str) -> tuple[float, str] | None:
        """See `join_parts`."""
        raise NotImplementedError

    def tokens_of(self, segment: str) -> tuple[int, ...]:
        """Ids of a segment."""
        return tuple(i for part in join_parts(list(segment), self.join) for i in self._ids_of(part))

    def _ids_of(self, part: str) -> list[int]:
        token = self.ids.get(part)
        return self.spell(part) if token is None else [token]


class ScoreMerges(Merges):
    """SentencePiece's BPE."""

    def prepare(self, text: str, begins: bool) -> str:
        """A text with spaces as the tokens have them."""
        first = SPACE if begins and self.table.space_first else ""
        return first + text.replace(" ", SPACE)

    def join(self, left: str, right: str) -> tuple[float, str] | None:
        """By the score of the token that they become, the best first."""
        both = left + right
        token = self.ids.get(both)
        return None if token is None else (-self.table.scores[token], both)


class RankMerges(Merges):
    """BPE over characters, as Gemma 4 has it."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__(table)
        self._ranks = {merge: rank for rank, merge in enumerate(table.merges)}
        self._spaces = table.parts in ("spaces", "no_spaces")
        if not self._spaces:
            self._word_ends = re.compile(rf"(?<=\n)(?=[^\n])|{self._word_ends.pattern}")

    def prepare(self, text: str, begins: bool) -> str:
        """A text with spaces as the tokens have them; where words are parted each line begins with one."""
        if self._spaces:
            return text.lower() if self.table.lowercase else text
        escaped = text.replace(" ", SPACE)
        return _LINE_BEGINNINGS.sub(SPACE, escaped) if self.table.parts == "words" else escaped

    def join(self, left: str, right: str) -> tuple[float, str] | None:
        """By where their merge stands."""
        rank = self._ranks.get(f"{left} {right}")
        return None if rank is None else (rank, left + right)

    def spell(self, text: str) -> list[int]:
        """Ids of the bytes of a text that there are."""
        return [i for byte in text.encode() if (i := self._byte_ids.get(byte)) is not None]

    def token_bytes(self, token_id: int) -> bytes:
        """See `TokenModel`."""
        written = self._spaces and token_id not in self.bytes_of
        return self.table.texts[token_id].encode() if written else super().token_bytes(token_id)

    def _segments(self, piece: str) -> Iterator[str]:
        for part in (_WORDS if self._spaces else _LINES).findall(piece):
            if self._spaces:
                if self.table.parts == "spaces" or not _is_white(part):
                    yield part
            elif self.table.parts == "words" and part[0] != "\n":
                yield from _SPACED_WORDS.findall(part)
            elif part[0] == "\n":
                yield part
            else:
                yield from super()._segments(part)

    def tokens_of(self, segment: str) -> tuple[int, ...]:
        """Ids of a segment; the ends of several lines are one token where there is one."""
        if segment[0] == "\n" and self.table.parts in ("newline_tokens", "words") and segment in self.ids:
            return (self.ids[segment],)
        return super().tokens_of(segment)


def _is_white(part: str) -> bool:
    return _WORDS.fullmatch(part) is not None and re.match(f"[{_WHITE}]", part) is not None
