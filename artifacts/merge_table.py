"""Byte-level BPE as a bundle's `merges.bin` holds it: sorted tables, in which a text's tokens are looked up.

Of a `tokenizer.json` the library builds all that it will ever need before the first token is known, which takes longer
than all else that a process does until then. Of these tables nothing is built: they are read, checked and searched.

All numbers are little-endian. `docs/bundles.md` has the fields.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgpack
import numpy as np

from .checker import Checker
from .dataclass import dataclass

MERGES_NAME: Final = "merges.bin"
_LOW: Final = (1 << 32) - 1
_Kind = Literal["I", "Q"]
_TABLES: Final[Mapping[str, _Kind]] = {"ends": "I", "order": "I", "pairs": "Q", "joins": "Q"}  # their numbers' types
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in text before the text is tokenized: `special`, it is no text that a client may write as
    plain; `lstrip` and `rstrip`, white space before or after goes with it."""

    text: str
    token_id: int
    special: bool
    lstrip: bool
    rstrip: bool


@dataclass(frozen=True, slots=True)
class MergeTable:
    """Tokens and merges of a vocabulary.

    Attributes:
        rules: a `tokenizer.json` without tokens and merges: how a text is parted into words, and tokens become text.
        added: tokens that are found in text first.
        whole_words: a word that is a token is not merged.
        most_chars: characters of the longest token.
        texts: UTF-8 of all tokens, one after the other, by id; an id without a token has none.
        ends: uint32 each, where a token's text ends in `texts`.
        order: uint32 each, ids of the tokens in the order of their texts' bytes.
        pairs: uint64 each, ascending: the id of a left part, times 2^32, and that of a right part.
        joins: uint64 each, of each pair: its rank, the least of which is joined first, times 2^32, and the id of both.
    """

    rules: str
    added: tuple[AddedToken, ...]
    whole_words: bool
    most_chars: int
    texts: bytes
    ends: memoryview
    order: memoryview
    pairs: memoryview
    joins: memoryview

    @classmethod
    def of(
        cls,
        rules: str,
        added: Sequence[AddedToken],
        vocab: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        whole_words: bool = False,
    ) -> MergeTable:
        """Make the table of a vocabulary. Of equal merges the last counts, as in the library.

        Raises:
            KeyError: a merge is of tokens that are none, or makes none.
        """
        by_id = {token_id: text.encode() for text, token_id in vocab.items()}
        ends, end = array("I"), 0
        for token_id in range(max(by_id) + 1):
            end += len(by_id.get(token_id, b""))
            ends.append(end)
        order = array("I", sorted((i for i, text in by_id.items() if text), key=by_id.__getitem__))
        found = {
            vocab[left] << 32 | vocab[right]: rank << 32 | vocab[left + right]
            for rank, (left, right) in enumerate(merges)
        }
        pairs = array("Q", sorted(found))
        joins = array("Q", (found[pair] for pair in pairs))
        most = max((len(text) for text in (*vocab, *(one.text for one in added))), default=1)
        texts = b"".join(by_id.get(i, b"") for i in range(len(ends)))
        tables = (memoryview(ends), memoryview(order), memoryview(pairs), memoryview(joins))
        return cls(rules, tuple(added), whole_words, most, texts, *tables)

    def to_bytes(self) -> bytes:
        """Return the file; equal tables give equal bytes."""
        fields: dict[str, object] = {
            "rules": self.rules,
            "added": [[one.text, one.token_id, one.special, one.lstrip, one.rstrip] for one in self.added],
            "whole_words": self.whole_words,
            "most_chars": self.most_chars,
            "texts": self.texts,
        }
        packed: bytes = msgpack.packb(fields | {name: _swapped(getattr(self, name)).tobytes() for name in _TABLES})
        return packed

    @classmethod
    def from_bytes(cls, path: Path, data: bytes) -> MergeTable:
        """Read what `to_bytes` wrote; `path`: the file, for messages.

        Raises:
            BundleError: it is something else; names the field.
        """
        check = Checker(path)
        try:
            fields = msgpack.unpackb(data)
        except (ValueError, msgpack.UnpackException) as error:
            check.fail("msgpack", f"expected a table of merges, found malformed data ({error!r:.80})")
        if not isinstance(fields, dict):
            check.fail("msgpack", f"expected a table of merges, found {type(fields).__name__}")
        added = check.array(fields.get("added"), "added", high=len(data))
        table = cls(
            check.text(fields.get("rules"), "rules", len(data)),
            tuple(_added_token(check, one, f"added[{index}]") for index, one in enumerate(added)),
            _of_type(check, fields.get("whole_words"), "whole_words", bool),
            check.integer(fields.get("most_chars"), "most_chars", 1),
            _of_type(check, fields.get("texts"), "texts", bytes),
            *(_numbers(check, fields.get(name), name, kind) for name, kind in _TABLES.items()),
        )
        _check_tables(check, table)
        return table

    def token(self, token_id: int) -> bytes:
        """UTF-8 of a token as the vocabulary spells it; b"" where the id has none."""
        if not 0 <= token_id < len(self.ends):
            return b""
        return self.texts[self.ends[token_id - 1] if token_id else 0 : self.ends[token_id]]

    def id_of(self, text: str) -> int | None:
        """Id of a token by its text."""
        sought = text.encode()
        at = bisect_left(self.order, sought, key=self.token)
        return self.order[at] if at < len(self.order) and self.token(self.order[at]) == sought else None

    def join(self, left: int, right: int) -> tuple[int, int] | None:
        """Rank of two parts, and the id of both as one; None where they are not joined."""
        pair = left << 32 | right
        at = bisect_left(self.pairs, pair)
        if at == len(self.pairs) or self.pairs[at] != pair:
            return None
        return self.joins[at] >> 32, self.joins[at] & _LOW


def _of_type(check: Checker, value: object, field: str, kind: type[_Value]) -> _Value:
    if not isinstance(value, kind):
        check.fail(field, f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _added_token(check: Checker, value: object, field: str) -> AddedToken:
    text, token_id, *flags = check.array(value, field, 5, 5)
    return AddedToken(
        check.text(text, field, sys.maxsize, empty=True),
        check.integer(token_id, field, 0, _LOW),
        *(_of_type(check, flag, field, bool) for flag in flags),
    )


def _numbers(check: Checker, value: object, field: str, kind: _Kind) -> memoryview:
    data = memoryview(_of_type(check, value, field, bytes))
    size = array(kind).itemsize
    if len(data) % size:
        check.fail(field, f"expected a multiple of {size} bytes, found {len(data)}")
    return _swapped(data.cast(kind))


def _check_tables(check: Checker, table: MergeTable) -> None:
    """Refuse tables that do not fit each other: what is looked up in them is text, and ids of their tokens.

    Whether `order` is that of the texts is not seen: it would take as long as to sort them.
    """
    ends, order, pairs, joins = map(np.asarray, (table.ends, table.order, table.pairs, table.joins))
    count, n_bytes = len(ends), len(table.texts)
    if (ends[1:] < ends[:-1]).any() or ends[-1:].sum() != n_bytes:
        check.fail("ends", f"expected ascending numbers, the last {n_bytes}, found others")
    try:
        table.texts.decode()
    except UnicodeDecodeError as error:
        check.fail("texts", f"expected UTF-8, found {error}")
    if (np.frombuffer(table.texts, np.uint8)[ends[ends < n_bytes]] & 0xC0 == 0x80).any():
        check.fail("ends", "expected ends of characters, found one within a character")
    n_tokens = np.count_nonzero(np.diff(ends, prepend=ends.dtype.type(0)))
    if len(order) != n_tokens or (order >= count).any():
        check.fail("order", f"expected ids of {n_tokens} tokens below {count}, found {len(order)}, or higher ones")
    if (pairs[1:] <= pairs[:-1]).any():
        check.fail("pairs", "expected ascending numbers, found others")
    if len(joins) != len(pairs) or (joins & _LOW >= count).any():
        check.fail("joins", f"expected {len(pairs)} with ids below {count}, found {len(joins)}, or higher ones")


def _swapped(table: memoryview) -> memoryview:
    """A table of the file in this machine's order of bytes, or the other way round."""
    if sys.byteorder == "little":
        return table
    numbers = array(table.format, table)
    numbers.byteswap()
    return memoryview(numbers)
