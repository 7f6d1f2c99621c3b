"""Pages: who holds which, what is found again, what is forgotten first."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rocmforge.runtime.engine.kv_cache import BlockPool, block_key, root_key

BLOCK = 4


def test_blocks_for() -> None:
    pool = BlockPool(4, BLOCK)
    assert [pool.blocks_for(tokens) for tokens in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 2, 2, 3]


@given(st.lists(st.lists(st.integers(0, 200_000), min_size=BLOCK, max_size=BLOCK), max_size=4))
def test_keys_tell_pages_and_what_is_before_them_apart(pages: list[list[int]]) -> None:
    """Pages in every order and of every length: equal keys only for equal beginnings."""
    found: dict[bytes, tuple[int, ...]] = {}
    for chosen in itertools.permutations(pages):
        key = b""
        for number, page in enumerate(chosen):
            key = block_key(key, page)
            beginning = tuple(token for part in chosen[: number + 1] for token in part)
            assert found.setdefault(key, beginning) == beginning
    assert len(set(found.values())) == len(found)


@given(st.lists(st.text(max_size=20), min_size=2, unique=True), st.lists(st.integers(0, 200_000), min_size=BLOCK))
def test_F105_no_page_of_one_space_is_anothers(spaces: list[str], tokens: list[int]) -> None:
    """The first decides on all after it."""
    keys = [block_key(root_key(space), tokens[:BLOCK]) for space in spaces]
    keys += [block_key(key, tokens[-BLOCK:]) for key in keys]
    assert len(set(keys)) == len(keys)
    assert not {root_key(space) for space in spaces} & set(keys)


def test_keys_are_short_whatever_a_space_is_called() -> None:
    spaces = ("", "owner", "\ud800", "x" * 1000)
    keys = [root_key(space) for space in spaces] + [block_key(root_key("owner"), list(range(BLOCK)))]
    assert [len(key) for key in keys] == [16] * 5
    assert len(set(keys)) == 5
    # Not even where the bytes of a page are the text of a name.
    assert root_key("aaaa") != block_key(b"", [0x61616161])


def test_a_page_is_found_only_once_shared() -> None:
    pool = BlockPool(4, BLOCK)
    taken = pool.allocate(2)
    assert taken is not None
    assert pool.lookup(b"a") is None
    pool.share(taken[0], b"a")
    assert pool.lookup(b"a") == taken[0]
    assert pool.lookup(b"b") is None
    pool.free(taken)
    assert pool.num_free == 3  # `find` holds the shared one still
    pool.free([taken[0]])
    assert (pool.num_free, pool.num_cached) == (4, 1)
    assert pool.lookup(b"a") == taken[0]
    assert pool.num_free == 3


def test_the_first_of_equal_pages_stays() -> None:
    pool = BlockPool(4, BLOCK)
    first, second = pool.allocate(2) or []
    pool.share(first, b"a")
    pool.share(second, b"a")
    pool.free([first, second])
    assert (pool.lookup(b"a"), pool.num_cached) == (first, 1)


def test_the_least_recently_used_goes_first_and_of_one_chain_the_last() -> None:
    pool = BlockPool(4, BLOCK)
    chain = pool.allocate(3) or []
    for block, key in zip(chain, (b"a", b"b", b"c"), strict=True):
        pool.share(block, key)
    other = pool.allocate(1) or []
    pool.share(other[0], b"x")
    pool.free(chain)
    pool.free(other)
    assert pool.lookup(b"c") == chain[2]
    pool.free([chain[2]])  # now the last used
    for gone in (b"b", b"a", b"x", b"c"):
        assert pool.allocate(1) is not None
        assert pool.lookup(gone) is None
    assert pool.allocate(1) is None


def test_pages_without_content_go_before_those_with() -> None:
    pool = BlockPool(3, BLOCK)
    shared = pool.allocate(1) or []
    pool.share(shared[0], b"a")
    pool.free(shared)
    assert pool.allocate(2) is not None
    assert pool.num_cached == 1
    assert pool.allocate(1) == shared
    assert pool.num_cached == 0


def test_pages_in_doubt_are_not_found() -> None:
    pool = BlockPool(2, BLOCK)
    taken = pool.allocate(2) or []
    pool.share(taken[0], b"a")
    pool.invalidate(taken)
    assert (pool.lookup(b"a"), pool.num_cached) == (None, 0)
    pool.free(taken)
    assert sorted(pool.allocate(2) or []) == [0, 1]


class PoolMachine(RuleBasedStateMachine):
    """Any order of calls against a model that remembers, for each block, its holders and its content."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6, BLOCK)
        self.held: list[int] = []  # a block as often as it is held
        self.content: dict[bytes, int] = {}

    @rule(count=st.integers(0, 7))
    def take(self, count: int) -> None:
        free = 6 - len(set(self.held))
        taken = self.pool.allocate(count)
        assert (taken is None) == (count > free)
        if taken is not None:
            assert len(set(taken)) == count
            assert set(taken).isdisjoint(self.held)
            self.held += taken
            # What was evicted has no content any more, so what is written to it is never found.
            self.content = {key: block for key, block in self.content.items() if block not in taken}

    @rule(number=st.integers(0, 20))
    def give_back(self, number: int) -> None:
        if self.held:
            self.pool.free([self.held.pop(number % len(self.held))])

    @rule(number=st.integers(0, 20), key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def share(self, number: int, key: bytes) -> None:
        if self.held:
            block = self.held[number % len(self.held)]
            new = key not in self.content and block not in self.content.values()
            assert self.pool.share(block, key) == new
            if new:
                self.content[key] = block

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def find(self, key: bytes) -> None:
        block = self.pool.lookup(key)
        assert block == self.content.get(key)
        if block is not None:
            self.held.append(block)

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def forget(self, key: bytes) -> None:
        assert self.pool.knows(key) == (key in self.content)
        self.pool.forget(key)
        self.content.pop(key, None)

    @rule(number=st.integers(0, 20))
    def distrust(self, number: int) -> None:
        if self.held:
            block = self.held[number % len(self.held)]
            self.pool.invalidate([block])
            self.content = {key: other for key, other in self.content.items() if other != block}

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.pool.num_free == 6 - len(set(self.held))
        assert self.pool.num_cached == len(self.content)


TestPool = pytest.mark.slow(PoolMachine.TestCase)
TestPool.settings = settings(max_examples=200)
