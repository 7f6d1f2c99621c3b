"""Which tokens a constraint allows after drafts: masks of the rows from which the tokens behind them are drawn.

A constraint goes forward alone: drafts are taken by a copy of it, in the thread that makes masks, one after another.
A draft that the constraint does not allow needs none behind it: the mask before it lets no draw be that draft, so that
nobody sees what comes of the rest. Nor does one that completes the text: nothing is allowed behind either. Where a
mask cannot be made, nothing can be drawn there, as without drafts.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import RocmforgeError
from ..device.batch import UInt32
from ..device.token_masks import PendingMask, TokenMasks
from .generation import Constraint


@dataclass(slots=True)
class _Walk:
    """A copy of a constraint on its way through drafts; None: before the first of them, or it goes no further."""

    origin: Constraint
    here: Constraint | None = None


@dataclass(frozen=True, slots=True)
class _Behind:
    """A draft on a walk, as what knows the mask behind it."""

    walk: _Walk
    draft: int
    is_first: bool
    nothing: UInt32

    def mask(self) -> UInt32:
        """See `Constraint`; nothing where nobody sees what is drawn."""
        walk = self.walk
        if self.is_first:
            walk.here = walk.origin.copy()
        here, walk.here = walk.here, None
        if here is None or not _goes_on(here, self.draft):
            return self.nothing
        found = here.mask()
        walk.here = here
        return found


def _goes_on(constraint: Constraint, draft: int) -> bool:
    """Take a draft; return whether there is one behind it that may be drawn."""
    try:
        return not constraint.take(draft)
    except RocmforgeError:
        return False


class DraftMasks:
    """The masks behind drafts of one sequence, from where its constraint is. The engine's thread has it alone."""

    def __init__(self, masks: TokenMasks, constraint: Constraint) -> None:
        """Args: where masks are made; the sequence's own constraint."""
        self._masks = masks
        self._constraint = constraint
        self._walk = _Walk(constraint)
        self._made: list[tuple[int, PendingMask]] = []

    def after(self, drafts: Sequence[int]) -> list[PendingMask]:
        """Return the masks behind each of some drafts, which may still be in the making."""
        known = [draft for draft, _ in self._made]
        if known[: len(drafts)] != list(drafts[: len(known)]):
            self._forget()
        for draft in drafts[len(self._made) :]:
            behind = _Behind(self._walk, draft, not self._made, self._masks.nothing)
            self._made.append((draft, self._masks.begin(behind)))
        return [mask for _, mask in self._made[: len(drafts)]]

    def settle(self) -> None:
        """Wait until nobody uses the constraint but who asks."""
        if self._made:
            self._made[0][1].error()

    def take(self, token: int) -> PendingMask | None:
        """The sequence's next token is this one: return the mask behind it where it was a draft, and what is known of
        those behind it is kept; else forget all."""
        if self._made and self._made[0][0] == token:
            return self._made.pop(0)[1]
        self._forget()
        return None

    def _forget(self) -> None:
        self.settle()
        self._walk, self._made = _Walk(self._constraint), []
