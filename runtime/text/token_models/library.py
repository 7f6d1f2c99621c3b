"""Rules of the tokenizers library, as a `tokenizer.json` gives them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Final

import tokenizers

from ..text_pieces import can_cut, pieces
from .model import SpecialText

# Characters of a text that a normalizer may have made one of.
_SHORTENED: Final = 4


class LibraryModel:
    """A tokenizer of the library, which is given text without special tokens.

    Args:
        json_text: a `tokenizer.json`.
        size: tokens of the vocabulary; ids past it stand for bytes that it lacks (see compiler/tokenizer.py).

    Raises:
        ValueError: `json_text` is not a tokenizer.
    """

    def __init__(self, json_text: str, size: int) -> None:
        self.library = load_library(json_text)
        self._size = size
        added = self.library.get_added_tokens_decoder()
        self._added = {i: token.content.encode() for i, token in added.items()}
        self.special = tuple(
            SpecialText(token.content, i, token.special, token.lstrip, token.rstrip)
            for i, token in added.items()
            if token.content and (token.special or not token.normalized)
        )
        # Text of special tokens has been cut out before the library sees it; what is left is plain.
        self.library.encode_special_tokens = True
        # SentencePiece models that mark only the first word of a text depend on what stood before a piece.
        # Those are given whole to a second instance that looks for special tokens itself.
        depends = _state_contains(self.library.pre_tokenizer, b'"prepend_scheme":"first"')
        self._whole = load_library(json_text) if depends else None
        self._byte_level = _state_contains(self.library.decoder, b"ByteLevel")
        self._cuts = can_cut(self.library)

    @property
    def encode_whole(self) -> Callable[[str], list[int]] | None:
        """See `TokenModel`."""
        return None if self._whole is None else functools.partial(self._encode, self._whole)

    @functools.cached_property
    def most_chars(self) -> int:
        """Characters of text that one token may stand for: those of the longest, and what a normalizer may drop."""
        longest = max(map(len, self.library.get_vocab(with_added_tokens=True)), default=1)
        return longest if self._cuts else longest * _SHORTENED

    def pieces(self, text: str, begins: bool) -> Iterator[str]:
        """See `TokenModel`."""
        if self._cuts is None:
            yield text
        else:
            yield from pieces(self.library, text, self._cuts)

    def encode(self, piece: str) -> list[int]:
        """See `TokenModel`."""
        return self._encode(self.library, piece)

    def token_bytes(self, token_id: int) -> bytes:
        """See `TokenModel`."""
        if token_id in self._added:
            return self._added[token_id]
        text = self.library.id_to_token(token_id)
        if text is None:
            return b""
        return byte_level_bytes(text) if self._byte_level else _sentencepiece_bytes(text)

    def _encode(self, library: tokenizers.Tokenizer, text: str) -> list[int]:
        # Of the library's ways to encode, those of batches alone let other threads run meanwhile: a text of
        # megabytes takes seconds, and a server has other clients.
        ids: list[int] = library.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return [i for i in ids if i < self._size]


def load_library(json_text: str) -> tokenizers.Tokenizer:
    """The library's tokenizer of a `tokenizer.json`.

    Raises:
        ValueError: it refuses it.
    """
    try:
        return tokenizers.Tokenizer.from_str(json_text)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"expected a tokenizer, found {error}") from None


def _state_contains(part: object, needle: bytes) -> bool:
    """Whether a component of the library's tokenizer has `needle` in its JSON form."""
    if part is None:
        return False
    state = part.__getstate__()
    return isinstance(state, bytes) and needle in state


def _char_to_byte() -> dict[str, int]:
    """Invert GPT-2's map of bytes to printable characters.

    Printable Latin-1 stands for itself; the other bytes, in order, are U+0100 and up.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _char_to_byte()
# Of each character of the map its byte; Latin-1 outside of it becomes what is no byte.
_BYTES: Final = str.maketrans({chr(code): _BYTE_OF.get(chr(code), 0x100) for code in range(0x100)} | _BYTE_OF)


def byte_level_bytes(text: str) -> bytes:
    """Undo the byte map; a character outside it stands for itself."""
    try:
        return text.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        return b"".join(bytes([_BYTE_OF[c]]) if c in _BYTE_OF else c.encode() for c in text)


def _sentencepiece_bytes(text: str) -> bytes:
    """Return the bytes of a SentencePiece token: `<0x0A>` is a byte, U+2581 a space."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass
    return text.replace("▁", " ").encode()
