"""Which tokens the next step computes, and who holds which KV blocks: pure policy, no device.

Decoding sequences come first, one token each. What is left of the step's budget goes to prompts, in the order of their
admission, cut into chunks; beside others that decode they get a small budget only, so that nobody's next token waits
for a long prompt, and a larger one where several wait for each that decodes. A sequence is admitted once its prompt and
one block more are free. Where blocks run out later, the last admitted frees its own and is computed again when there is
room: the first admitted always goes on.

Where drafts are made, a decoding sequence may have them computed in the same step, in the room that is left.

Where a position sees those after it, all of a sequence is computed in one step, and again for each token that follows:
no chunks, no drafts, and nothing is shared, as keys and values depend on what comes later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...artifacts.dataclass import dataclass
from .drafts import LOOKUP, DraftPolicy
from .fair_queue import FairQueue
from .kv_cache import BlockPool
from .lifecycle import ADMITTED, PREEMPTED, PREFILLED, PREFIX_HIT
from .prompt_lookup import PromptLookup
from .sequence import ActiveSequence
from .state_slots import StateSlots


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start .. start + count - 1` of a sequence and drafts of those after, to be computed in this step.

    `scored`: positions whose logits say how likely the prompt's next token was. `state_from` and `state_to`: slots of
    state, as `Batch` has them, of a model that has some. `draft_room`: drafts that a model may make for it before the
    step; for these too there are slots. `drafted_by`: one of `SOURCES`.
    """

    sequence: ActiveSequence
    start: int
    count: int
    drafts: tuple[int, ...] = ()
    scored: range = range(0)
    state_from: int = -1
    state_to: tuple[int, ...] = ()
    draft_room: int = 0
    drafted_by: str = LOOKUP

    @property
    def completes(self) -> bool:
        """Whether it is the last of what the sequence has now."""
        return self.start + self.count == len(self.sequence.token_ids)

    @property
    def samples(self) -> bool:
        """Whether a next token follows from it."""
        return self.completes and self.sequence.samples

    @property
    def decodes(self) -> bool:
        """Whether it is the last token that was drawn, from which the next follows."""
        return self.samples and not self.sequence.prefilling

    @property
    def most_drafts(self) -> int:
        """Drafts that it has or may have."""
        return len(self.drafts) or self.draft_room

    @property
    def num_tokens(self) -> int:
        """That the step computes."""
        return self.count + len(self.drafts)

    @property
    def num_drawn(self) -> int:
        """Tokens that the step draws: the next, and after each draft the one that follows if it is accepted."""
        return 1 + len(self.drafts) if self.samples else 0

    @property
    def num_logits(self) -> int:
        """Rows of logits that the step computes: those of scored positions, then those that tokens are drawn from."""
        return len(self.scored) + self.num_drawn

    def logits_rows(self, first: int) -> list[int]:
        """Where those rows' tokens stand in a step in which the chunk's are the tokens from `first` on."""
        end = first + self.num_tokens
        return [*(first + at - self.start for at in self.scored), *range(end - self.num_drawn, end)]


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What a step may hold.

    Attributes:
        max_tokens: tokens in all.
        max_sequences: sequences admitted at once, and rows of logits.
        prefill_tokens: tokens of prompts, where others decode; so many times more as sequences wait for each of these.
        draft_tokens: drafts for one sequence; 0: none.
        whole: a sequence is computed whole, each time.
    """

    max_tokens: int
    max_sequences: int
    prefill_tokens: int
    draft_tokens: int = 0
    whole: bool = False


class Scheduler:
    """Queue, running sequences and KV blocks. Not thread-safe: the engine's lock guards it."""

    def __init__(
        self,
        pool: BlockPool,
        limits: StepLimits,
        tell: Callable[[str, ActiveSequence, int], None],
        states: StateSlots | None = None,
        policy: DraftPolicy | None = None,
    ) -> None:
        """Args: blocks, limits, who is told of a sequence's turns; slots, where the model has state; and what chooses
        drafts, where a model makes some."""
        self.pool = pool
        self.states = states
        self.waiting = FairQueue()
        self.running: list[ActiveSequence] = []  # in the order of admission
        self.prefix_hit_tokens = 0
        self.preemptions = 0
        self.draft_tokens = 0
        self.draft_tokens_accepted = 0
        self._limits = limits
        self._tell = tell
        self._policy = policy

    def next_chunks(self) -> list[Chunk]:
        """Chunks of the next step; empty only where there is nothing to do."""
        self._grow()
        self._admit()
        chunks = self._choose()
        return chunks if self.states is None else self._with_slots(self.states, chunks)

    def computed(self, chunk: Chunk) -> None:
        """A step has computed a chunk, whatever its drafts are worth: blocks that it filled may be shared."""
        sequence = chunk.sequence
        if not self._limits.whole:
            self._advance(sequence, chunk.count)
        if self.states is not None and not chunk.drafts:
            self.states.drop_written(sequence.slots)  # kept for drafts that nobody made
        if sequence.prefilling and chunk.completes:
            sequence.prefilling = False
            self._tell(PREFILLED, sequence, chunk.start + chunk.count)

    def drafts_judged(self, chunk: Chunk, accepted: int) -> None:
        """So many of a computed chunk's drafts are tokens of the sequence now; what the others left is overwritten."""
        sequence = chunk.sequence
        self._advance(sequence, accepted)
        if self.states is not None:
            self.states.drop_written(sequence.slots)
        self.draft_tokens += len(chunk.drafts)
        self.draft_tokens_accepted += accepted
        if sequence.lookup is not None and chunk.drafted_by == LOOKUP:
            sequence.lookup.judge(len(chunk.drafts), accepted, len(sequence.token_ids))
        if self._policy is not None:
            self._policy.judged(sequence.draft_history, chunk.drafted_by, len(chunk.drafts), accepted)

    def _advance(self, sequence: ActiveSequence, count: int) -> None:
        size, before = self.pool.block_size, sequence.num_computed
        sequence.num_computed += count
        for index in range(before // size, sequence.num_computed // size):
            self.pool.share(sequence.blocks[index], sequence.keys_of_blocks(index + 1, size)[index])
        if self.states is not None:
            keys = sequence.keys_of_blocks(sequence.num_computed // size, size)
            self.states.advance(sequence.slots, sequence.num_computed, keys, _prompt_length(sequence))

    def release(self, sequence: ActiveSequence, trusted: bool = True) -> None:
        """A sequence has ended: out of queue or step, its blocks free; not `trusted`: nobody shall use them again."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        if not trusted:
            self.pool.invalidate(sequence.blocks)
            if self.states is not None:
                self.states.distrust(sequence.slots)
        self._free(sequence)

    def start_over(self, pool: BlockPool, states: StateSlots | None = None) -> None:
        """Nothing that was computed can be trusted: all that run are queued again, with an empty cache."""
        while self.running:
            self._preempt()
        self.pool, self.states = pool, states

    def _grow(self) -> None:
        """A block for each sequence whose next token needs one; the last admitted frees its own for it."""
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            if self.pool.blocks_for(len(sequence.token_ids)) <= len(sequence.blocks):
                index += 1
            elif (taken := self.pool.allocate(1)) is not None:
                sequence.blocks += taken
            else:
                self._preempt()  # perhaps itself, then it is the last

    def _preempt(self) -> None:
        sequence = self.running.pop()
        sequence.most_computed = max(sequence.most_computed, sequence.num_computed)
        self._free(sequence)
        self.waiting.push_front(sequence)
        self.preemptions += 1
        self._tell(PREEMPTED, sequence, len(sequence.token_ids))

    def _free(self, sequence: ActiveSequence) -> None:
        self.pool.free(sequence.blocks)
        sequence.blocks = []
        if self.states is not None:
            self.states.free(sequence.slots)
        sequence.num_computed = 0

    def _admit(self) -> None:
        """Those whose turn it is, while there is room. A large one at the head is waited for, not overtaken."""
        most = self._limits.max_sequences
        if self.states is not None:
            most = min(most, self.states.most_sequences)
        while len(self.running) < most and (sequence := self.waiting.first()) is not None:
            hit = self._reuse(sequence)
            needed = self.pool.blocks_for(len(sequence.token_ids)) + 1
            needed = min(needed, self.pool.blocks_for(sequence.max_length))
            taken = self.pool.allocate(needed - len(sequence.blocks))
            if taken is None:
                self._free(sequence)
                break
            sequence.blocks += taken
            sequence.prefilling = True
            self.running.append(self.waiting.pop())
            self._tell(ADMITTED, sequence, 0)
            self._count_hit(sequence, hit)

    def _choose_whole(self) -> list[Chunk]:
        """Sequences in the order of their admission, as many as the step has room for."""
        chunks, budget = [], self._limits.max_tokens
        for sequence in self.running:
            count = len(sequence.token_ids)
            if count <= budget:
                chunks.append(Chunk(sequence, 0, count))
                budget -= count
        return chunks

    def _choose(self) -> list[Chunk]:
        limits = self._limits
        if limits.whole:
            return self._choose_whole()
        decoding = [one for one in self.running if one.num_uncomputed == 1][: limits.max_tokens]
        chunks = [Chunk(one, one.num_computed, 1) for one in decoding]
        budget, rows = limits.max_tokens - len(chunks), limits.max_sequences - len(chunks)
        if chunks:
            waiting_for_each = (len(self.running) - len(decoding)) // len(decoding)
            budget = min(budget, limits.prefill_tokens * max(1, waiting_for_each))
        for sequence in self.running:
            if budget > 0 and sequence.num_uncomputed > 1:
                self._count_hit(sequence, self._reuse(sequence))  # what others have computed since it was admitted
                chunk = _prompt_chunk(sequence, budget, rows, limits.max_tokens - sum(one.count for one in chunks))
                if chunk.count:
                    chunks.append(chunk)
                budget -= chunk.count
                rows -= chunk.num_logits
        return self._with_drafts(chunks) if limits.draft_tokens else chunks

    def _with_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        """The same, and in what is left of the step drafts for those that decode."""
        tokens = self._limits.max_tokens - sum(chunk.num_tokens for chunk in chunks)
        logits = self._limits.max_sequences - sum(chunk.num_logits for chunk in chunks)
        room, found = min(tokens, logits), []
        for chunk in chunks:
            drafts = tuple(self._drafts(chunk.sequence, room)) if chunk.decodes and room > 0 else ()
            found.append(replace(chunk, drafts=drafts))
            room -= len(drafts)
        return found if self._policy is None else self._with_room(found, room, self._policy)

    def _with_room(self, chunks: list[Chunk], room: int, policy: DraftPolicy) -> list[Chunk]:
        """The same, and room for the drafts of a model where the text gives none."""
        places = [at for at, one in enumerate(chunks) if one.decodes and not one.drafts and one.sequence.max_drafts > 0]
        sequences = [chunks[at].sequence for at in places]
        histories = [one.draft_history for one in sequences]
        decoding, tokens = sum(one.decodes for one in chunks), sum(one.num_tokens for one in chunks)
        wanted = policy.plan(histories, [len(one.token_ids) for one in sequences], decoding, tokens)
        for at, sequence, count in zip(places, sequences, wanted, strict=True):
            fitting = self._fit_drafts(sequence, min(count, room, sequence.max_drafts))
            chunks[at] = replace(chunks[at], draft_room=fitting)
            room -= fitting
        return chunks

    def _with_slots(self, states: StateSlots, chunks: list[Chunk]) -> list[Chunk]:
        """The same, with slots for what they leave: first for the last token of each, then drafts, then snapshots."""
        for chunk in chunks:
            taken = states.take(chunk.sequence.slots, chunk.start + chunk.count)
            assert taken, "two slots for each that runs"
        found = []
        for chunk in chunks:
            end, drafts, room = chunk.start + chunk.count, chunk.drafts[: states.spare], chunk.draft_room
            found.append(replace(chunk, drafts=drafts, draft_room=min(room, states.spare)))
            for length in range(end + 1, end + found[-1].most_drafts + 1):
                states.take(chunk.sequence.slots, length)
        return [_with_snapshots(states, chunk, self.pool.block_size) for chunk in found]

    def _drafts(self, sequence: ActiveSequence, room: int) -> list[int]:
        """Drafts out of the text itself, where a model would make no better ones."""
        if sequence.lookup is None:
            sequence.lookup = PromptLookup(self._limits.draft_tokens)
        drafts = sequence.lookup.propose(sequence.token_ids, min(room, sequence.max_drafts))
        policy = self._policy
        if drafts and policy is not None and not policy.prefers_lookup(sequence.draft_history, len(drafts)):
            return []
        return drafts[: self._fit_drafts(sequence, len(drafts))]

    def _fit_drafts(self, sequence: ActiveSequence, count: int) -> int:
        """For how many of so many drafts there are blocks: nobody frees one for a draft."""
        length = len(sequence.token_ids)
        missing = self.pool.blocks_for(length + count) - len(sequence.blocks)
        if missing > 0:
            taken = self.pool.allocate(missing)
            if taken is None:
                return len(sequence.blocks) * self.pool.block_size - length
            sequence.blocks += taken
        return count

    def _reuse(self, sequence: ActiveSequence) -> int:
        """Go on from the blocks that are known already, but leave a token to compute; returns the tokens skipped.

        Where the model has state, only as far as a snapshot of it is known too.
        """
        size, before = self.pool.block_size, sequence.num_computed
        if not sequence.reuses_prefix or self._limits.whole or before % size:
            return 0
        first = end = before // size
        keys = sequence.keys_of_blocks(first, size)
        while len(sequence.token_ids) - end * size > size:
            keys = sequence.keys_of_blocks(end + 1, size)
            if not self.pool.knows(keys[end]):
                break
            end += 1
        if self.states is not None:
            end = self._reuse_state(self.states, sequence, first, end)
        for index in range(first, end):
            block = self.pool.lookup(keys[index])
            assert block is not None
            self.pool.free(sequence.blocks[index : index + 1])
            sequence.blocks[index : index + 1] = [block]
        sequence.num_computed = end * size
        return end * size - before

    def _reuse_state(self, states: StateSlots, sequence: ActiveSequence, first: int, end: int) -> int:
        """Take the last snapshot after block `first` and up to block `end`; returns after which it is."""
        size = self.pool.block_size
        keys = sequence.keys_of_blocks(end, size)
        found = first + states.longest(keys[first:end])
        if found > first:
            states.go_on_from(sequence.slots, keys[found - 1])
        if end > found:
            sequence.slots.parting = end * size
        return found

    def _count_hit(self, sequence: ActiveSequence, tokens: int) -> None:
        if tokens:
            self.prefix_hit_tokens += tokens
            if not sequence.num_generated:
                own = sequence.most_computed - (sequence.num_computed - tokens)  # what a preempted one had by itself
                sequence.cached_tokens += max(0, tokens - max(0, own))
            self._tell(PREFIX_HIT, sequence, tokens)


def _prompt_chunk(sequence: ActiveSequence, tokens: int, rows: int, most: int) -> Chunk:
    """As much of a prompt as so many tokens and rows of logits allow; perhaps nothing, where there are no rows, or no
    room among `most` tokens for a picture that is computed at once."""
    start = sequence.num_computed
    end = start + min(sequence.num_uncomputed, tokens)
    if sequence.pictures is not None:
        end = sequence.pictures.chunk_end(start, end, most)
    unscored = sequence.unscored(start, end)
    scored = unscored[:rows]
    if len(scored) < len(unscored):
        end = scored.stop
    if sequence.samples and end == len(sequence.token_ids) and len(scored) == rows:
        end -= 1  # no row is left for the token that follows from the last
    return Chunk(sequence, start, end - start, scored=scored)


def _prompt_length(sequence: ActiveSequence) -> int:
    """Tokens that are computed before it answers, or before it goes on to; 0: it answers."""
    return len(sequence.token_ids) if sequence.prefilling else 0


def _with_snapshots(states: StateSlots, chunk: Chunk, size: int) -> Chunk:
    """The chunk with its slots, among them those for snapshots of its prompt, as far as there are any."""
    sequence, end = chunk.sequence, chunk.start + chunk.count
    slots, prompt = sequence.slots, _prompt_length(sequence)
    if prompt:
        keys = sequence.keys_of_blocks(end // size, size)
        for length in states.worth_writing(slots, chunk.start, end, prompt, keys):
            states.take(slots, length)
    state_from = -1 if slots.current is None else slots.current
    lengths = range(chunk.start + 1, end + chunk.most_drafts + 1)
    return replace(chunk, state_from=state_from, state_to=tuple(slots.written.get(length, -1) for length in lengths))
