"""Token ids of texts seen lately: what is counted, what is kept, and how much of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from rocmforge.runtime.control_text import ControlTexts
from rocmforge.runtime.http import service
from rocmforge.runtime.http.service import TOKEN_BYTES, CacheStats, Look, TokenCache


class Letters:
    """A tokenizer whose tokens are letters; it notes the texts that it was asked for."""

    config = None
    control_texts = ControlTexts(())

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(
        self,
        text: str,
        add_special: bool = True,
        parse_special: bool = True,
        most: int | None = None,
        look: Look | None = None,
        mark: str = "",
    ) -> list[int]:
        self.asked.append(text)
        return [int(add_special), int(parse_special), *map(ord, text)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        return "".join(map(chr, ids))

    def token_bytes(self, token_id: int, skip_special: bool = True) -> bytes:
        return bytes([token_id])


@pytest.fixture
def letters() -> Letters:
    return Letters()


def cost(text: str) -> int:
    return len(text) + TOKEN_BYTES * (2 + len(text))


def test_a_text_is_tokenized_once_for_each_way_to_read_it(letters: Letters) -> None:
    cache = TokenCache(letters)  # type: ignore[arg-type]
    assert cache.stats() == CacheStats(0, 0, 0)
    ways = [(True, True, ""), (False, True, ""), (True, False, ""), (True, True, "mark")]
    for _ in range(2):
        for special, parse, mark in ways:
            ids = cache.encode("ab", special, parse, mark=mark)
            assert ids == (int(special), int(parse), 97, 98)
    assert letters.asked == ["ab"] * 4
    assert cache.stats() == CacheStats(hits=4, misses=4, bytes=4 * cost("ab"))


def test_what_was_used_least_lately_makes_room(letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CACHE_TEXTS", 2)
    cache = TokenCache(letters)  # type: ignore[arg-type]
    for text in ("a", "b", "a", "c", "a", "b"):
        cache.encode(text, True)
    assert letters.asked == ["a", "b", "c", "b"]
    assert cache.stats() == CacheStats(hits=2, misses=4, bytes=2 * cost("a"))


def test_bytes_are_bounded(letters: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CACHE_BYTES", 2 * cost("abc"))
    cache = TokenCache(letters)  # type: ignore[arg-type]
    for text in ("abc", "def"):
        cache.encode(text, True)
    assert cache.stats().bytes == 2 * cost("abc")
    cache.encode("g", True)  # the first goes
    assert cache.stats().bytes == cost("abc") + cost("g")
    cache.encode("def", True)
    assert cache.stats().hits == 1
    cache.encode("x" * 1000, True)  # more than all: not even it stays
    assert cache.stats().bytes == 0
    assert cache.encode("def", True) == (1, 1, *b"def")
