"""Which tokens the next step computes, and who holds which pages: pure policy, no device.

Decoding sequences come first, one token each. What is left of the step's budget goes to prompts, in the order of their
admission, cut into chunks; beside others that decode they get a small budget only, so that nobody's next token waits
for a long prompt. A sequence is admitted once its prompt and one page more are free. Where pages run out later, the
last admitted gives its own back and is computed again when there is room: the first admitted always goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .batch import Batch
from .fair_queue import FairQueue
from .kv_cache import BlockPool, page_key
from .lifecycle import ADMITTED, PREEMPTED, PREFILLED, PREFIX_HIT
from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start .. start + count - 1` of a sequence, to be computed in this step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def completes(self) -> bool:
        """Whether it is the last of what the sequence has now."""
        return self.start + self.count == len(self.sequence.token_ids)

    @property
    def samples(self) -> bool:
        """Whether a next token follows from it."""
        return self.completes and self.sequence.samples


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What a step may hold.

    Attributes:
        max_tokens: tokens in all.
        max_sequences: sequences admitted at once.
        prefill_tokens: tokens of prompts, where others decode.
    """

    max_tokens: int
    max_sequences: int
    prefill_tokens: int


class Scheduler:
    """Queue, running sequences and pages. Not thread-safe: the engine's lock guards it."""

    def __init__(self, pool: BlockPool, limits: StepLimits, tell: Callable[[str, Sequence, int], None]) -> None:
        """Args: pages, limits, and who is told of a sequence's turns."""
        self.pool = pool
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  # in the order of admission
        self.prefix_hit_tokens = 0
        self.preemptions = 0
        self._limits = limits
        self._tell = tell

    def next_chunks(self) -> list[Chunk]:
        """Chunks of the next step; empty only where there is nothing to do."""
        self._grow()
        self._admit()
        return self._choose()

    def computed(self, chunk: Chunk) -> None:
        """A step has computed a chunk: pages that it filled may be shared."""
        sequence, size = chunk.sequence, self.pool.block_size
        sequence.num_computed += chunk.count
        for index in range(chunk.start // size, sequence.num_computed // size):
            self.pool.share(sequence.blocks[index], _key(sequence, index, size))
        if sequence.prefilling and chunk.completes:
            sequence.prefilling = False
            self._tell(PREFILLED, sequence, sequence.num_computed)

    def release(self, sequence: Sequence, trusted: bool = True) -> None:
        """A sequence has ended: out of queue or step, its pages back; not `trusted`: nobody shall use them again."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        if not trusted:
            self.pool.distrust(sequence.blocks)
        self._give_back(sequence)

    def start_over(self, pool: BlockPool) -> None:
        """Nothing that was computed can be trusted: all that run are queued again, with an empty cache."""
        while self.running:
            self._preempt()
        self.pool = pool

    def _grow(self) -> None:
        """A page for each sequence whose next token needs one; the last admitted gives its pages back for it."""
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            if self.pool.blocks_for(len(sequence.token_ids)) <= len(sequence.blocks):
                index += 1
            elif (taken := self.pool.take(1)) is not None:
                sequence.blocks += taken
            else:
                self._preempt()  # perhaps itself, then it is the last

    def _preempt(self) -> None:
        sequence = self.running.pop()
        self._give_back(sequence)
        self.waiting.push_front(sequence)
        self.preemptions += 1
        self._tell(PREEMPTED, sequence, len(sequence.token_ids))

    def _give_back(self, sequence: Sequence) -> None:
        self.pool.give_back(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = 0

    def _admit(self) -> None:
        """Those whose turn it is, while there is room. A large one at the head is waited for, not overtaken."""
        while len(self.running) < self._limits.max_sequences and (sequence := self.waiting.first()) is not None:
            hit = self._reuse(sequence)
            needed = self.pool.blocks_for(len(sequence.token_ids)) + 1
            needed = min(needed, self.pool.blocks_for(sequence.max_length))
            taken = self.pool.take(needed - len(sequence.blocks))
            if taken is None:
                self._give_back(sequence)
                break
            sequence.blocks += taken
            sequence.prefilling = True
            self.running.append(self.waiting.pop())
            self._tell(ADMITTED, sequence, 0)
            self._count_hit(sequence, hit)

    def _choose(self) -> list[Chunk]:
        limits = self._limits
        decoding = [one for one in self.running if one.num_uncomputed == 1][: limits.max_tokens]
        chunks = [Chunk(one, one.num_computed, 1) for one in decoding]
        budget = limits.max_tokens - len(chunks)
        if chunks:
            budget = min(budget, limits.prefill_tokens)
        for sequence in self.running:
            if budget > 0 and sequence.num_uncomputed > 1:
                self._count_hit(sequence, self._reuse(sequence))  # what others have computed since it was admitted
                count = min(sequence.num_uncomputed, budget)
                chunks.append(Chunk(sequence, sequence.num_computed, count))
                budget -= count
        return chunks

    def _reuse(self, sequence: Sequence) -> int:
        """Go on from the pages that are known already, but leave a token to compute; returns the tokens skipped."""
        size, before = self.pool.block_size, sequence.num_computed
        while sequence.reuses_prefix and sequence.num_computed % size == 0 and sequence.num_uncomputed > size:
            index = sequence.num_computed // size
            block = self.pool.find(_key(sequence, index, size))
            if block is None:
                break
            self.pool.give_back(sequence.blocks[index : index + 1])
            sequence.blocks[index : index + 1] = [block]
            sequence.num_computed += size
        return sequence.num_computed - before

    def _count_hit(self, sequence: Sequence, tokens: int) -> None:
        if tokens:
            self.prefix_hit_tokens += tokens
            self._tell(PREFIX_HIT, sequence, tokens)


def _key(sequence: Sequence, index: int, size: int) -> bytes:
    """Key of the page `index` of a sequence; all of its tokens are there."""
    keys = sequence.page_keys
    while len(keys) <= index:
        start = len(keys) * size
        keys.append(page_key(keys[-1] if keys else b"", sequence.token_ids[start : start + size]))
    return keys[index]


def make_batch(chunks: list[Chunk]) -> Batch:
    """The arrays of a step, chunk after chunk."""
    token_ids = [chunk.sequence.token_ids[chunk.start : chunk.start + chunk.count] for chunk in chunks]
    width = max(len(chunk.sequence.blocks) for chunk in chunks)
    block_table = np.zeros((len(chunks), width), np.int32)
    for row, chunk in enumerate(chunks):
        block_table[row, : len(chunk.sequence.blocks)] = chunk.sequence.blocks
    counts = np.array([chunk.count for chunk in chunks])
    ends = np.cumsum(counts)
    sampling = [index for index, chunk in enumerate(chunks) if chunk.samples]
    return Batch(
        token_ids=np.concatenate([np.array(ids, np.int32) for ids in token_ids]),
        positions=np.concatenate([np.arange(c.start, c.start + c.count, dtype=np.int32) for c in chunks]),
        rows=np.repeat(np.arange(len(chunks), dtype=np.int32), counts),
        block_table=block_table,
        logits_rows=(ends[sampling] - 1).astype(np.int32),
        sampling=[chunks[index].sequence.row_sampling() for index in sampling],
    )
