"""Guessed tokens in the scheduler's steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from rocmforge.runtime.engine.drafts import MODEL, DraftHistory, DraftPolicy
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.kv_cache import BlockPool
from rocmforge.runtime.engine.scheduler import Chunk, Scheduler, StepLimits
from rocmforge.runtime.engine.sequence import ActiveSequence
from rocmforge.runtime.engine.state_slots import StateSlots
from rocmforge.runtime.engine.step import make_batch
from rocmforge.tests.support.scheduler_harness import BLOCK, make
from rocmforge.tests.support.tokenizers import TINY


def repeating(number: int, max_tokens: int, length: int = 7, **more: Any) -> ActiveSequence:
    """A prompt of 1 2 3 1 2 3 1 and so on: what comes next is known."""
    request = GenerationRequest(tuple(10 + i % 3 for i in range(length)), max_tokens, SamplingParams(), **more)
    return ActiveSequence(number, request, 1000 + number, TINY)


def drafting(num_blocks: int = 100, max_tokens: int = 64, max_sequences: int = 8, drafts: int = 4) -> Scheduler:
    limits = StepLimits(max_tokens, max_sequences, 64, drafts)
    return Scheduler(BlockPool(num_blocks, BLOCK), limits, lambda kind, one, n: None)


def compute(scheduler: Scheduler, right: int | None = None) -> list[Chunk]:
    """A step, after which each chunk that draws has its next token, and before it so many of its drafts."""
    chunks = scheduler.next_chunks()
    take(scheduler, chunks, right)
    return chunks


def take(scheduler: Scheduler, chunks: list[Chunk], right: int | None) -> None:
    for chunk in chunks:
        scheduler.computed(chunk)
        good = len(chunk.drafts) if right is None else right
        if chunk.samples:
            for token in chunk.drafts[:good]:
                chunk.sequence.append(token, False)
            chunk.sequence.append(10 + len(chunk.sequence.token_ids) % 3, False)
            if chunk.drafts:
                scheduler.drafts_judged(chunk, good)


def drafts_of(chunks: list[Chunk]) -> list[tuple[int, ...]]:
    return [chunk.drafts for chunk in chunks]


def test_guesses_are_computed_with_the_next_token() -> None:
    scheduler, one = drafting(), repeating(0, 30)
    scheduler.waiting.push(one)
    assert drafts_of(compute(scheduler)) == [()]  # a prompt's chunk has none
    assert drafts_of(compute(scheduler)) == [(12, 10, 11, 12)]
    assert (scheduler.draft_tokens, scheduler.draft_tokens_accepted) == (4, 4)
    assert (one.num_computed, len(one.token_ids)) == (12, 13)
    assert drafts_of(compute(scheduler, right=1)) == [(11, 12, 10, 11)]
    assert (scheduler.draft_tokens, scheduler.draft_tokens_accepted) == (8, 5)
    assert (one.num_computed, len(one.token_ids)) == (14, 15)
    assert scheduler.pool.num_cached == 14 // BLOCK
    assert len(one.blocks) == 5  # those of the wrong guesses stay, for the next ones


def test_no_guesses_unless_they_are_asked_for() -> None:
    harness = make()
    one = repeating(0, 9)
    harness.add(one)
    for _ in range(4):
        assert drafts_of(harness.step()) == [()]
    assert one.lookup is None
    assert StepLimits(1, 2, 3).draft_tokens == 0


@pytest.mark.parametrize(
    "max_tokens, max_sequences, expected",
    [(64, 64, [4, 4]), (64, 8, [4, 2]), (8, 64, [4, 2]), (7, 64, [4, 1]), (6, 64, [4, 0]), (64, 5, [3, 0])],
)
def test_guesses_have_the_room_that_is_left(max_tokens: int, max_sequences: int, expected: list[int]) -> None:
    scheduler = drafting()
    for number in range(2):
        scheduler.waiting.push(repeating(number, 30))
    compute(scheduler)
    scheduler._limits = StepLimits(max_tokens, max_sequences, 64, 4)
    assert [len(drafts) for drafts in drafts_of(scheduler.next_chunks())] == expected


def test_the_last_tokens_are_not_guessed_beyond() -> None:
    scheduler = drafting()
    scheduler.waiting.push(repeating(0, 4))
    compute(scheduler)
    assert [len(drafts) for drafts in drafts_of(compute(scheduler))] == [2]


@pytest.mark.parametrize("num_blocks, count", [(3, 3), (4, 4)])
def test_nobody_gives_a_page_back_for_a_guess(num_blocks: int, count: int) -> None:
    """Of 9 tokens in pages of 4: three pages have room for three guesses more."""
    scheduler, one = drafting(num_blocks=num_blocks), repeating(0, 30, length=8)
    scheduler.waiting.push(one)
    compute(scheduler)
    [chunk] = scheduler.next_chunks()
    assert (len(chunk.drafts), len(one.blocks), scheduler.pool.num_free) == (count, num_blocks, 0)


class Always(DraftPolicy):
    """Three drafts of a model for each, and none out of the text."""

    def prefers_lookup(self, history: DraftHistory, drafts: int) -> bool:
        return False

    def plan(self, histories: Sequence[DraftHistory], lengths: Sequence[int], decoding: int, tokens: int) -> list[int]:
        return [3] * len(histories)


@pytest.mark.parametrize("made, right", [(0, 0), (1, 0), (1, 1), (3, 0), (3, 2), (3, 3)])
def test_room_for_drafts_that_a_model_makes_of_a_model_with_state(made: int, right: int) -> None:
    """A slot for each that may come; of those that did not come, and of those refused, none is left behind."""
    policy, states = Always("small", 4), StateSlots(16, BLOCK)
    limits = StepLimits(64, 8, 64, 4)
    scheduler = Scheduler(BlockPool(100, BLOCK), limits, lambda kind, one, n: None, states, policy)
    one = repeating(0, 60)
    scheduler.waiting.push(one)
    compute(scheduler)
    for _ in range(8):
        [chunk] = chunks = scheduler.next_chunks()
        assert (chunk.drafts, chunk.draft_room) == ((), 3)
        assert len(chunk.state_to) == 4
        assert min(chunk.state_to) >= 0
        chunks[0] = dataclasses.replace(chunk, drafts=(11, 12, 10)[:made], drafted_by=MODEL)
        batch = make_batch(chunks)
        assert batch.state_to is not None
        assert batch.state_to.tolist() == list(chunk.state_to[: 1 + made])
        take(scheduler, chunks, right)
        assert one.slots.current == chunk.state_to[right]
        assert not one.slots.written
    assert (policy.proposed, policy.accepted) == (8 * made, 8 * right)
    scheduler.release(one)
    assert states.pool.num_free == 16
