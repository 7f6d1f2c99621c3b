"""Token ids of texts that were asked for lately."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ....artifacts.dataclass import dataclass
from .text_apis import Look, TokenizerApi

CACHE_TEXTS = 256
CACHE_BYTES = 8 << 20
TOKEN_BYTES = 36  # of a cached id: a pointer and an integer


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts for `/models`; `bytes` as held now."""

    hits: int
    misses: int
    bytes: int


_Key = tuple[str, bool, bool, str]


class TokenCache:
    """Token ids of texts seen lately: clients send the same prompts again. Thread-safe, bounded."""

    def __init__(self, tokenizer: TokenizerApi) -> None:
        """Cache what `tokenizer` answers."""
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._entries: OrderedDict[_Key, tuple[int, ...]] = OrderedDict()
        self._hits = self._misses = self._bytes = 0

    def encode(
        self,
        text: str,
        add_special: bool,
        parse_special: bool = True,
        most: int | None = None,
        look: Look | None = None,
        mark: str = "",
    ) -> tuple[int, ...]:
        """Return the token ids of a text; see `Tokenizer.encode`.

        Raises:
            TooManyTokensError: there are more than `most`; those are not kept.
        """
        key = (text, add_special, parse_special, mark)
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._hits += 1
                self._entries.move_to_end(key)
                return found
            self._misses += 1
        ids = tuple(self._tokenizer.encode(text, add_special, parse_special, most, look, mark))
        self._store(key, ids)
        return ids

    def _store(self, key: _Key, ids: tuple[int, ...]) -> None:
        with self._lock:
            if key in self._entries:  # another thread was faster
                return
            self._entries[key] = ids
            self._bytes += _cost(key, ids)
            while self._entries and (len(self._entries) > CACHE_TEXTS or self._bytes > CACHE_BYTES):
                self._bytes -= _cost(*self._entries.popitem(last=False))

    def stats(self) -> CacheStats:
        """Hits, misses and bytes up to now."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._bytes)


def _cost(key: _Key, ids: tuple[int, ...]) -> int:
    return len(key[0]) + TOKEN_BYTES * len(ids)
