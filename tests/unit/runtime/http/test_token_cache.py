"""Token ids of texts seen lately: what is counted, what is kept, and how much of it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from rocmforge.runtime.http.core import token_cache
from rocmforge.runtime.http.core.token_cache import TOKEN_BYTES, CacheStats, TokenCache
from rocmforge.tests.support.fake_engine import BOS, BOS_ID, FakeTokenizer


@pytest.fixture
def tokenizer() -> Mock:
    """A tokenizer that remembers what it was asked."""
    return Mock(wraps=FakeTokenizer())


def asked(tokenizer: Mock) -> list[str]:
    return [call.args[0] for call in tokenizer.encode.call_args_list]


def cost(text: str) -> int:
    return len(text) + TOKEN_BYTES * (1 + len(text))


def test_a_text_is_tokenized_once_for_each_way_to_read_it(tokenizer: Mock) -> None:
    mark = "\ufdd0"
    cache, text = TokenCache(tokenizer), f"{BOS}a{mark}b"
    assert cache.stats() == CacheStats(0, 0, 0)
    ways = {
        (True, True, ""): (BOS_ID, BOS_ID, *f"a{mark}b".encode()),
        (False, True, ""): (BOS_ID, *f"a{mark}b".encode()),
        (True, False, ""): (BOS_ID, *text.encode()),
        (True, True, mark): (BOS_ID, BOS_ID, *b"ab"),
    }
    for _ in range(2):
        for (special, parse, hidden), ids in ways.items():
            assert cache.encode(text, special, parse, mark=hidden) == ids
    assert asked(tokenizer) == [text] * 4
    n_bytes = sum(len(text) + TOKEN_BYTES * len(ids) for ids in ways.values())
    assert cache.stats() == CacheStats(hits=4, misses=4, bytes=n_bytes)


def test_what_was_used_least_lately_makes_room(tokenizer: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "CACHE_TEXTS", 2)
    cache = TokenCache(tokenizer)
    for text in ("a", "b", "a", "c", "a", "b"):
        cache.encode(text, True)
    assert asked(tokenizer) == ["a", "b", "c", "b"]
    assert cache.stats() == CacheStats(hits=2, misses=4, bytes=2 * cost("a"))


def test_bytes_are_bounded(tokenizer: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "CACHE_BYTES", 2 * cost("abc"))
    cache = TokenCache(tokenizer)
    for text in ("abc", "def"):
        cache.encode(text, True)
    assert cache.stats().bytes == 2 * cost("abc")
    cache.encode("g", True)  # the first goes
    assert cache.stats().bytes == cost("abc") + cost("g")
    cache.encode("def", True)
    assert cache.stats().hits == 1
    cache.encode("x" * 1000, True)  # more than all: not even it stays
    assert cache.stats().bytes == 0
    assert cache.encode("def", True) == (BOS_ID, *b"def")
