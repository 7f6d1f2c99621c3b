"""Drafts by prompt lookup: what followed the last tokens where they stood before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rocmforge.runtime.engine.prompt_lookup import PromptLookup


def looked_up(token_ids: list[int], limit: int) -> list[int]:
    """By search from the end, with nothing remembered."""
    for length in (3, 2):
        gram = token_ids[-length:]
        for begin in range(len(token_ids) - 1, length - 1, -1):
            if len(gram) == length and token_ids[begin - length : begin] == gram:
                found = list(token_ids)
                for index in range(begin, begin + limit):
                    found.append(found[index])
                return found[len(token_ids) :]
    return []


few = st.integers(0, 3)


@given(st.lists(few, max_size=40), st.lists(st.lists(few, max_size=5), max_size=8), st.integers(0, 4))
def test_it_finds_what_a_search_finds_however_the_text_grows(
    prompt: list[int], growth: list[list[int]], limit: int
) -> None:
    lookup, tokens = PromptLookup(4), list(prompt)
    for more in ([], *growth):
        tokens += more
        assert lookup.propose(tokens, limit) == (looked_up(tokens, limit) if limit else [])


def test_the_latest_of_the_longest_counts() -> None:
    tokens = [1, 2, 3, 10, 9, 2, 3, 11, 1, 2, 3, 12, 9, 9, 2, 3, 13, 1, 2, 3]
    assert PromptLookup(4).propose(tokens, 2) == [12, 9]
    assert PromptLookup(4).propose([*tokens[:-3], 2, 3], 2) == [13, 2]
    assert PromptLookup(4).propose([1, 2, 3, 4], 2) == []


def test_a_repetition_goes_on() -> None:
    assert PromptLookup(9).propose([5, 6, 7, 6, 7], 4) == [6, 7, 6, 7]


def test_its_length_follows_what_came_of_it() -> None:
    tokens, lookup, lengths = [1, 2] * 8, PromptLookup(12), []
    for right in (4, 8, 12, 5, 1, 0, 4):
        drafts = lookup.propose(tokens, 100)
        lengths.append(len(drafts))
        lookup.judge(len(drafts), right, len(tokens))
    assert lengths == [4, 8, 12, 12, 6, 3, 4]


def test_it_pauses_for_longer_after_each_miss_and_never_for_long() -> None:
    """After the n-th miss in a row for 2^n - 2 tokens, at most 16; one hit, and all is forgiven."""
    tokens, lookup = [1, 1, 1], PromptLookup(8)
    pauses = []
    for _ in range(7):
        pause = 0
        while not lookup.propose(tokens, 8):
            tokens.append(1)
            pause += 1
        pauses.append(pause)
        lookup.judge(4, 0, len(tokens))
    assert pauses == [0, 0, 2, 6, 14, 16, 16]
    tokens += [1] * 16
    assert lookup.propose(tokens, 8)
    lookup.judge(4, 1, len(tokens))
    lookup.judge(4, 0, len(tokens))
    assert lookup.propose(tokens, 8)


def test_a_limit_of_one() -> None:
    lookup = PromptLookup(1)
    assert lookup.propose([4, 4, 4], 8) == [4]
    lookup.judge(1, 1, 4)
    assert lookup.propose([4, 4, 4, 4], 8) == [4]
    assert lookup.propose([4, 4, 4, 4], 0) == []
