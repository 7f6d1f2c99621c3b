"""Recurrent state of a draft model: where each sequence goes on from, and what its guesses left.

A draft model computes its guesses one a step, and the served model judges them later. So a sequence has a slot with the
state after its own tokens, and one after each guess that was computed: of as many guesses as are accepted the state is
there, and the others are dropped. Where slots are short it keeps three: that of its own tokens, the one that a guess is
computed from and the one that this writes. If a guess in between is the last that was accepted, it goes back to its own
tokens and computes them again.
"""

from __future__ import annotations

from collections.abc import Sequence

from .state_slots import HeldSlots, StateSlots


class DraftStates:
    """The slots of a draft model. Of its thread alone."""

    def __init__(self, slots: StateSlots) -> None:
        """Args: all of them, none of which is held."""
        self._slots = slots

    @property
    def num_free(self) -> int:
        """Slots that no sequence holds."""
        return self._slots.pool.num_free

    def take(self, held: HeldSlots, length: int) -> None:
        """Have the step that comes write the state after `length` tokens; one slot is free."""
        taken = self._slots.take(held, length)
        assert taken, "a slot was free"

    def take_snapshots(self, held: HeldSlots, start: int, end: int, prompt: int, keys: Sequence[bytes]) -> None:
        """Have it write those worth keeping between the tokens `start` and `end` too, as far as slots are to spare; of
        an answer the last. See `StateSlots.worth_writing`."""
        worth = self._slots.worth_writing(held, start, end, prompt, keys)
        for length in worth if prompt else worth[:1]:
            if self._slots.spare:
                self._slots.take(held, length)

    def take_guess(self, held: HeldSlots, length: int) -> bool:
        """Have the step that comes write the state after a guess, the sequence's token number `length`; returns
        whether there is a slot for it."""
        older = sorted(one for one in held.written if one < length - 1)
        while not self._slots.spare and older:
            self._slots.pool.free([held.written.pop(older.pop(0))])
        return self._slots.take(held, length)

    def settle(self, held: HeldSlots, computed: int, accepted: int, keys: Sequence[bytes]) -> int:
        """Go on from the longest state that there is of a sequence's own tokens.

        Args:
            held: its slots.
            computed: tokens after which it went on until now.
            accepted: tokens of its own that were computed, guesses among them.
            keys: of the full blocks of these.

        Returns:
            Tokens after which that state is; where there is none, not even the one that it went on from, 0.
        """
        found = max((length for length in held.written if length <= accepted), default=0)
        if found:
            self._slots.advance(held, found, keys, 0)
        elif computed > accepted:
            self._slots.free(held)
        else:
            found = computed
        self._slots.drop_written(held)
        return found

    def advance(self, held: HeldSlots, computed: int, keys: Sequence[bytes], prompt: int) -> None:
        """See `StateSlots.advance`."""
        self._slots.advance(held, computed, keys, prompt)

    def reuse(self, held: HeldSlots, keys: Sequence[bytes], first: int, size: int) -> int:
        """Take the last snapshot behind block `first` of the blocks of `size` tokens with these keys.

        Returns:
            After how many of these blocks it is; `first` where there is none.
        """
        found = first + self._slots.longest(keys[first:])
        if found > first:
            self._slots.go_on_from(held, keys[found - 1])
        if len(keys) > found:
            held.parting = len(keys) * size
        return found

    def distrust(self, held: HeldSlots) -> None:
        """See `StateSlots.distrust`."""
        self._slots.distrust(held)

    def free(self, held: HeldSlots) -> None:
        """Let go of all that it holds."""
        self._slots.free(held)


def read_from(held: HeldSlots, start: int) -> int:
    """The slot of the state before token `start`, -1: it begins; see `Batch.state_from`."""
    slot = held.written.get(start, held.current)
    return -1 if slot is None else slot


def written_to(held: HeldSlots, start: int, count: int) -> list[int]:
    """The slots that take the states after tokens from `start` on, -1: none does; see `Batch.state_to`."""
    return [held.written.get(length, -1) for length in range(start + 1, start + count + 1)]
