"""Byte-level BPE by a bundle's tables, so that a process need not read the whole vocabulary for its first words."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import tokenizers

from ....artifacts.errors import BundleError
from ....artifacts.merge_table import MergeTable
from ..text_pieces import Cuts, can_cut, pieces
from .library import byte_level_bytes, load_library
from .merges import join_parts
from .model import SpecialText, TokenModel

# Of text: beyond it the library pays, which takes longer to load and less for a text.
_CHARS: Final = 1 << 14
_WORDS: Final = 1 << 12  # that are remembered


class LookedUpMerges:
    """Ids of the first texts by tables, of all others by the library. They are the same.

    Args:
        path: the table's file, for messages.
        table: of the vocabulary.
        rules: the library's tokenizer of the table's rules, that parts texts into words.
        cuts: where texts for it can be cut.
        size: tokens of the vocabulary; ids past it stand for bytes that it lacks.
        library: loads the whole tokenizer.
    """

    encode_whole = None

    def __init__(
        self,
        path: Path,
        table: MergeTable,
        rules: tokenizers.Tokenizer,
        cuts: Cuts,
        size: int,
        library: Callable[[], TokenModel],
    ) -> None:
        self._path = path
        self._table = table
        self._rules = rules
        self._cuts = cuts
        self._size = size
        self._load = library
        self._loaded: TokenModel | None = None
        self._loading = threading.Lock()
        self._chars = _CHARS
        self._added = {one.token_id: one.text.encode() for one in table.added}
        self.special = tuple(
            SpecialText(one.text, one.token_id, one.special, one.lstrip, one.rstrip) for one in table.added if one.text
        )
        self.most_chars = table.most_chars
        self._ids_of_word = functools.lru_cache(_WORDS)(self._ids_of)
        self._id_of_char = functools.cache(self._token_of)

    def pieces(self, text: str, begins: bool) -> Iterator[str]:
        """See `TokenModel`."""
        yield from pieces(self._rules, text, self._cuts)

    def encode(self, piece: str) -> list[int]:
        """See `TokenModel`."""
        self._chars -= len(piece)
        if self._chars < 0:
            return self._library().encode(piece)
        words: list[tuple[str, tuple[int, int]]] = self._rules.pre_tokenizer.pre_tokenize_str(piece)
        return [i for word, _ in words for i in self._ids_of_word(word) if i < self._size]

    def token_bytes(self, token_id: int) -> bytes:
        """See `TokenModel`."""
        if token_id in self._added:
            return self._added[token_id]
        return byte_level_bytes(self._table.token(token_id).decode())

    def _library(self) -> TokenModel:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _ids_of(self, word: str) -> tuple[int, ...]:
        """Ids of a word."""
        if self._table.whole_words and (whole := self._table.id_of(word)) is not None:
            return (whole,)
        return tuple(join_parts([self._id_of_char(char) for char in word], self._table.join))

    def _token_of(self, char: str) -> int:
        found = self._table.id_of(char)
        if found is None:
            raise BundleError(self._path, "order", f"expected a token {char!r}, for a byte of a text, found none")
        return found


def looked_up(path: Path, data: bytes, size: int, library: Callable[[], TokenModel]) -> TokenModel:
    """The model of a bundle's `merges.bin`; `library` itself where its rules are none whose words are known to be
    tokenized alone.

    Args:
        path: the file, for messages.
        data: what is in it.
        size: see `LookedUpMerges`.
        library: see there.

    Raises:
        BundleError: `data` is no such file.
    """
    table = MergeTable.from_bytes(path, data)
    highest = max((one.token_id for one in table.added), default=0)
    if highest >= size:
        raise BundleError(path, "added", f"expected ids below {size}, found {highest}")
    try:
        rules = load_library(table.rules)
    except ValueError as error:
        raise BundleError(path, "rules", str(error)) from None
    cuts = can_cut(rules)
    return library() if cuts is None else LookedUpMerges(path, table, rules, cuts, size, library)
