"""What a tokenizer asks of a rule, and what the rules for tables of tokens share."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from ....artifacts.dataclass import dataclass
from ....artifacts.token_table import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, TokenTable

SPACE: Final = "\u2581"  # as SentencePiece spells one
PIECE_CHARS: Final = 8192
# Segments up to this long are remembered: words, of which a text has few. Longer ones are cut further.
_WORD_CHARS: Final = 64
_WORDS: Final = 1 << 15


@dataclass(frozen=True, slots=True)
class SpecialText:
    """A token that is found in text before the text is tokenized.

    Attributes:
        text: what is looked for.
        token_id: its id.
        is_control: text that a client wrote is not read as this token.
        lstrip: white space before it goes with it.
        rstrip: white space after it does.
        white: which that is; None: all of Unicode's.
    """

    text: str
    token_id: int
    is_control: bool
    lstrip: bool
    rstrip: bool
    white: str | None = None


class TokenModel(Protocol):
    """How text without special tokens becomes tokens. Immutable, and safe to share between threads."""

    @property
    def special(self) -> Sequence[SpecialText]:
        """Tokens that are found in text first."""

    @property
    def most_chars(self) -> int:
        """Characters of text that one token may stand for, at most."""

    @property
    def encode_whole(self) -> Callable[[str], list[int]] | None:
        """Ids of a text whose special tokens have not been cut out, where what stands before a text matters."""

    def pieces(self, text: str, begins: bool) -> Iterator[str]:
        """Cut a text where its tokens do not depend on what stands beyond; `begins`: no text stands before it."""

    def encode(self, piece: str) -> list[int]:
        """Ids of one of the `pieces`."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token of the vocabulary that is not special."""


class TableModel:
    """What the rules for tables share: how a text is cut into segments, of each of which tokens are found alone.

    No token holds the two characters around a cut one after the other, so none is lost by it.
    """

    encode_whole = None
    cuts_words = True  # whether what two pieces of a word give is what the word gives

    def __init__(self, table: TokenTable) -> None:
        self.table = table
        self.ids = {text: i for i, text in enumerate(table.texts)}
        self.special = tuple(
            SpecialText(text, i, kind != USER_DEFINED, i in table.strip_left, i in table.strip_right, " \t\n\v\f\r")
            for i, (text, kind) in enumerate(zip(table.texts, table.types, strict=True))
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        )
        self.most_chars = max(map(len, table.texts))
        self._byte_ids = {byte: i for byte in range(256) if (i := self.ids.get(f"<0x{byte:02X}>")) is not None}
        self.bytes_of = {i: byte for byte, i in self._byte_ids.items() if table.types[i] == BYTE}
        before = {text[at - 1] for text in self.ids if SPACE in text[1:] for at in _places(text)}
        self._word_ends = re.compile(f"(?<![{re.escape(''.join(sorted(before)))}]){SPACE}" if before else SPACE)
        self._tokens_of_word = functools.lru_cache(_WORDS)(self.tokens_of)

    def prepare(self, text: str, begins: bool) -> str:
        """A text as it is looked up in the table."""
        raise NotImplementedError

    def tokens_of(self, segment: str) -> tuple[int, ...]:
        """Ids of a segment."""
        raise NotImplementedError

    def pieces(self, text: str, begins: bool) -> Iterator[str]:
        """See `TokenModel`: cut before words."""
        prepared = self.prepare(text, begins)
        start = 0
        while len(prepared) - start > PIECE_CHARS:
            stop = self._next_cut(prepared, start + PIECE_CHARS)
            yield prepared[start:stop]
            start = stop
        if start < len(prepared):
            yield prepared[start:]

    def _next_cut(self, text: str, at: int) -> int:
        """Where a text can be cut next: before a word, or, where none begins for long, between what no token holds."""
        found = self._word_ends.search(text, at)
        stop = len(text) if found is None else found.start()
        if not self.cuts_words or stop - at <= PIECE_CHARS:
            return stop
        return next((place for place in range(at, stop) if text[place - 1 : place + 1] not in self._pairs), stop)

    def encode(self, piece: str) -> list[int]:
        """See `TokenModel`."""
        ids: list[int] = []
        for segment in self._segments(piece):
            ids += self._tokens_of_word(segment) if len(segment) <= _WORD_CHARS else self.tokens_of(segment)
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """See `TokenModel`; those that are not used have no text."""
        if token_id in self.bytes_of:
            return bytes([self.bytes_of[token_id]])
        if self.table.types[token_id] != NORMAL:
            return b""
        return self.table.texts[token_id].replace(SPACE, " ").encode()

    def spell(self, text: str) -> list[int]:
        """Ids of a text by its bytes: of those that the vocabulary lacks, what is unknown stands for the text."""
        ids = [self._byte_ids.get(byte) for byte in text.encode()]
        if None not in ids:
            return [i for i in ids if i is not None]
        return [] if self.table.unknown is None else [self.table.unknown]

    def _segments(self, piece: str) -> Iterator[str]:
        starts = [0, *(at for found in self._word_ends.finditer(piece) if (at := found.start()) > 0), len(piece)]
        for start, stop in itertools.pairwise(starts):
            if stop - start <= _WORD_CHARS:
                yield piece[start:stop]
                continue
            begin = start
            for at in range(start + 1, stop):
                if piece[at - 1 : at + 1] not in self._pairs:
                    yield piece[begin:at]
                    begin = at
            yield piece[begin:stop]

    @functools.cached_property
    def _pairs(self) -> frozenset[str]:
        """All that stands side by side within a token."""
        return frozenset(text[at : at + 2] for text in self.ids for at in range(len(text) - 1))


def _places(text: str) -> Iterator[int]:
    """Where spaces stand in a text that are not its first character."""
    at = text.find(SPACE, 1)
    while at > 0:
        yield at
        at = text.find(SPACE, at + 1)
