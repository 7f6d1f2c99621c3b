"""Masks behind drafts: what the constraint gives once these are its tokens, and nothing where they cannot be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.runtime.device.batch import UInt32
from rocmforge.runtime.device.token_masks import TokenMasks
from rocmforge.runtime.engine.draft_masks import DraftMasks

VOCABULARY = 70


class Text:
    """A constraint that allows `text` and, at each place, nothing else; `made`: where masks were made, and by how long
    a walk. `fails`: where none can be made."""

    def __init__(self, text: list[int], made: list[int], fails: int = -1, at: int = 0) -> None:
        self.text, self.made, self.fails, self.at = text, made, fails, at

    def mask(self) -> UInt32:
        self.made.append(self.at)
        if self.at == self.fails:
            raise RocmforgeError("too complex")
        return only(self.text[self.at])

    def take(self, token: int) -> bool:
        if token != self.text[self.at]:
            raise RocmforgeError("not allowed")
        self.at += 1
        return self.at == len(self.text)

    def copy(self) -> Text:
        return Text(self.text, self.made, self.fails, self.at)


def only(token: int) -> UInt32:
    mask = np.zeros(-(-VOCABULARY // 32), np.uint32)
    mask[token // 32] = 1 << token % 32
    return mask


@pytest.fixture
def masks() -> Iterator[TokenMasks]:
    made = TokenMasks(VOCABULARY)
    yield made
    made.close()


def allowed(drafts: DraftMasks, tokens: list[int]) -> list[list[int]]:
    """The tokens behind each draft."""
    bits = [np.unpackbits(mask.wait().view(np.uint8), bitorder="little") for mask in drafts.after(tokens)]
    return [np.flatnonzero(row).tolist() for row in bits]


def test_each_draft_has_the_mask_behind_it(masks: TokenMasks) -> None:
    made: list[int] = []
    text = Text([3, 64, 5, 6], made)
    drafts = DraftMasks(masks, text)
    assert allowed(drafts, []) == []
    assert allowed(drafts, [3]) == [[64]]
    assert allowed(drafts, [3, 64, 5]) == [[64], [5], [6]]  # as a draft model asks, one more each time
    assert allowed(drafts, [3, 64]) == [[64], [5]]
    assert (made, text.at) == ([1, 2, 3], 0)


def test_behind_what_is_not_allowed_or_completes_the_text_there_is_nothing(masks: TokenMasks) -> None:
    made: list[int] = []
    text = Text([3, 4, 5], made)
    drafts = DraftMasks(masks, text)
    assert allowed(drafts, [3, 9, 5]) == [[4], [], []]
    assert allowed(drafts, [3, 4, 5, 5]) == [[4], [5], [], []]
    assert made == [1, 1, 2]


def test_masks_of_drafts_that_became_tokens_are_not_made_again(masks: TokenMasks) -> None:
    made: list[int] = []
    text = Text(list(range(10)), made)
    drafts = DraftMasks(masks, text)
    found = drafts.after([0, 1, 2])
    for token, mask in zip([0, 1], found, strict=False):
        drafts.settle()
        text.take(token)
        assert drafts.take(token) is mask
    assert allowed(drafts, [2, 3]) == [[3], [4]]  # the walk goes on
    assert made == [1, 2, 3, 4]
    drafts.settle()
    text.take(2)
    assert drafts.take(2) is not None
    text.take(3)
    assert drafts.take(3) is not None
    assert allowed(drafts, [4]) == [[5]]  # after all were taken, from the constraint itself
    text.take(4)
    assert drafts.take(8) is None  # a draft that was refused: the next begin where the constraint is
    assert allowed(drafts, [5]) == [[6]]


def test_other_drafts_begin_anew(masks: TokenMasks) -> None:
    text = Text([3, 4, 5], [])
    drafts = DraftMasks(masks, text)
    assert allowed(drafts, [7, 4]) == [[], []]
    assert allowed(drafts, [3, 4]) == [[4], [5]]


def test_a_mask_that_cannot_be_made_is_the_error_of_its_place_alone(masks: TokenMasks) -> None:
    text = Text([3, 4, 5, 6], [], fails=2)
    drafts = DraftMasks(masks, text)
    found = drafts.after([3, 4, 5])
    assert [mask.wait().any() for mask in found] == [True, False, False]
    assert [str(mask.error()) for mask in found] == ["None", "too complex", "None"]


def test_a_mask_for_a_vocabulary_of_another_size(masks: TokenMasks) -> None:
    (mask,) = DraftMasks(masks, Text([3, 64], [])).after([3])
    assert mask.of_vocabulary(200).wait().tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert mask.of_vocabulary(200).nbytes == 28
    assert mask.of_vocabulary(33).wait().tolist() == [0, 0]
    assert mask.of_vocabulary(VOCABULARY).wait().tolist() == [0, 0, 1]
