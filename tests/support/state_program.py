"""A program whose state and keys are hashes of tokens: a wrong slot, or a wrong block, changes its answers."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence

from rocmforge.artifacts.layout import StateEntry
from rocmforge.runtime.device.batch import Batch
from rocmforge.tests.support.engine_harness import ScriptedProgram

BLOCK = 16
WORDS = 3  # tokens that it says: so few that drafts are right now and then


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def answer(prompt: Sequence[int], count: int) -> list[int]:
    """What the program says to a prompt that it computes alone, by the definition."""
    tokens = list(prompt)
    state, seen = 0, 0
    for token in prompt:
        state, seen = _hash(state, token), _hash(seen, token)
    for _ in range(count):
        tokens.append(2 + (state + seen) % WORDS)
        state, seen = _hash(state, tokens[-1]), _hash(seen, tokens[-1])
    return tokens[len(prompt) :]


class HashingProgram(ScriptedProgram):
    """State is a hash of all tokens by slot, and what attention sees a hash of those in the blocks."""

    def __init__(self, num_slots: int, num_blocks: int = 64, gated: bool = False) -> None:
        super().__init__(self._say, num_blocks, gated)
        states = (StateEntry("hash", 64),)
        self.layout = dataclasses.replace(self.layout, states=states, max_seq_len=4096)
        self.num_state_slots = num_slots
        self.slots: dict[int, int] = {}
        self.cells: dict[tuple[int, int], int] = {}
        self.computed = 0  # tokens

    def _say(self, batch: Batch) -> list[int]:
        self.check_slots(batch)
        assert batch.state_from is not None
        assert batch.state_to is not None
        starts = batch.sequence_starts().tolist()
        self.computed += len(batch.token_ids)
        read = {int(slot): self.slots[int(slot)] for slot in batch.state_from if slot >= 0}
        said: dict[int, int] = {}
        for row, (first, end) in enumerate(itertools.pairwise(starts)):
            source = int(batch.state_from[row])
            state = read[source] if source >= 0 else 0
            assert (source < 0) == (batch.positions[first] == 0)
            for at in range(first, end):
                token, position = int(batch.token_ids[at]), int(batch.positions[at])
                state = _hash(state, token)
                if (goal := int(batch.state_to[at])) >= 0:
                    self.slots[goal] = state
                said[at] = 2 + (state + self._attend(batch, row, position, token)) % WORDS
        return [said[int(at)] for at in batch.logits_rows]

    def _attend(self, batch: Batch, row: int, position: int, token: int) -> int:
        """A hash of the tokens up to a position, as those before it left it in the cache."""
        blocks = batch.block_table[row]
        before = self.cells[int(blocks[(position - 1) // BLOCK]), (position - 1) % BLOCK] if position else 0
        seen = _hash(before, token)
        self.cells[int(blocks[position // BLOCK]), position % BLOCK] = seen
        return seen

    def check_slots(self, batch: Batch) -> None:
        """What a batch promises of its slots."""
        assert batch.state_from is not None
        assert batch.state_to is not None
        read = {slot for slot in batch.state_from.tolist() if slot >= 0}
        written = [slot for slot in batch.state_to.tolist() if slot >= 0]
        assert len(batch.state_from) == len(batch.block_table)
        assert len(batch.state_to) == len(batch.token_ids)
        assert len(set(written)) == len(written)
        assert not read & set(written)
        assert read | set(written) <= set(range(self.num_state_slots))
        ends = batch.sequence_starts()[1:] - 1
        assert (batch.state_to[ends] >= 0).all()
