"""Text to token ids and back, and the two things that streaming needs: whole characters and stop strings."""

from __future__ import annotations

import codecs
import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ...artifacts.tokenizer_config import TokenizerConfig
from .control_text import ControlTexts, shown
from .token_models.model import SpecialText, TokenModel

# A piece of text beyond this is tokenized alone, and the memory that it took is given back.
LARGE_CHARS: Final = 1 << 16
_large = threading.Lock()


class TooManyTokensError(Exception):
    """A text has more tokens than were asked for.

    Attributes:
        ids: those that were found, from its beginning.
        count: how many it has at least.
    """

    def __init__(self, ids: list[int], count: int):
        super().__init__(f"at least {count} tokens")
        self.ids = ids
        self.count = count


class Tokenizer:
    """A bundle's tokenizer. Immutable once built, and safe to share between threads.

    Args:
        rule: how plain text becomes tokens: a `tokenizer.json`, as the compiler wrote it, or its model.
        config: the special tokens, from the manifest.

    Raises:
        ValueError: `rule` is a text that is no tokenizer.
    """

    def __init__(self, rule: str | TokenModel, config: TokenizerConfig):
        self.config = config
        if isinstance(rule, str):
            from .token_models.choice import token_model  # noqa: PLC0415 - of all kinds, of which tables need none

            rule = token_model(rule, config.vocab_size)
        self._model = rule
        # Longest first, in bytes, and by id among equals: the order in which llama.cpp looks for them.
        self._special = tuple(
            sorted(self._model.special, key=lambda special: (-len(special.text.encode()), special.token_id))
        )
        self._special_bytes = {special.token_id: special.text.encode() for special in self._special}
        self._control_ids = frozenset(special.token_id for special in self._special if special.is_control)
        self.control_texts = ControlTexts(special.text for special in self._special if special.is_control)

    def encode(
        self,
        text: str,
        add_special: bool = True,
        parse_special: bool = True,
        most: int | None = None,
        look: Callable[[], None] | None = None,
        mark: str = "",
    ) -> list[int]:
        """Tokenize a text, a long one in pieces.

        Args:
            text: any string; lone surrogates are read as U+FFFD.
            add_special: add BOS and EOS where the model wants them.
            parse_special: read the text of control tokens as those tokens; where False it is plain text.
                User-defined tokens, which are text to the model, are found either way.
            most: give up beyond so many tokens; None: however many there are.
            look: called between pieces; what it raises ends this.
            mark: what control texts that are none were marked with, and is no part of the text; see `control_text`.

        Returns:
            int[T], each below `config.vocab_size`.

        Raises:
            TooManyTokensError: there are more than `most`.
        """
        text = _without_surrogates(text)
        ids: list[int] = []
        if add_special and self.config.add_bos and self.config.bos_token_id is not None:
            ids.append(self.config.bos_token_id)
        whole = self._model.encode_whole if parse_special and not mark else None
        for piece in self._pieces(text, parse_special, mark) if whole is None else [text]:
            if look is not None:
                look()
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._encode_piece(whole or self._model.encode, piece, ids, most)
            if most is not None and len(ids) > most:
                raise TooManyTokensError(ids, len(ids))
        if add_special and self.config.add_eos and self.config.eos_token_id is not None:
            ids.append(self.config.eos_token_id)
        return ids

    @property
    def end_texts(self) -> tuple[str, ...]:
        """Texts of the tokens that end an answer."""
        return tuple(self.decode([token], skip_special=False) for token in self.config.eos_token_ids)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Return the text of token ids; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: token ids; those outside the vocabulary have no text.
            skip_special: leave out control tokens, else spell them.
        """
        return b"".join(self.token_bytes(i, skip_special) for i in ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int, skip_special: bool = True) -> bytes:
        """Return the exact bytes of one token, which may be a part of a character.

        Args:
            token_id: any integer; outside the vocabulary there are no bytes.
            skip_special: b"" for control tokens, else their text.
        """
        if not 0 <= token_id < self.config.vocab_size:
            return b""
        if token_id in self._special_bytes:
            return b"" if skip_special and token_id in self._control_ids else self._special_bytes[token_id]
        return self._model.token_bytes(token_id)

    def _pieces(self, text: str, parse_special: bool, mark: str) -> Iterator[str | int]:
        """Ids of special tokens, and texts whose tokens do not depend on what stands around them."""
        begins = True
        for piece in self._split(text, parse_special, mark):
            if isinstance(piece, str):
                yield from self._model.pieces(piece, begins)
            else:
                yield piece
            begins = isinstance(piece, int)

    def _encode_piece(
        self, encode: Callable[[str], list[int]], text: str, before: list[int], most: int | None
    ) -> list[int]:
        """Tokens of a piece.

        Raises:
            TooManyTokensError: by its length alone it has more than are left of `most`.
        """
        if len(text) <= LARGE_CHARS:
            return encode(text)
        least = len(text) // self._model.most_chars
        if most is not None and len(before) + least > most:
            raise TooManyTokensError(before, len(before) + least)
        with _large:
            ids = encode(text)
            _give_memory_back()
        return ids

    def _split(self, text: str, parse_special: bool, mark: str) -> Iterator[str | int]:
        """Cut special tokens out; once they are, the mark is taken out of the rest."""
        for piece in self._split_special(text, parse_special):
            if isinstance(piece, str) and mark:
                yield from self._split_special(shown(piece, mark), parse_special=False)
            else:
                yield piece

    def _split_special(self, text: str, parse_special: bool) -> list[str | int]:
        """Cut special tokens out of a text: each one everywhere, the longest first."""
        pieces: list[str | int] = [text] if text else []
        for special in self._special:
            if special.text not in text or (special.is_control and not parse_special):
                continue
            cut: list[str | int] = []
            for piece in pieces:
                cut += [piece] if isinstance(piece, int) else _cut(piece, special)
            pieces = cut
        return pieces


class StreamDecoder:
    """Turns token ids into text as they come, never splitting a character.

    An incomplete UTF-8 sequence waits for its rest; bytes become U+FFFD as soon as they cannot become a
    character. All pushes and the flush together equal `Tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True, kept: Iterable[int] = ()):
        """Of this tokenizer; control tokens are left out, but for those that are `kept`, or else spelled."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._kept = frozenset(kept)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Take one token; return the text that is complete with it, maybe ""."""
        skipped = self._skip_special and token_id not in self._kept
        return self._decoder.decode(self._tokenizer.token_bytes(token_id, skipped))

    def flush(self) -> str:
        """End the stream: an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Finds the first stop string in a text that comes in pieces.

    The first match is the one that begins earliest. Text that may yet turn out to begin a stop string is
    held back; nothing else is.

    Args:
        stops: stop strings; empty ones are ignored.
    """

    def __init__(self, stops: tuple[str, ...]):
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self._stopped = False
        self.matched: str | None = None  # the stop string that was met

    def push(self, text: str) -> tuple[str, bool]:
        """Take a piece of text.

        Returns:
            The text that can be shown now, and whether a stop string was met; with True, that is all text
            before it, and later pushes give ("", True).
        """
        if self._stopped:
            return "", True
        window = self._held + text
        hold = self._first_open_start(window)
        found = [(at, stop) for stop in self._stops if (at := window.find(stop)) >= 0]
        # A longer stop string that begins earlier may still be open: it could win, so it is waited for.
        if found and min(found)[0] <= hold:
            self._stopped = True
            at, self.matched = min(found)
            return window[:at], True
        self._held = window[hold:]
        return window[:hold], False

    def flush(self) -> str:
        """End the text: return what was held back and is shown after all."""
        if self._stopped:
            return ""
        window, self._held = self._held, ""
        found = [(at, stop) for stop in self._stops if (at := window.find(stop)) >= 0]
        if not found:
            return window
        self._stopped = True
        at, self.matched = min(found)
        return window[:at]

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been met; `flush` may still find one that an open longer one hid."""
        return self._stopped

    def _first_open_start(self, window: str) -> int:
        """Return the first index from which the rest of `window` is a proper beginning of a stop string."""
        starts = (
            at
            for stop in self._stops
            for at in range(max(0, len(window) - len(stop) + 1), len(window))
            if stop.startswith(window[at:])
        )
        return min(starts, default=len(window))


def _cut(piece: str, special: SpecialText) -> list[str | int]:
    """Return `piece` with every occurrence of a special token replaced by its id."""
    out: list[str | int] = []
    parts = piece.split(special.text)
    for i, part in enumerate(parts):
        text = part
        if i > 0:
            out.append(special.token_id)
            text = text.lstrip(special.white) if special.rstrip else text
        if i < len(parts) - 1 and special.lstrip:
            text = text.rstrip(special.white)
        if text:
            out.append(text)
    return out


def _give_memory_back() -> None:
    """Return freed memory to the system: C's allocator keeps that of many small pieces."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _without_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
