"""The policy: who is admitted, what a step computes, who gives way, and whose turn it is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.runtime.engine.embedding_sequence import EmbeddingSequence
from rocmforge.runtime.engine.embeddings import EmbeddingRequest, Pooling
from rocmforge.runtime.engine.fair_queue import FairQueue
from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.engine.kv_cache import BlockPool
from rocmforge.runtime.engine.scheduler import Chunk, StepLimits
from rocmforge.runtime.engine.sequence import ActiveSequence
from rocmforge.runtime.engine.step import make_batch, step_logprobs
from rocmforge.tests.support.scheduler_harness import BLOCK, Harness, make, run_alone, sequence, take_token
from rocmforge.tests.support.tokenizers import TINY


@dataclass(frozen=True)
class Load:
    """Requests as (arrival in steps, prompt tokens, max_tokens, client, whether scored), and the room there is."""

    requests: list[tuple[int, int, int, int, bool]]
    alike: bool
    num_blocks: int
    limits: StepLimits


@st.composite
def loads(draw: st.DrawFn) -> Load:
    one = st.tuples(st.integers(0, 20), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2), st.booleans())
    requests = sorted(draw(st.lists(one, min_size=1, max_size=12)))
    largest = max(-(-(prompt + more) // BLOCK) for _, prompt, more, _, _ in requests)
    limits = StepLimits(draw(st.integers(1, 24)), draw(st.integers(1, 6)), draw(st.integers(1, 24)))
    return Load(requests, draw(st.booleans()), draw(st.integers(largest, 3 * largest)), limits)


@pytest.mark.slow
@settings(max_examples=300)
@given(loads())
def test_every_request_ends_and_reads_only_what_it_or_its_like_wrote(load: Load) -> None:
    harness = Harness(BlockPool(load.num_blocks, BLOCK), load.limits)
    made = [
        (at, sequence(i, prompt, more, f"client {client}", load.alike, scored))
        for i, (at, prompt, more, client, scored) in enumerate(load.requests)
    ]
    arriving = deque(made)
    # The first admitted computes a token at least in each step, and is never preempted; then the next is the first.
    bound = 21 + sum(prompt + more for _, prompt, more, _, _ in load.requests)
    first: ActiveSequence | None = None
    for step in range(bound + 1):
        while arriving and arriving[0][0] <= step:
            harness.add(arriving.popleft()[1])
        harness.step()
        if first is not None and not first.finished:
            assert harness.scheduler.running[0] is first
        first = harness.scheduler.running[0] if harness.scheduler.running else None
        if not arriving and first is None and not harness.scheduler.waiting:
            break
    assert all(one.finished and one.num_generated == one.request.max_tokens for _, one in made)
    assert all(one.reuses_prefix and not one.unscored(0, one.num_prompt_tokens) for _, one in made)
    assert all(one.num_scored in (0, one.num_prompt_tokens - 1) for _, one in made)
    assert harness.pool.num_free == harness.pool.num_blocks
    hits = sum(count for kind, _, count in harness.told if kind == "prefix_hit")
    assert hits == harness.scheduler.prefix_hit_tokens
    if harness.scheduler.preemptions == 0:
        wanted = sum(prompt + more - 1 for _, prompt, more, _, _ in load.requests)
        assert sum(harness.computed.values()) == wanted - hits


def test_a_long_prompt_does_not_stop_those_that_decode() -> None:
    """Two decode, and a prompt of 30 gets 6 tokens of each step; alone it gets the whole budget."""
    harness = make(max_tokens=16, prefill_tokens=6)
    decoding = [sequence(i, 1, 50) for i in range(2)]
    harness.add(*decoding)
    harness.step()
    harness.add(sequence(2, 30, 5))
    for _ in range(5):
        assert [(chunk.sequence.request_id, chunk.count) for chunk in harness.step()] == [(0, 1), (1, 1), (2, 6)]
    assert [(chunk.sequence.request_id, chunk.count) for chunk in harness.step()] == [(0, 1), (1, 1), (2, 1)]
    alone = make(max_tokens=16, prefill_tokens=6)
    alone.add(sequence(0, 30, 5))
    assert [chunk.count for chunk in alone.step()] == [16]


def test_one_that_decodes_does_not_hold_up_many() -> None:
    """Beside one, five prompts get five times the 4 tokens; beside two, as four wait, twice; beside three, once."""
    harness = make(max_tokens=32, prefill_tokens=4)
    harness.add(sequence(0, 1, 50))
    harness.step()
    harness.add(*(sequence(i, 20, 50) for i in range(1, 6)))
    steps = [[(chunk.sequence.request_id, chunk.count) for chunk in harness.step()] for _ in range(5)]
    assert steps[0] == [(0, 1), (1, 20)]
    assert steps[1] == [(0, 1), (1, 1), (2, 8)]
    assert steps[3] == [(0, 1), (1, 1), (2, 4), (3, 4)]
    assert steps[4] == [(0, 1), (1, 1), (2, 1), (3, 4)]


def test_a_large_request_at_the_head_is_waited_for() -> None:
    harness = make(num_blocks=10)
    harness.add(sequence(0, 16, 4), sequence(1, 36, 4), sequence(2, 1, 1))
    harness.step()
    assert harness.running == [0]  # 2 would fit, and would starve 1
    for _ in range(3):
        harness.step()
    assert harness.running == []
    harness.step()
    assert harness.running == [1]


def test_admission_asks_for_the_prompt_and_a_page() -> None:
    """Of 10 pages, each prompt of 4 tokens takes 1 and 1 more, whatever its length could come to."""
    harness = make(num_blocks=10)
    harness.add(*(sequence(i, 4, 36) for i in range(8)))
    harness.step()
    assert harness.running == [0, 1, 2, 3, 4]


def test_the_last_admitted_gives_way_and_comes_first_again() -> None:
    harness = make(num_blocks=5)
    first, second, third = sequence(0, 4, 9), sequence(1, 4, 9), sequence(2, 1, 1)
    harness.add(first, second)
    while harness.scheduler.preemptions == 0:
        harness.step()
    # Both had 9 tokens and 2 pages; the first took the fifth page.
    assert harness.running == [0]
    assert harness.scheduler.waiting.first() is second
    assert ("preempted", 1, 9) in harness.told
    tokens = list(second.token_ids)
    harness.add(third)
    while not third.finished:
        harness.step()
    assert first.finished
    assert second.token_ids[:9] == tokens
    assert harness.told.index(("admitted", 2, 0)) > harness.told.index(("prefix_hit", 1, 8))
    while not second.finished:
        harness.step()
    assert [kind for kind, number, _ in harness.told if number == 1] == [
        "admitted",
        "prefilled",
        "preempted",
        "admitted",
        "prefix_hit",
        "prefilled",
    ]
    assert harness.computed[1] == 12  # nothing twice: nobody needed the pages that it had given back


def test_the_sampling_of_a_preempted_request_goes_on() -> None:
    harness = make(num_blocks=4)
    one = sequence(0, 4, 9)
    harness.add(one)
    for _ in range(3):
        harness.step()
    before = one.row_samplings()[0]
    harness.scheduler.start_over(BlockPool(4, BLOCK))
    assert (one.num_computed, one.blocks, harness.running) == (0, [], [])
    (chunk,) = harness.scheduler.next_chunks()
    assert (chunk.start, chunk.count, chunk.completes) == (0, 7, True)
    assert (one.row_samplings()[0].counter, one.row_samplings()[0].seed) == (before.counter, before.seed) == (3, 1000)


def test_clients_take_turns() -> None:
    queue = FairQueue()
    for number, client in enumerate("aaaabba"):
        queue.push(sequence(number, 1, 1, client))
    queue.push(sequence(7, 1, 1, "c"))
    popped = []
    for _ in range(3):
        first = queue.first()
        popped.append(queue.pop())
        assert popped[-1] is first
    queue.push(sequence(8, 1, 1, "b"))
    queue.push_front(sequence(9, 1, 1, "a"))
    while queue:
        popped.append(queue.pop())
    assert [one.request_id for one in popped] == [0, 4, 7, 9, 1, 5, 2, 8, 3, 6]
    with pytest.raises(IndexError):
        queue.pop()
    assert queue.first() is None


def test_out_of_turn() -> None:
    queue = FairQueue()
    made = [sequence(number, 1, 1, client) for number, client in enumerate("aab")]
    for one in made:
        queue.push(one)
    again = sequence(3, 1, 1, "b")
    queue.push_front(again)
    for one, left in ((again, 3), (made[2], 2), (made[0], 1)):
        queue.remove(one)
        assert len(queue) == len(list(queue)) == left
        with pytest.raises(ValueError, match="not in deque"):
            queue.remove(one)
    assert queue.pop() is made[1]


def test_a_client_of_many_requests_does_not_keep_another_waiting() -> None:
    """One runs at a time; a hundred of one client stand before the one of the other."""
    harness = make(max_sequences=1)
    harness.add(*(sequence(number, 1, 1, "many") for number in range(100)))
    harness.step()
    one = sequence(100, 1, 1, "one")
    harness.add(one)
    for _ in range(2):
        harness.step()
    assert one.finished


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
    assert batch.output_rows is not None
    assert batch.output_rows.tolist() == [0, 3]
    assert [(row.seed, row.counter, row.temperature) for row in batch.sampling] == [(1000, 1, 1.0), (1002, 0, 0.5)]
    for array in (
        batch.token_ids,
        batch.positions,
        batch.rows,
        batch.block_table,
        batch.logits_rows,
        batch.output_rows,
    ):
        assert array.dtype == np.int32
        assert array.flags.c_contiguous


def test_batch_without_logits() -> None:
    one = sequence(0, 9, 1)
    one.blocks = [0]
    batch = make_batch([Chunk(one, 0, 8)])
    assert (len(batch.token_ids), len(batch.logits_rows), list(batch.sampling)) == (8, 0, [])
    assert batch.output_rows is not None
    assert not len(batch.output_rows)  # none, and not all


@pytest.mark.parametrize(("pooling", "rows"), [("mean", [0, 1, 2, 3, 4, 5]), ("last", [0, 5])])
def test_outputs_are_asked_for_where_hidden_states_are_read(pooling: Pooling, rows: list[int]) -> None:
    """Those of an embedding's tokens beside rows of logits; a token of both is there once, and all are None."""
    decoding, reading = sequence(0, 5, 9), sequence(1, 9, 9)
    embedding = EmbeddingSequence(2, EmbeddingRequest((1, 2, 3, 4, 5), pooling), TINY)
    for one in (decoding, reading, embedding):
        one.blocks = [0]
    batch = make_batch([Chunk(decoding, 4, 1), Chunk(embedding, 0, 5), Chunk(reading, 0, 4)])
    assert batch.output_rows is not None
    assert batch.output_rows.tolist() == rows
    scored = make_batch([Chunk(reading, 5, 4, (7,), range(7, 9))])
    assert scored.output_rows is not None
    assert scored.output_rows.tolist() == [2, 3, 4]
    assert make_batch([Chunk(decoding, 4, 1, drafts=(7, 8))]).output_rows is None


def test_what_a_chunk_computes_and_draws() -> None:
    one, prompt_only = sequence(0, 5, 9), sequence(1, 5, 0)
    facts = [
        (chunk.completes, chunk.samples, chunk.num_tokens, chunk.num_drawn, chunk.num_logits, chunk.logits_rows(10))
        for chunk in (
            Chunk(one, 0, 4),
            Chunk(one, 1, 4),
            Chunk(one, 4, 1, drafts=(7, 8)),
            Chunk(one, 2, 3, (7,), range(3, 5)),
            Chunk(one, 1, 3, scored=range(2, 4)),
            Chunk(prompt_only, 0, 5),
            Chunk(prompt_only, 0, 5, scored=range(4)),
        )
    ]
    assert facts == [
        (False, False, 4, 0, 0, []),
        (True, True, 4, 1, 1, [13]),
        (True, True, 3, 3, 3, [10, 11, 12]),
        (True, True, 4, 2, 4, [11, 12, 12, 13]),
        (False, False, 3, 0, 2, [11, 12]),
        (True, False, 5, 0, 0, []),
        (True, False, 5, 0, 4, [10, 11, 12, 13]),
    ]


def test_a_batch_of_drafts_and_scored_positions() -> None:
    one, other = sequence(0, 5, 9, temperature=0.5), sequence(1, 3, 9, scored=True)
    one.blocks, other.blocks = [3, 1], [2]
    one.num_computed = 4
    batch = make_batch([Chunk(one, 4, 1, drafts=(7, 8)), Chunk(other, 0, 3, scored=range(2))])
    assert batch.token_ids.tolist() == [one.token_ids[4], 7, 8, *other.token_ids]
    assert batch.positions.tolist() == [4, 5, 6, 0, 1, 2]
    assert batch.rows.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.block_table.tolist() == [[3, 1], [2, 0]]
    assert batch.logits_rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert [(row.temperature, row.seed, row.counter) for row in batch.sampling] == [
        *((0.5, 1000, counter) for counter in range(3)),
        *((0.0, 0, 0) for _ in range(2)),
        (1.0, 1001, 0),
    ]


def test_what_was_cached_is_counted_once() -> None:
    harness = make(num_blocks=30)
    run_alone(harness, sequence(0, 20, 1, alike=True))
    one = sequence(1, 30, 5, alike=True)
    harness.add(one)
    harness.step()
    assert (one.cached_tokens, one.num_generated) == (20, 1)
    harness.scheduler._preempt()
    harness.step()
    assert one.cached_tokens == 20  # what it finds of its own was not cached before
    assert harness.scheduler.prefix_hit_tokens == 20 + 28


def test_what_is_preempted_within_its_prompt_was_not_cached_before() -> None:
    harness = make(num_blocks=30, max_tokens=8)
    run_alone(harness, sequence(0, 8, 1, alike=True))
    one = sequence(1, 30, 5, alike=True)
    harness.add(one)
    harness.step()
    assert (one.cached_tokens, one.num_computed) == (8, 16)
    harness.scheduler._preempt()
    harness.step()
    assert (one.cached_tokens, one.num_computed) == (8, 24)
    harness.scheduler._preempt()
    while not one.finished:
        harness.step()
    assert one.cached_tokens == 8


def test_what_is_found_while_there_is_no_room_was_cached() -> None:
    harness = make(num_blocks=8)
    run_alone(harness, sequence(0, 8, 1, alike=True))
    first, second = sequence(1, 16, 4), sequence(2, 16, 1, alike=True)
    harness.add(first, second)
    harness.step()
    assert (harness.running, second.cached_tokens) == ([1], 0)
    while not second.finished:
        harness.step()
    assert second.cached_tokens == 8


class Rows:
    """A program of which only logits are asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def logits(self, count: int) -> Any:
        self.asked.append(count)
        rows = np.zeros((count, 4), np.float32)
        rows[np.arange(count), np.arange(count) % 4] = 9
        return rows


def test_log_probabilities_are_of_what_each_row_is_about() -> None:
    def of(number: int, **more: Any) -> ActiveSequence:
        return ActiveSequence(number, GenerationRequest((1, 2, 3), 9, **more), 7, TINY)

    scored, plain, asked = of(0, prompt_logprobs=1), of(1), of(2, logprobs=0)
    chunks = [Chunk(scored, 0, 3, scored=range(2)), Chunk(plain, 0, 3), Chunk(asked, 2, 1, drafts=(3,))]
    program: Any = Rows()
    found = step_logprobs(program, chunks, [0, 0, 0, 0, 2, -1])
    assert [None if one is None else (one.token, one.rank, len(one.top)) for one in found] == [
        (2, 3, 1),  # of the prompt, whatever was drawn
        (3, 4, 1),
        None,
        None,
        (2, 4, 0) if found[4] is None else (found[4].token, found[4].rank, 0),
        None,
    ]
    assert found[4] is not None
    assert (found[4].token, program.asked) == (2, [6])
    assert step_logprobs(program, chunks[1:2], [3]) == [None]
    assert program.asked == [6]  # nobody wants them
