"""Prefixes that are computed once."""

from __future__ import annotations

import pytest

from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.engine.sequence import ActiveSequence
from rocmforge.tests.support.scheduler_harness import make, run_alone, sequence
from rocmforge.tests.support.tokenizers import TINY


@pytest.mark.parametrize(
    "prompt, hit",
    [
        pytest.param(20, 16, id="whole-but-a-token-is-left-to-compute"),
        pytest.param(21, 20, id="whole"),
        pytest.param(18, 16, id="beginning"),
        pytest.param(40, 20, id="longer"),
        pytest.param(4, 0, id="a-page-and-nothing-left"),
        pytest.param(5, 4, id="a-page"),
        pytest.param(3, 0, id="less-than-a-page"),
    ],
)
def test_a_prefix_is_computed_once(prompt: int, hit: int) -> None:
    harness = make()
    assert run_alone(harness, sequence(0, 20, 1, alike=True)) == 20
    assert run_alone(harness, sequence(1, prompt, 1, alike=True)) == prompt - hit
    assert harness.scheduler.prefix_hit_tokens == hit


@pytest.mark.parametrize("spaces", [("alice", "bob"), ("", "bob"), ("bob", "bob")])
@pytest.mark.parametrize("together", [False, True])
def test_F105_a_prefix_is_computed_once_in_each_space(spaces: tuple[str, str], together: bool) -> None:
    """Nor are pages found in a step of both, or those after the first."""
    harness = make(max_tokens=8)
    ids = tuple(range(2, 22))
    pair = [ActiveSequence(i, GenerationRequest(ids, 1, cache_space=space), 1, TINY) for i, space in enumerate(spaces)]
    for one in pair:
        harness.add(one)
        while not together and not one.finished:
            harness.step()
    while not all(one.finished for one in pair):
        harness.step()
    shared = 16 if spaces[0] == spaces[1] else 0
    assert sum(harness.computed.values()) == 40 - shared
    assert [one.cached_tokens for one in pair] == [0, shared]
    alone = ActiveSequence(2, GenerationRequest(ids, 1, cache_space=spaces[1]), 1, TINY)
    assert run_alone(harness, alone) == 4  # its own are found


def test_an_answer_is_a_prefix_too() -> None:
    harness = make()
    first = sequence(0, 6, 7)
    run_alone(harness, first)
    again = ActiveSequence(1, GenerationRequest((*first.token_ids, 2, 3), 1), 1, TINY)
    assert run_alone(harness, again) == 15 - 12


def test_two_at_once_compute_their_prefix_once() -> None:
    """The second is admitted before the first has computed anything, and catches up page by page."""
    harness = make(max_tokens=8)
    first, second = sequence(0, 33, 2, alike=True), sequence(1, 35, 2, alike=True)
    harness.add(first, second)
    while not (first.finished and second.finished):
        harness.step()
    assert (harness.computed[0], harness.computed[1]) == (34, 36 - 32)


def test_a_page_of_a_failed_request_is_not_used_again() -> None:
    harness = make()
    one = sequence(0, 20, 5, alike=True)
    harness.add(one)
    harness.step()
    harness.scheduler.release(one, trusted=False)
    assert (harness.pool.num_free, harness.pool.num_cached) == (100, 0)
    assert run_alone(harness, sequence(1, 20, 1, alike=True)) == 20


def test_a_page_not_yet_computed_is_not_found() -> None:
    harness = make()
    one, other = sequence(0, 20, 5, alike=True), sequence(1, 20, 5, alike=True)
    harness.add(one)
    chunks = harness.scheduler.next_chunks()
    harness.add(other)
    harness.scheduler._admit()
    assert (len(chunks), other.num_computed, harness.pool.num_cached) == (1, 0, 0)
    assert set(one.blocks).isdisjoint(other.blocks)
