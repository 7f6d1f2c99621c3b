"""The policy: who is admitted, what a step computes, and who holds which block."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.runtime.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.kv_cache import BlockPool
from rocmforge.runtime.scheduler import Chunk, admit, make_batch, schedule
from rocmforge.runtime.sequence import Sequence

from .test_tokenizer import TINY

BLOCK = 4


def sequence(number: int, prompt: int, max_tokens: int, **sampling: Any) -> Sequence:
    ids = tuple(2 + (number + i) % 256 for i in range(prompt))
    request = GenerationRequest(ids, max_tokens, SamplingParams(**sampling))
    return Sequence(number, request, 1000 + number, TINY)


def take_token(one: Sequence) -> None:
    one.append(2 + ord("x"), False)


@dataclass(frozen=True)
class Load:
    """Requests as (arrival in steps, prompt tokens, max_tokens), and the room there is."""

    requests: list[tuple[int, int, int]]
    num_blocks: int
    max_sequences: int
    max_tokens: int


@st.composite
def loads(draw: st.DrawFn) -> Load:
    one = st.tuples(st.integers(0, 20), st.integers(1, 40), st.integers(1, 12))
    requests = sorted(draw(st.lists(one, min_size=1, max_size=12)))
    largest = max(-(-(prompt + more) // BLOCK) for _, prompt, more in requests)
    return Load(requests, draw(st.integers(largest, 4 * largest)), draw(st.integers(1, 6)), draw(st.integers(1, 24)))


def check_chunks(chunks: list[Chunk], running: list[Sequence], max_tokens: int) -> None:
    remaining = {id(s): len(s.token_ids) - s.num_computed for s in running}
    decoding = [s for s in running if remaining[id(s)] == 1]
    prompts = [s for s in running if remaining[id(s)] > 1]
    assert 0 < sum(chunk.count for chunk in chunks) <= max_tokens
    assert sum(chunk.count for chunk in chunks) == min(max_tokens, sum(remaining.values()))
    for chunk in chunks:
        assert chunk.start == chunk.sequence.num_computed
        assert 1 <= chunk.count <= remaining[id(chunk.sequence)]
        assert chunk.completes == (chunk.count == remaining[id(chunk.sequence)])
    chosen = [chunk.sequence for chunk in chunks]
    # Decoding first, then prompts in the order of their arrival; only the last may be cut.
    assert chosen == (decoding[:max_tokens] + prompts)[: len(chosen)]
    assert all(chunk.completes for chunk in chunks[:-1])


@settings(deadline=None, max_examples=150)
@given(loads())
def test_every_request_ends_and_no_limit_is_passed(load: Load) -> None:
    arriving = deque((at, sequence(i, prompt, more)) for i, (at, prompt, more) in enumerate(load.requests))
    pool = BlockPool(load.num_blocks, BLOCK)
    waiting: deque[Sequence] = deque()
    running: list[Sequence] = []
    order: list[int] = []
    # Each step computes one token at least, and each request is computed once.
    bound = 21 + sum(prompt + more for _, prompt, more in load.requests)
    for step in range(bound):
        while arriving and arriving[0][0] <= step:
            waiting.append(arriving.popleft()[1])
        order += [one.request_id for one in admit(waiting, running, pool, load.max_sequences)]
        held = [block for one in running for block in one.blocks]
        assert len(running) <= load.max_sequences
        assert len(set(held)) == len(held) == pool.num_blocks - pool.num_free
        assert all(len(one.blocks) == pool.blocks_for(one.max_length) for one in running)
        if waiting and len(running) < load.max_sequences:
            assert pool.blocks_for(waiting[0].max_length) > pool.num_free
        if not running:
            assert not waiting
            if not arriving:
                break
            continue
        chunks = schedule(running, load.max_tokens)
        check_chunks(chunks, running, load.max_tokens)
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.count
            if chunk.completes:
                take_token(chunk.sequence)
        for one in [one for one in running if one.finished]:
            running.remove(one)
            pool.give_back(one.blocks)
    assert (list(arriving), list(waiting), running) == ([], [], [])
    assert order == sorted(order)  # nobody is overtaken
    assert pool.num_free == pool.num_blocks


def test_a_long_prompt_does_not_stop_those_that_decode() -> None:
    """Budget 8, two decoding: the prompt gets the other 6 of every step."""
    decoding = [sequence(i, 1, 50) for i in range(2)]
    prompt = sequence(2, 30, 5)
    counts = []
    while prompt.num_computed < 30:
        chunks = schedule([prompt, *decoding], 8)
        assert [chunk.sequence for chunk in chunks] == [*decoding, prompt]
        counts.append(chunks[-1].count)
        for chunk in chunks:
            chunk.sequence.num_computed += chunk.count
            if chunk.sequence is not prompt:
                take_token(chunk.sequence)
    assert counts == [6, 6, 6, 6, 6]


def test_a_large_request_at_the_head_is_waited_for() -> None:
    pool = BlockPool(10, BLOCK)
    waiting = deque([sequence(0, 16, 4), sequence(1, 36, 4), sequence(2, 1, 1)])
    running: list[Sequence] = []
    assert [one.request_id for one in admit(waiting, running, pool, 8)] == [0]
    assert admit(waiting, running, pool, 8) == []  # 2 would fit, and would starve 1
    pool.give_back(running.pop().blocks)
    assert [one.request_id for one in admit(waiting, running, pool, 8)] == [1]


def test_batch_arrays() -> None:
    first, second, third = sequence(0, 5, 9), sequence(1, 7, 9), sequence(2, 3, 9, temperature=0.5)
    first.blocks, second.blocks, third.blocks = [7, 2, 4, 9], [5], [1, 0]
    first.num_computed = 5
    take_token(first)
    batch = make_batch([Chunk(first, 5, 1), Chunk(third, 0, 3), Chunk(second, 2, 4)])
    assert batch.token_ids.tolist() == [2 + ord("x"), *third.token_ids, *second.token_ids[2:6]]
    assert batch.positions.tolist() == [5, 0, 1, 2, 2, 3, 4, 5]
    assert batch.rows.tolist() == [0, 1, 1, 1, 2, 2, 2, 2]
    assert batch.block_table.tolist() == [[7, 2, 4, 9], [1, 0, 0, 0], [5, 0, 0, 0]]
    assert batch.logits_rows.tolist() == [0, 3]  # the chunk of `second` stops before its prompt's end
    assert [(row.seed, row.counter, row.temperature) for row in batch.sampling] == [(1000, 1, 1.0), (1002, 0, 0.5)]
    for array in (batch.token_ids, batch.positions, batch.rows, batch.block_table, batch.logits_rows):
        assert array.dtype == np.int32
        assert array.flags.c_contiguous


def test_batch_without_logits() -> None:
    one = sequence(0, 9, 1)
    one.blocks = [0]
    batch = make_batch([Chunk(one, 0, 8)])
    assert (len(batch.token_ids), len(batch.logits_rows), list(batch.sampling)) == (8, 0, [])


@given(st.integers(1, 40), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_blocks_are_held_once_and_none_is_lost(num_blocks: int, actions: list[tuple[bool, int]]) -> None:
    pool, held = BlockPool(num_blocks, BLOCK), []
    for is_take, number in actions:
        if is_take:
            free = pool.num_free
            blocks = pool.take(number)
            assert (blocks is None) == (number > free)
            if blocks is None:
                assert pool.num_free == free
            else:
                assert len(blocks) == number
                held.append(blocks)
        elif held:
            pool.give_back(held.pop(number % len(held)))
        out = [block for blocks in held for block in blocks]
        assert len(set(out)) == len(out)
        assert all(0 <= block < num_blocks for block in out)
        assert pool.num_free == num_blocks - len(out)
    for blocks in held:
        pool.give_back(blocks)
    assert sorted(pool.take(num_blocks) or []) == list(range(num_blocks))
