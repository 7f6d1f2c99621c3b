"""The policy: who is admitted, what a step computes, who gives way, and whose turn it is."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.runtime.engine.fair_queue import FairQueue
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.kv_cache import BlockPool
from rocmforge.runtime.engine.logprobs import TokenLogprobs
from rocmforge.runtime.engine.scheduler import Chunk, Scheduler, StepLimits
from rocmforge.runtime.engine.sequence import ActiveSequence
from rocmforge.runtime.engine.step import make_batch, step_logprobs
from rocmforge.tests.support.tokenizers import TINY

BLOCK = 4


def sequence(
    number: int, prompt: int, max_tokens: int, client: str = "", alike: bool = False, scored: bool = False, **s: Any
) -> ActiveSequence:
    """Prompts begin differently, so that nothing is shared, or are `alike`."""
    ids = tuple(2 + (i if alike else 7 * number + i) % 256 for i in range(prompt))
    scores = 0 if scored else None
    request = GenerationRequest(ids, max_tokens, SamplingParams(**s), client=client, prompt_logprobs=scores)
    return ActiveSequence(number, request, 1000 + number, TINY)


def take_token(one: ActiveSequence) -> None:
    one.append(2 + ord("x"), False)


def make(num_blocks: int = 100, max_tokens: int = 64, max_sequences: int = 8, prefill_tokens: int = 64) -> Harness:
    return Harness(BlockPool(num_blocks, BLOCK), StepLimits(max_tokens, max_sequences, prefill_tokens))


class Harness:
    """A scheduler, and a device that knows of each block whose tokens were written to it."""

    def __init__(self, pool: BlockPool, limits: StepLimits) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.scheduler = Scheduler(pool, limits, lambda kind, one, n: self.told.append((kind, one.request_id, n)))
        self.limits = limits
        self.cells: dict[int, tuple[int, ...]] = {}  # (block, place): all tokens up to this one
        self.computed: Counter[int] = Counter()

    @property
    def pool(self) -> BlockPool:
        return self.scheduler.pool

    @property
    def running(self) -> list[int]:
        return [one.request_id for one in self.scheduler.running]

    def add(self, *sequences: ActiveSequence) -> None:
        for one in sequences:
            self.scheduler.waiting.push(one)

    def step(self) -> list[Chunk]:
        """Choose, check, compute, append."""
        chunks = self.scheduler.next_chunks()
        self.check(chunks)
        for chunk in chunks:
            self.write(chunk)
        for chunk in chunks:
            self.read(chunk)
            chunk.sequence.take_scores([TokenLogprobs(at, 0.0) for at in chunk.scored])
            self.scheduler.computed(chunk)
            self.computed[chunk.sequence.request_id] += chunk.count
            if chunk.completes:
                take_token(chunk.sequence)
                if chunk.sequence.finished:
                    self.scheduler.release(chunk.sequence)
        return chunks

    def check(self, chunks: list[Chunk]) -> None:
        running, limits = self.scheduler.running, self.limits
        held = {block for one in running for block in one.blocks}
        assert len(held) == self.pool.num_blocks - self.pool.num_free
        assert len(running) <= limits.max_sequences
        assert all(not one.blocks and one.num_computed == 0 for one in self.scheduler.waiting)
        counts = [chunk.count for chunk in chunks]
        assert sum(counts) <= limits.max_tokens
        assert sum(chunk.num_logits for chunk in chunks) <= limits.max_sequences
        for chunk in chunks:
            end = chunk.start + chunk.count
            assert chunk.scored == chunk.sequence.unscored(chunk.start, end)  # none is passed over
        decoding = [chunk for chunk in chunks if not chunk.sequence.prefilling]
        if decoding:
            assert sum(count for count in counts if count > 1) <= limits.prefill_tokens
        for chunk in chunks:
            assert chunk.sequence in running
            assert chunk.start == chunk.sequence.num_computed
            assert 1 <= chunk.count <= chunk.sequence.num_uncomputed
        # All that decode have their token, as far as the budget goes, in the order of admission; prompts come after.
        wanting = [one for one in running if one.num_uncomputed == 1 and not one.prefilling]
        assert [chunk.sequence for chunk in decoding] == wanting[: len(decoding)]
        assert len(decoding) == len(wanting) or (max(counts) == 1 and len(chunks) == limits.max_tokens)
        last = chunks.index(decoding[-1]) if decoding else 0
        assert all(chunk.count == 1 for chunk in chunks[:last])

    def write(self, chunk: Chunk) -> None:
        one = chunk.sequence
        for position in range(chunk.start, chunk.start + chunk.count):
            block = one.blocks[position // BLOCK]
            self.cells[block * BLOCK + position % BLOCK] = tuple(one.token_ids[: position + 1])

    def read(self, chunk: Chunk) -> None:
        """What attention sees: at each place, what belongs there."""
        one = chunk.sequence
        for position in range(chunk.start + chunk.count):
            block = one.blocks[position // BLOCK]
            assert self.cells[block * BLOCK + position % BLOCK] == tuple(one.token_ids[: position + 1])


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


@settings(deadline=None, max_examples=300)
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


def run_alone(harness: Harness, one: ActiveSequence) -> int:
    """Tokens that it computed."""
    harness.add(one)
    while not one.finished:
        harness.step()
    return harness.computed[one.request_id]


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
    assert [(row.seed, row.counter, row.temperature) for row in batch.sampling] == [(1000, 1, 1.0), (1002, 0, 0.5)]
    for array in (batch.token_ids, batch.positions, batch.rows, batch.block_table, batch.logits_rows):
        assert array.dtype == np.int32
        assert array.flags.c_contiguous


def test_batch_without_logits() -> None:
    one = sequence(0, 9, 1)
    one.blocks = [0]
    batch = make_batch([Chunk(one, 0, 8)])
    assert (len(batch.token_ids), len(batch.logits_rows), list(batch.sampling)) == (8, 0, [])


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
    for chunk in chunks:
        scheduler.computed(chunk)
        good = len(chunk.drafts) if right is None else right
        if chunk.samples:
            for token in chunk.drafts[:good]:
                chunk.sequence.append(token, False)
            chunk.sequence.append(10 + len(chunk.sequence.token_ids) % 3, False)
            if chunk.drafts:
                scheduler.drafts_judged(chunk, good)
    return chunks


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
