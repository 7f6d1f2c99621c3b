"""A scheduler whose steps are played by the test."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.kv_cache import BlockPool
from rocmforge.runtime.engine.logprobs import TokenLogprobs
from rocmforge.runtime.engine.scheduler import Chunk, Scheduler, StepLimits
from rocmforge.runtime.engine.sequence import ActiveSequence
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
            waiting_for_each = (len(running) - len(decoding)) // len(decoding)
            assert sum(count for count in counts if count > 1) <= limits.prefill_tokens * max(1, waiting_for_each)
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


def run_alone(harness: Harness, one: ActiveSequence) -> int:
    """Tokens that it computed."""
    harness.add(one)
    while not one.finished:
        harness.step()
    return harness.computed[one.request_id]
