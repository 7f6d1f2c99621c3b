"""Slots of recurrent state: each stream is what it is alone, whatever runs beside it, and no slot is lost."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import DeviceError
from rocmforge.runtime.device.batch import Batch, Int32
from rocmforge.runtime.device.token_masks import TokenMasks
from rocmforge.runtime.engine import recovery as recovery_module
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import FINISH_CANCELLED, FINISH_FAILED, GenerationRequest
from rocmforge.runtime.engine.kv_cache import BlockPool
from rocmforge.runtime.engine.lifecycle import Lifecycle
from rocmforge.runtime.engine.request_table import RequestTable
from rocmforge.runtime.engine.scheduler import Chunk, Scheduler, StepLimits
from rocmforge.runtime.engine.sequence import ActiveSequence
from rocmforge.runtime.engine.state_slots import HeldSlots, StateSlots
from rocmforge.runtime.engine.step import run_step
from rocmforge.tests.support.engine_harness import CountingMetrics, ended, serving
from rocmforge.tests.support.state_program import BLOCK, HashingProgram, answer
from rocmforge.tests.support.tokenizers import TINY

LIMITS = StepLimits(64, 8, 64)


class Run:
    """A scheduler over the hashing program, without threads."""

    def __init__(self, slots: int, blocks: int = 200, limits: StepLimits = LIMITS) -> None:
        self.program, metrics = HashingProgram(slots, blocks), CountingMetrics()
        life = Lifecycle(metrics)
        self.scheduler = Scheduler(BlockPool(blocks, BLOCK), limits, life.tell, StateSlots(slots, BLOCK))
        self.table = RequestTable(self.scheduler, life, metrics, TokenMasks(TINY.config.vocab_size), ())

    @property
    def states(self) -> StateSlots:
        assert self.scheduler.states is not None
        return self.scheduler.states

    def add(self, number: int, prompt: tuple[int, ...], count: int, space: str = "") -> ActiveSequence:
        request = GenerationRequest(prompt, count, cache_space=space)
        one = ActiveSequence(number, request, number, TINY)
        self.table.queue([one])
        return one

    def step(self, fail: bool = False) -> list[Chunk]:
        chunks = self.scheduler.next_chunks()
        self.check()
        if chunks and fail:
            for chunk in chunks:
                self.table.finish(chunk.sequence, FINISH_FAILED, Failure("lost"))
            size = self.states.pool.size
            self.scheduler.start_over(BlockPool(self.scheduler.pool.num_blocks, BLOCK), StateSlots(size, BLOCK))
            self.program.slots.clear()
            self.program.cells.clear()
        elif chunks:
            self.table.take(chunks, run_step(self.program, chunks))
        self.check()
        return chunks

    def check(self) -> None:
        """Each slot that is not free is held by one that runs."""
        held = set()
        for one in self.scheduler.running:
            held |= set(one.slots.written.values())
            if one.slots.current is not None:
                held.add(one.slots.current)
            assert (one.slots.current is None) == (one.num_computed == 0)
        assert self.states.pool.num_free == self.states.pool.size - len(held)
        for one in self.scheduler.waiting:
            assert (one.slots.current, one.slots.written) == (None, {})

    def alone(self, number: int, prompt: tuple[int, ...], count: int = 1) -> int:
        """Run it to its end; returns how many tokens were computed."""
        before, one = self.program.computed, self.add(number, prompt, count)
        while not one.finished:
            self.step()
        assert one.token_ids[len(prompt) :] == answer(prompt, count)
        return self.program.computed - before


@dataclass(frozen=True)
class Load:
    """Requests as (arrival, tokens of a common beginning, of its own, to generate, step of its cancellation or 0)."""

    requests: list[tuple[int, int, int, int, int]]
    slots: int
    blocks: int
    limits: StepLimits
    failing: int


@st.composite
def loads(draw: st.DrawFn) -> Load:
    sizes = st.sampled_from([0, 1, 15, 16, 17, 40, 130, 200])
    one = st.tuples(st.integers(0, 15), sizes, st.integers(1, 40), st.integers(1, 30), st.integers(0, 40))
    requests = sorted(draw(st.lists(one, min_size=1, max_size=8)))
    largest = max(-(-(shared + own + more) // BLOCK) for _, shared, own, more, _ in requests)
    limits = StepLimits(
        draw(st.integers(1, 80)), draw(st.integers(1, 6)), draw(st.integers(1, 40)), draw(st.sampled_from([0, 0, 1, 4]))
    )
    blocks = draw(st.integers(largest, 3 * largest))
    return Load(requests, draw(st.integers(2, 24)), blocks, limits, draw(st.sampled_from([0, 0, 7])))


@pytest.mark.slow
@settings(max_examples=150)
@given(loads())
def test_each_stream_is_what_it_is_alone(load: Load) -> None:
    run = Run(load.slots, load.blocks, load.limits)
    arriving = deque(enumerate(load.requests))
    made: list[tuple[ActiveSequence, int]] = []
    step = 0
    while arriving or run.table.live():
        while arriving and arriving[0][1][0] <= step:
            number, (_, shared, own, more, cancelled) = arriving.popleft()
            prompt = (*range(10, 10 + shared), *(2 + number for _ in range(own)))
            made.append((run.add(number, tuple(token % 250 for token in prompt), more), cancelled))
        step += 1
        run.step(fail=step == load.failing)
        for one, cancelled in made:
            if cancelled and step >= cancelled and not one.finished:
                run.table.finish(one, FINISH_CANCELLED)
                run.check()
        assert step < 4000
    for one, cancelled in made:
        assert one.finish_reason == "length" or cancelled or load.failing
        assert one.token_ids[one.num_prompt_tokens :] == answer(one.request.prompt_token_ids, one.num_generated)
    assert run.states.pool.num_free == load.slots
    assert run.scheduler.pool.num_free == load.blocks


def ids(count: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(2 + (seed + 7 * n * n) % 200 for n in range(count))


def test_a_shared_prefix_is_computed_once() -> None:
    """The second goes on from the last multiple of 128 tokens, the third from where the second parted."""
    run = Run(64)
    shared = ids(2000)
    assert run.alone(0, (*shared, *ids(90, 1))) == 2090
    assert run.alone(1, (*shared, *ids(90, 2))) == 2090 - 1920
    assert run.alone(2, (*shared, *ids(90, 3))) == 90
    assert run.alone(3, (*shared, *ids(90, 3))) == 10


def test_a_chat_computes_only_what_is_new() -> None:
    run, said = Run(64), ids(150)
    assert run.alone(0, said, 41) == 150 + 40
    for turn in range(1, 5):
        one = (*said, *answer(said, 41))
        said = (*one, *ids(20, turn))
        known = (len(one) - 1) // BLOCK * BLOCK
        assert run.alone(turn, said, 41) == len(said) - known + 40


@pytest.mark.parametrize("slots, most", [(2, 1), (3, 1), (4, 2), (7, 3), (64, 8)])
def test_as_many_run_as_have_two_slots_each(slots: int, most: int) -> None:
    run = Run(slots)
    for number in range(8):
        run.add(number, ids(20, number), 10)
    run.step()
    assert len(run.scheduler.running) == most
    while run.table.live():
        run.step()


def test_few_slots_keep_what_is_farther_apart() -> None:
    """Of 8 slots a prompt of 2,000 takes no more than half for its way, and the next goes on from the last of them."""
    run, prompt = Run(8), ids(2000)
    kept = {length for length in range(16, 2001, 16) if run.states.worth_keeping(HeldSlots(), length, 2000)}
    assert kept == {512, 1024, 1536, 1984, 2000}
    run.alone(0, prompt)
    assert run.alone(1, (*prompt[:1600], 5)) == 1601 - 1536


def test_where_prompts_part_is_kept() -> None:
    slots = StateSlots(8, BLOCK)
    assert slots.worth_keeping(HeldSlots(parting=1600), 1600, 2000)
    assert not slots.worth_keeping(HeldSlots(parting=1600), 1616, 2000)


def test_an_answer_keeps_its_latest_boundary_alone() -> None:
    run = Run(64)
    run.alone(0, ids(20), 200)
    assert run.states.pool.num_cached == 2  # of the prompt at 16, of the answer at 208
    assert run.scheduler.pool.num_cached == 219 // BLOCK


def test_preempted_ones_go_on_from_their_latest_boundary() -> None:
    run = Run(64, blocks=8)
    first, second = run.add(0, ids(33), 60), run.add(1, ids(33, 5), 60)
    while run.table.live():
        run.step()
    assert run.scheduler.preemptions == 1
    assert run.program.computed == 2 * 92 + 63 - 32  # two blocks of the second were not needed by the first
    for one in (first, second):
        assert one.token_ids[33:] == answer(one.request.prompt_token_ids, 60)


def test_spaces_share_no_state() -> None:
    run, prompt = Run(64), ids(100)
    for number, space in enumerate(("a", "b", "a")):
        before, one = run.program.computed, run.add(number, prompt, 1, space)
        while not one.finished:
            run.step()
        assert run.program.computed - before == (4 if number == 2 else 100)


def test_F76_snapshots_of_a_sequence_that_failed_are_not_found() -> None:
    """Nor the one that it went on from."""
    run, prompt = Run(64), ids(200)
    run.alone(0, prompt)
    one = run.add(1, (*prompt, 5), 3)
    run.step()
    run.table.finish(one, FINISH_FAILED, Failure("not finite"))
    run.check()
    assert run.alone(2, (*prompt, 6)) == 201


def test_drafts_leave_half_of_the_slots_to_snapshots() -> None:
    run = Run(12, limits=StepLimits(64, 8, 64, 30))
    one = run.add(0, (5, 6, 7) * 10, 40)
    most = 0
    while not one.finished:
        most = max([most, *(len(chunk.drafts) for chunk in run.step())])
    assert 0 < most <= 6
    assert run.scheduler.draft_tokens_accepted
    assert one.token_ids[30:] == answer((5, 6, 7) * 10, 40)


def test_a_step_that_fails_gives_its_slots_back_once() -> None:
    run = Run(8)
    one, other = run.add(0, ids(30), 5), run.add(1, ids(30, 4), 5)
    run.step()
    run.step(fail=True)
    assert {one.finish_reason, other.finish_reason} == {FINISH_FAILED}
    assert run.states.pool.num_free == 8


def test_F77_a_device_that_is_lost_loses_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its steps' requests fail; those that waited run on another with fewer slots."""
    monkeypatch.setattr(recovery_module, "REBUILD_SECONDS", (0.02,))
    submitted = threading.Event()  # two run when the device is lost

    class Lost(HashingProgram):
        def step(self, batch: Batch) -> Int32:
            assert submitted.wait(10)
            if len(self.batches) == 3:
                raise DeviceError("lost")
            return super().step(batch)

    prompts = [ids(40, number) for number in range(6)]
    with serving(Lost(4), context=4096, make_program=lambda: HashingProgram(2)) as engine:
        generations = [engine.submit(GenerationRequest(prompt, 20)) for prompt in prompts]
        submitted.set()
        states = [ended(one) for one in generations]
        stats = engine.stats()
    assert [state.finish_reason for state in states].count("failed") == 2
    for prompt, state in zip(prompts, states, strict=True):
        assert list(state.tokens) == answer(prompt, len(state.tokens))
        assert state.finish_reason == "failed" or len(state.tokens) == 20
    assert (stats.state_slots_used, stats.state_slots_total, stats.pages_used) == (0, 2, 0)
