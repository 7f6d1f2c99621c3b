"""Drafts of how a text goes on, taken from the text itself, for speculative decoding.

The model judges each draft in the step that computes it, so one can cost time and never a token. The lookup is that
of A. Saxena's prompt lookup decoding: what followed the last tokens where they stood before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_GRAM_LENGTHS: Final = (3, 2)  # tokens that must have stood there before; the longer says more
_FIRST_LENGTH: Final = 4
_LEAST_LENGTH: Final = 3  # after a part was accepted
_LONGEST_PAUSE: Final = 16  # tokens


class PromptLookup:
    """The lookup of one sequence, whose tokens only ever grow in number. Takes about 300 bytes a token.

    How much it proposes follows what became of it: twice as much after all was accepted, little more than what was
    accepted after a part was; after nothing was it pauses, for longer each time.
    """

    def __init__(self, max_drafts: int) -> None:
        """Args: most tokens to propose at once, at least 1."""
        self._max_drafts = max_drafts
        self._length = min(_FIRST_LENGTH, max_drafts)
        self._misses = 0
        self._resume_at = 0  # tokens of the sequence
        self._known = 0  # tokens of the sequence whose predecessors are in `_next`
        self._next: dict[tuple[int, ...], int] = {}  # the index of the token after the latest of each gram

    def propose(self, token_ids: Sequence[int], limit: int) -> list[int]:
        """At most `limit` tokens that may come next, none where nothing is known or it pauses.

        Args:
            token_ids: of the sequence; the same as before, and more.
            limit: of this time.
        """
        end = len(token_ids)
        for index in range(self._known, end):
            for length in _GRAM_LENGTHS:
                if length <= index:
                    self._next[tuple(token_ids[index - length : index])] = index
        self._known = end
        limit = min(limit, self._length)
        if limit < 1 or end < self._resume_at:
            return []
        for length in _GRAM_LENGTHS:
            begin = self._next.get(tuple(token_ids[-length:])) if length <= end else None
            if begin is not None:
                return _continuation(token_ids, begin, limit)
        return []

    def judge(self, proposed: int, accepted: int, num_tokens: int) -> None:
        """What became of the last proposal.

        Args:
            proposed: its tokens that were tried, at least 1.
            accepted: how many of them came.
            num_tokens: of the sequence now.
        """
        if accepted:
            self._misses = 0
            wanted = 2 * proposed if accepted == proposed else max(accepted + 1, _LEAST_LENGTH)
            self._length = min(wanted, self._max_drafts)
        else:
            self._misses += 1
            self._length = min(_FIRST_LENGTH, self._max_drafts)
            self._resume_at = num_tokens + min(2**self._misses - 2, _LONGEST_PAUSE)


def _continuation(token_ids: Sequence[int], begin: int, count: int) -> list[int]:
    """`count` tokens from `begin` on; past the end it goes on as if the drafts themselves stood there."""
    drafts = list(token_ids[begin : begin + count])
    period = len(token_ids) - begin
    while len(drafts) < count:
        drafts.append(drafts[-period])
    return drafts
