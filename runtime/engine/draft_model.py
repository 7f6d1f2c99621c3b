"""A small model beside the one that is served, which drafts its next tokens.

It has sequences, keys and values of its own, and lags behind: whatever the served model reuses, preempts or begins
again, it computes what it lacks in the next steps, and until then there are no drafts. It draws with the sampling, the
seed and the counter of the served model's own draw, so that where both hold the same tokens likely, both draw the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import field, replace
from itertools import accumulate

import numpy as np

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import RocmforgeError
from ..device.batch import Batch, Float32, Program, RowSampling, token_arrays
from ..device.token_masks import PendingMask
from .draft_states import DraftStates, read_from, written_to
from .drafts import DraftPolicy
from .kv_cache import BlockPool, add_block_keys, root_key
from .scheduler import Chunk
from .sequence import ActiveSequence
from .state_slots import HeldSlots, slots_for

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Shadow:
    """A sequence as the draft model has it.

    Attributes:
        sequence: the one that is served.
        blocks: of the draft model's cache.
        keys: of the first of these, by content.
        num_computed: tokens of the sequence whose keys and values lie there,
        guesses: and tokens after these, which may have become the sequence's.
        unusable: the model's logits were not finite, a token is none of its own, or they are too many for it.
        states: the served model's hidden states after tokens, by position, that a head has yet to read.
        slots: of recurrent state, where the draft model has some.
    """

    sequence: ActiveSequence
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    num_computed: int = 0
    guesses: list[int] = field(default_factory=list)
    unusable: bool = False
    states: dict[int, Float32] = field(default_factory=dict)
    slots: HeldSlots = field(default_factory=HeldSlots)

    @property
    def lag(self) -> int:
        """Tokens that it has yet to compute."""
        return len(self.sequence.token_ids) - self.num_computed


@dataclass(slots=True)
class Part:
    """Tokens of one sequence in a step of the draft model; `drafts` that it has made for it so far, whether none may
    follow these, and the hidden state after the last of these tokens, of a head."""

    shadow: Shadow
    start: int
    token_ids: list[int]
    draws: bool
    chunk: int
    drafts: list[int] = field(default_factory=list)
    ended: bool = False
    state: Float32 | None = None


class DraftModel:
    """The draft model on its device. One thread's, which runs the served model's steps too."""

    def __init__(self, program: Program, policy: DraftPolicy, vocab_size: int, prefill_tokens: int) -> None:
        """Args: its program; what chooses; the served model's tokens; tokens of prompts in a step where others wait."""
        self._program = program
        self._policy = policy
        self._vocab_size = vocab_size
        self._prefill_tokens = prefill_tokens
        self._forget()

    def _forget(self) -> None:
        self._shadows: dict[ActiveSequence, Shadow] = {}
        self._pool = BlockPool(self._program.num_blocks, self._program.layout.kv.block_size)
        slots = slots_for(self._program.layout, self._program.num_state_slots)
        self._states = None if slots is None else DraftStates(slots)

    def close(self) -> None:
        """Free its device."""
        self._program.close()

    def fill(self, chunks: list[Chunk]) -> None:
        """Give drafts to those chunks of a step that have room for some, as far as there are any. Raises nothing: where
        the device fails, there are none for a while."""
        try:
            made = self._drafts(chunks)
        except Exception as error:  # whatever it does, requests are served without
            self._failed(error)
            return
        for index, drafts in made.items():
            chunks[index] = replace(chunks[index], drafts=tuple(drafts), drafted_by=self._policy.source)
        if made and self._policy.worked():
            log.info("the draft model makes drafts again")

    def _failed(self, error: Exception) -> None:
        """Make no drafts for a while, and begin with nothing then."""
        pause = self._policy.failed(str(error) or repr(error))
        unknown = None if isinstance(error, RocmforgeError) else error
        log.warning("no drafts for %g s: the draft model failed: %s", pause, error, exc_info=unknown)
        self._forget()

    def _drafts(self, chunks: list[Chunk]) -> dict[int, list[int]]:
        """Drafts, not empty, by the index of the chunk."""
        self._let_go()
        parts = self._parts(chunks)
        if not parts:
            return {}
        self._step(parts, exact=all(len(part.token_ids) <= 2 for part in parts))
        drafting = [part for part in parts if part.draws]
        while going := [part for part in drafting if self._goes_on(part, chunks[part.chunk].draft_room)]:
            for part in going:
                part.start += len(part.token_ids)
                part.token_ids = part.drafts[-1:]
            self._step(going)
        return {part.chunk: part.drafts for part in drafting if part.drafts}

    def _goes_on(self, part: Part, wanted: int) -> bool:
        """Whether its last draft is computed next; a slot is taken for the state after it, or nothing follows."""
        if part.shadow.unusable or part.ended or len(part.drafts) >= wanted:
            return False
        if self._states is not None:
            part.ended = not self._states.take_guess(part.shadow.slots, part.start + len(part.token_ids) + 1)
        return not part.ended

    def _let_go(self) -> None:
        """Free the blocks of sequences that ended, or that have none in the served model's cache either."""
        for sequence in [one for one in self._shadows if one.finished or not one.blocks]:
            self._drop(self._shadows.pop(sequence))

    def observes(self, chunks: Sequence[Chunk]) -> bool:
        """Whether hidden states of all tokens of these chunks will be read, of the served model, in `observe`."""
        return False

    def observe(self, program: Program, chunks: Sequence[Chunk]) -> None:
        """The served model's program has computed these chunks, which it `observes`."""

    # What its first step computes.

    def _parts(self, chunks: list[Chunk]) -> list[Part]:
        """Those that lag least come first: they draft. The others catch up in what is left of the step."""
        layout, pays = self._program.layout, self._policy.pays
        asked = []
        for index, chunk in enumerate(chunks):
            if chunk.draft_room or (pays and chunk.sequence.prefilling and chunk.sequence.max_drafts > 0):
                asked.append((self._shadow(chunk.sequence), index))
        asked.sort(key=lambda one: one[0].lag)
        parts: list[Part] = []
        tokens, rows = layout.max_batch_tokens, layout.max_sequences
        catching_up = tokens if len(chunks) == 1 else self._prefill_tokens
        for shadow, index in asked[:rows]:
            chunk, behind = chunks[index], shadow.lag > layout.kv.block_size
            most = min(tokens, catching_up) if behind else tokens
            part = self._part(shadow, chunk, index, most, [one.shadow for one in parts])
            if part is not None:
                parts.append(part)
                tokens -= len(part.token_ids)
                catching_up -= len(part.token_ids) if behind else 0
        if self._states is not None:
            for part in parts:
                self._take_snapshots(self._states, part)
        return parts

    def _take_snapshots(self, states: DraftStates, part: Part) -> None:
        end = part.start + len(part.token_ids)
        keys = self._keys(part.shadow, end // self._pool.block_size)
        states.take_snapshots(part.shadow.slots, part.start, end, _prompt_length(part), keys)

    def _shadow(self, sequence: ActiveSequence) -> Shadow:
        """The sequence as it was left, with what has become true of the guesses, and what others have computed."""
        shadow = self._shadows.setdefault(sequence, Shadow(sequence))
        token_ids, first = shadow.sequence.token_ids, shadow.num_computed
        while shadow.guesses and shadow.num_computed < len(token_ids):
            if token_ids[shadow.num_computed] != shadow.guesses.pop(0):
                break
            shadow.num_computed += 1
        shadow.guesses = []
        shadow.num_computed = min(shadow.num_computed, len(token_ids) - 1)  # the next token follows from the last
        if self._states is not None:
            accepted, keys = shadow.num_computed, self._keys(shadow, shadow.num_computed // self._pool.block_size)
            shadow.num_computed = self._states.settle(shadow.slots, first, accepted, keys)
        if not shadow.unusable:
            self._share(shadow, first)
            self._reuse(shadow)
        return shadow

    def _part(self, shadow: Shadow, chunk: Chunk, index: int, most: int, stepped: list[Shadow]) -> Part | None:
        """Up to so many of the tokens that it lacks; None where there are none that it can compute now, beside those
        that are in the step already."""
        layout, token_ids = self._program.layout, shadow.sequence.token_ids
        goal = len(token_ids) if chunk.draft_room else chunk.start
        start, end = shadow.num_computed, min(goal, shadow.num_computed + most)
        draws = end == len(token_ids)
        if shadow.unusable or end <= start:
            return None
        new = token_ids[start:end]
        if max(new) >= layout.vocab_size or len(token_ids) + chunk.draft_room > layout.max_seq_len:
            self._give_up(shadow)
            return None
        if not self._fits(shadow, end + chunk.draft_room * draws, stepped):
            return None
        if self._states is not None:
            self._states.take(shadow.slots, end)
        return Part(shadow, start, new, draws, index)

    def _fits(self, shadow: Shadow, length: int, stepped: list[Shadow]) -> bool:
        """Whether so many of its tokens have blocks now, and the state after them a slot: those that lag more, most
        first, give theirs; a slot those that lag as much. One that gave them a moment ago may be in the step itself,
        from its beginning, and lag most: it keeps what it has now."""
        missing, lag = self._pool.blocks_for(length) - len(shadow.blocks), shadow.lag
        kept = {id(shadow), *map(id, stepped)}
        while missing > self._pool.num_free or (self._states is not None and not self._states.num_free):
            least = lag + (missing > self._pool.num_free)
            others = [one for one in self._shadows.values() if one.blocks and one.lag >= least and id(one) not in kept]
            if not others:
                return False
            self._drop(max(others, key=lambda one: one.lag))
        if missing > 0:
            shadow.blocks += self._pool.allocate(missing) or ()
        return True

    def _drop(self, shadow: Shadow) -> None:
        """It begins anew; guesses followed from what it had."""
        self._pool.free(shadow.blocks)
        if self._states is not None:
            self._states.free(shadow.slots)
        shadow.blocks, shadow.num_computed, shadow.guesses = [], 0, []

    def _give_up(self, shadow: Shadow) -> None:
        shadow.unusable = True
        self._drop(shadow)

    # Its steps.

    def _step(self, parts: list[Part], exact: bool = True) -> None:
        """Compute parts, and add the token that follows to the drafts of each that draws. `exact`: no more than what
        a step takes by itself, so that its time counts."""
        began = time.perf_counter()
        drawn = iter(self._program.step(self._batch(parts)).tolist())
        if exact:
            self._policy.costs.observe_draft(time.perf_counter() - began)
        self._read(parts)
        for part in parts:
            self._computed(part)
            if part.draws:
                self._take(part, next(drawn))

    def _read(self, parts: Sequence[Part]) -> None:
        """What is to be read of the program after a step; nothing but tokens."""

    def _computed(self, part: Part) -> None:
        shadow, first = part.shadow, part.shadow.num_computed
        if part.drafts:
            shadow.guesses += part.token_ids
            return
        shadow.num_computed = part.start + len(part.token_ids)
        self._share(shadow, first)
        if self._states is not None:
            keys = self._keys(shadow, shadow.num_computed // self._pool.block_size)
            self._states.advance(shadow.slots, shadow.num_computed, keys, _prompt_length(part))

    def _take(self, part: Part, token: int) -> None:
        if 0 <= token < self._vocab_size:
            part.drafts.append(token)
            return
        if part.shadow.sequence.request.constraint is not None:  # it may allow no token that the draft model has
            part.ended = True
            return
        if token < 0:  # whoever goes on from these keys and values has numbers that are none too
            self._pool.invalidate(part.shadow.blocks)
            if self._states is not None:
                self._states.distrust(part.shadow.slots)
        self._give_up(part.shadow)

    def _batch(self, parts: Sequence[Part]) -> Batch:
        token_ids = [part.token_ids for part in parts]
        ends = zip(parts, accumulate(map(len, token_ids)), strict=True)
        state_from = state_to = None
        if self._states is not None:
            held = [(part.shadow.slots, part.start, len(part.token_ids)) for part in parts]
            state_from = np.array([read_from(slots, start) for slots, start, _ in held], np.int32)
            state_to = np.array([slot for one in held for slot in written_to(*one)], np.int32)
        logits_rows = np.array([end - 1 for part, end in ends if part.draws], np.int32)
        return Batch(
            *token_arrays(token_ids, [part.start for part in parts], [part.shadow.blocks for part in parts]),
            logits_rows=logits_rows,
            sampling=[self._sampling(part) for part in parts if part.draws],
            state_from=state_from,
            state_to=state_to,
            output_rows=logits_rows,
        )

    def _sampling(self, part: Part) -> RowSampling:
        """As the served model draws that token; a token that the draft model has not gets no bias and no penalty."""
        row = replace(part.shadow.sequence.row_samplings(part.drafts)[-1], keep_logits=False)
        size = self._program.layout.vocab_size
        if isinstance(row.mask, PendingMask):
            row = replace(row, mask=row.mask.of_vocabulary(size))
        if size >= self._vocab_size:
            return row
        if row.seen_tokens is not None and row.seen_counts is not None:
            own = row.seen_tokens < size
            row = replace(row, seen_tokens=row.seen_tokens[own], seen_counts=row.seen_counts[own])
        if row.bias_tokens is not None and row.biases is not None:
            own = row.bias_tokens < size
            row = replace(row, bias_tokens=row.bias_tokens[own], biases=row.biases[own])
        return row

    # Its cache.

    def _share(self, shadow: Shadow, first: int) -> None:
        """Blocks that were filled since token `first` are known to others from now on."""
        size = self._pool.block_size
        for index in range(first // size, shadow.num_computed // size):
            self._pool.share(shadow.blocks[index], self._key(shadow, index))

    def _reuse(self, shadow: Shadow) -> None:
        """Go on from the blocks that are known already, but leave a token to compute; where the model has state, only
        as far as a snapshot of it is known too."""
        size = self._pool.block_size
        if shadow.num_computed % size:
            return
        first = end = shadow.num_computed // size
        while len(shadow.sequence.token_ids) - end * size > size and self._pool.knows(self._key(shadow, end)):
            end += 1
        if self._states is not None:
            end = self._states.reuse(shadow.slots, self._keys(shadow, end), first, size)
        for index in range(first, end):
            block = self._pool.lookup(self._key(shadow, index))
            assert block is not None
            self._pool.free(shadow.blocks[index : index + 1])
            shadow.blocks[index : index + 1] = [block]
        shadow.num_computed = end * size

    def _key(self, shadow: Shadow, index: int) -> bytes:
        """Key of a block of a sequence."""
        return self._grown_keys(shadow, index + 1)[index]

    def _keys(self, shadow: Shadow, count: int) -> list[bytes]:
        """Keys of a sequence's first `count` blocks."""
        return self._grown_keys(shadow, count)[:count]

    def _grown_keys(self, shadow: Shadow, count: int) -> list[bytes]:
        """All keys known of a sequence, `count` at least. Adapters are none of the draft model's."""
        sequence = shadow.sequence
        root, size = root_key(sequence.request.cache_space), self._pool.block_size
        return add_block_keys(shadow.keys, root, sequence.token_ids, size, count)


def _prompt_length(part: Part) -> int:
    """Tokens that are computed before it answers; 0: it answers. See `StateSlots.worth_keeping`."""
    prompt = part.shadow.sequence.num_prompt_tokens
    return prompt if part.start < prompt else 0
