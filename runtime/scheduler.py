"""Which tokens the next step computes: pure policy, no device.

Decoding sequences come first, one token each; what is left of the step's budget goes to prompts, in the order
of their arrival, cut into chunks. A sequence is admitted only when blocks for its whole length are free,
so that none ever has to be thrown out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from .batch import Batch
from .kv_cache import BlockPool
from .sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start .. start + count - 1` of a sequence, to be computed in this step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def completes(self) -> bool:
        """Whether a next token follows from it."""
        return self.start + self.count == len(self.sequence.token_ids)


def admit(waiting: deque[Sequence], running: list[Sequence], pool: BlockPool, max_sequences: int) -> list[Sequence]:
    """Move sequences from `waiting` to `running` while blocks and places are free; returns those moved."""
    admitted = []
    while waiting and len(running) < max_sequences:
        blocks = pool.take(pool.blocks_for(waiting[0].max_length))
        if blocks is None:
            break
        sequence = waiting.popleft()
        sequence.blocks = blocks
        running.append(sequence)
        admitted.append(sequence)
    return admitted


def schedule(running: list[Sequence], max_tokens: int) -> list[Chunk]:
    """Chunks of the next step, at most `max_tokens` tokens together."""
    decoding = [s for s in running if len(s.token_ids) - s.num_computed == 1][:max_tokens]
    chunks = [Chunk(s, s.num_computed, 1) for s in decoding]
    budget = max_tokens - len(chunks)
    for sequence in running:
        remaining = len(sequence.token_ids) - sequence.num_computed
        if remaining > 1 and budget > 0:
            count = min(remaining, budget)
            chunks.append(Chunk(sequence, sequence.num_computed, count))
            budget -= count
    return chunks


def make_batch(chunks: list[Chunk]) -> Batch:
    """The arrays of a step, chunk after chunk."""
    token_ids = [chunk.sequence.token_ids[chunk.start : chunk.start + chunk.count] for chunk in chunks]
    width = max(len(chunk.sequence.blocks) for chunk in chunks)
    block_table = np.zeros((len(chunks), width), np.int32)
    for row, chunk in enumerate(chunks):
        block_table[row, : len(chunk.sequence.blocks)] = chunk.sequence.blocks
    counts = np.array([chunk.count for chunk in chunks])
    ends = np.cumsum(counts)
    completing = [index for index, chunk in enumerate(chunks) if chunk.completes]
    return Batch(
        token_ids=np.concatenate([np.array(ids, np.int32) for ids in token_ids]),
        positions=np.concatenate([np.arange(c.start, c.start + c.count, dtype=np.int32) for c in chunks]),
        rows=np.repeat(np.arange(len(chunks), dtype=np.int32), counts),
        block_table=block_table,
        logits_rows=(ends[completing] - 1).astype(np.int32),
        sampling=[chunks[index].sequence.row_sampling() for index in completing],
    )
