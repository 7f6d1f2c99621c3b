"""Slots of recurrent state: which each sequence goes on from, which a step writes, and which are kept as snapshots.

A slot holds the state of one sequence after one of its tokens. A step reads the slot that a sequence goes on from and
writes others: one for the last of its tokens, which it goes on from then, and further ones where a snapshot is worth
keeping. A snapshot is a slot that stays as it is, known by the key of the blocks before it: a sequence that begins
alike goes on from it, and nothing is ever copied.

Kept are, of a prompt, the state every `_INTERVAL` tokens (farther apart in a prompt for which that would be more than
half of all slots), at its last two block boundaries, and where it parts from prompts before it; of an answer, the
state at its latest block boundary. The one unused for longest goes first.

A step with drafts writes the state after each of them: so many slots more while it runs, and so many writes of state
for each such sequence. Whatever is accepted, the state is there, and no token is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Final

from ...artifacts.dataclass import dataclass
from ...artifacts.layout import Layout
from ..device.memory import LEAST_SLOTS
from .shared_pool import SharedPool

_INTERVAL: Final = 128  # tokens
_LAST_BOUNDARIES: Final = 2  # of a prompt: the next turn's often parts from it within its last few tokens


@dataclass(slots=True)
class HeldSlots:
    """The slots of one sequence.

    Attributes:
        current: with the state after the tokens that are computed; None: none is, it begins.
        written: by the step under way: with the state after so many tokens.
        shared: keys of the snapshots that it made.
        latest: key of the snapshot within its answer.
        parting: tokens up to which its prompt is known, though no state was kept there.
    """

    current: int | None = None
    written: dict[int, int] = field(default_factory=dict)
    shared: list[bytes] = field(default_factory=list)
    latest: bytes | None = None
    parting: int = 0


def slots_for(layout: Layout, num_slots: int) -> StateSlots | None:
    """Return so many slots; None where the model has no state."""
    return StateSlots(num_slots, layout.kv.block_size) if layout.states else None


class StateSlots:
    """The slots of a program. Not thread-safe: the engine's lock guards it.

    At most `most_sequences` run at once, so each has a slot to go on from and one to write to, whatever is kept beside.
    """

    def __init__(self, num_slots: int, block_size: int) -> None:
        """Args: slots in all, `LEAST_SLOTS` at least; tokens of a block of the KV cache."""
        self.pool = SharedPool(num_slots)
        self._block_size = block_size

    @property
    def most_sequences(self) -> int:
        """Sequences that may run at once."""
        return self.pool.size // LEAST_SLOTS

    @property
    def spare(self) -> int:
        """Slots that drafts may take: those beyond half of all, which are left to snapshots."""
        return max(0, self.pool.num_free - self.pool.size // 2)

    def take(self, held: HeldSlots, length: int) -> bool:
        """Have the step that comes write the state after `length` tokens; returns whether there is a slot for it."""
        taken = self.pool.allocate(1)
        if taken is not None:
            held.written[length] = taken[0]
        return taken is not None

    def worth_keeping(self, held: HeldSlots, length: int, prompt: int) -> bool:
        """Whether the state after `length` tokens is worth a slot.

        Args:
            held: of the sequence.
            length: tokens.
            prompt: tokens that are computed before it answers; 0: it answers.
        """
        size = self._block_size
        if length % size:
            return False
        last = prompt // size * size
        return not prompt or length % self._interval(prompt) == 0 or self._parts(held, length, last)

    def _parts(self, held: HeldSlots, length: int, last: int) -> bool:
        return length == held.parting or last - _LAST_BOUNDARIES * self._block_size < length <= last

    def _interval(self, prompt: int) -> int:
        interval = self._block_size * max(1, _INTERVAL // self._block_size)
        while prompt // interval > max(1, self.pool.size // 2):
            interval *= 2
        return interval

    def worth_writing(self, held: HeldSlots, start: int, end: int, prompt: int, keys: Sequence[bytes]) -> list[int]:
        """Return the lengths after `start` and before `end` at which a prompt's state is worth a slot that is not
        known yet, the last first; `keys` are those of the blocks before `end`."""
        size = self._block_size
        return [
            length
            for length in range((end - 1) // size * size, start, -size)
            if self.worth_keeping(held, length, prompt) and not self.pool.knows(keys[length // size - 1])
        ]

    def longest(self, keys: Sequence[bytes]) -> int:
        """Return after how many of the blocks of these keys a state is known, 0: after none."""
        return next((count for count in range(len(keys), 0, -1) if self.pool.knows(keys[count - 1])), 0)

    def go_on_from(self, held: HeldSlots, key: bytes) -> None:
        """Take the snapshot of a key, which is known, in place of the slot that it goes on from."""
        found = self.pool.lookup(key)
        assert found is not None
        self._replace(held, found)

    def advance(self, held: HeldSlots, computed: int, keys: Sequence[bytes], prompt: int) -> None:
        """So many tokens are computed: go on from the state after them, and share what is worth keeping.

        Args:
            held: of the sequence.
            computed: its tokens.
            keys: of their full blocks.
            prompt: see `worth_keeping`.
        """
        for length in sorted(length for length in held.written if length <= computed):
            slot = held.written.pop(length)
            if self.worth_keeping(held, length, prompt):
                self._share(held, slot, keys[length // self._block_size - 1], bool(prompt))
            if length == computed:
                self._replace(held, slot)
            else:
                self.pool.free([slot])

    def _share(self, held: HeldSlots, slot: int, key: bytes, of_prompt: bool) -> None:
        if not self.pool.share(slot, key):
            return
        if not of_prompt:
            if held.latest is not None:
                self.pool.forget(held.latest)
                held.shared.remove(held.latest)
            held.latest = key
        held.shared.append(key)

    def _replace(self, held: HeldSlots, slot: int) -> None:
        if held.current is not None:
            self.pool.free([held.current])
        held.current = slot

    def drop_written(self, held: HeldSlots) -> None:
        """Let go of what was written after drafts that were not accepted."""
        self.pool.free(list(held.written.values()))
        held.written.clear()

    def distrust(self, held: HeldSlots) -> None:
        """Have none of the snapshots found that it made or goes on from."""
        self.pool.invalidate([] if held.current is None else [held.current])
        for key in held.shared:
            self.pool.forget(key)

    def free(self, held: HeldSlots) -> None:
        """Let go of all that it holds; its snapshots stay known."""
        self.drop_written(held)
        if held.current is not None:
            self.pool.free([held.current])
        held.current, held.latest, held.parting = None, None, 0
