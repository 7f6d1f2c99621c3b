"""Programs with a draft model beside them, whose policy a test decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.device.batch import Batch, Float32, Int32, Program
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.parts import load_part
from rocmforge.runtime.engine.draft_head import DraftHead
from rocmforge.runtime.engine.draft_model import DraftModel
from rocmforge.runtime.engine.drafted_program import DraftedProgram
from rocmforge.runtime.engine.drafts import MODEL, MTP, DraftHistory, DraftPolicy
from rocmforge.runtime.engine.generation import GenerationState
from rocmforge.tests.support.emulated_programs import load as load_gpu


class Eager(DraftPolicy):
    """As many drafts as there may be, whatever they cost; out of the text only where that is wanted."""

    def __init__(self, drafts: int, lookup: bool = False, source: str = MODEL) -> None:
        super().__init__("small", drafts, source)
        self._lookup = lookup
        self._drafts = drafts

    @property
    def pays(self) -> bool:
        return not self.paused

    def prefers_lookup(self, history: DraftHistory, drafts: int) -> bool:
        return self._lookup

    def plan(self, histories: Sequence[DraftHistory], lengths: Sequence[int], decoding: int, tokens: int) -> list[int]:
        return [0 if self.paused else self._drafts] * len(histories)


def drafted(program: Program, small: Program, policy: DraftPolicy, prefill_tokens: int = 64) -> DraftedProgram:
    """Both programs as one."""
    model = DraftModel(small, policy, program.layout.vocab_size, prefill_tokens)
    return DraftedProgram(program, model, policy)


def headed(
    program: Program, block: Program, drafts: int, prefill_tokens: int = 64, source: str = MTP
) -> tuple[DraftedProgram, Eager]:
    """A model and its own block as one, and what chooses their drafts."""
    policy = Eager(drafts, source=source)
    head = DraftHead(block, policy, program.layout.vocab_size, prefill_tokens)
    return DraftedProgram(program, head, policy), policy


class Recorded:
    """A program, and each token that it was given with the state beside it."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.seen: list[tuple[int, int, Float32 | None]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._program, name)

    def step(self, batch: Batch) -> Int32:
        rows, row_of = batch.input_rows, batch.row_of
        for index, (position, token) in enumerate(zip(batch.positions.tolist(), batch.token_ids.tolist(), strict=True)):
            given = None if rows is None or row_of is None or row_of[index] < 0 else rows[row_of[index]]
            self.seen.append((position, token, given))
        return self._program.step(batch)


def same(one: GenerationState, other: GenerationState) -> bool:
    """Whether two generations are equal but for their names and what they found in the cache."""
    plain = [dataclasses.replace(state, request_id=0, cached_tokens=0) for state in (one, other)]
    return plain[0] == plain[1]


def load_with_part(bundle: Bundle, part: str, place: str) -> tuple[Program, Program]:
    """A model and a part of it, on the portable host or on an emulated GPU."""
    if place == "portable":
        model: Program = load_host_program(bundle, 8, 1, place)
    else:
        model = load_gpu(bundle, place, 8)
    return model, load_part(bundle, part, model, KvSize(8, 64))
