"""Programs with a draft model beside them, whose policy a test decides."""

from __future__ import annotations

from collections.abc import Sequence

from rocmforge.runtime.device.batch import Program
from rocmforge.runtime.engine.draft_head import DraftHead
from rocmforge.runtime.engine.draft_model import DraftModel
from rocmforge.runtime.engine.drafted_program import DraftedProgram
from rocmforge.runtime.engine.drafts import MODEL, MTP, DraftHistory, DraftPolicy


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
