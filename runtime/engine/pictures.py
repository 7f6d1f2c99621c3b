"""Pictures of a request: where their rows stand in its prompt, and what steps and keys of blocks take of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypedDict

import numpy as np

from ...artifacts.dataclass import dataclass
from ..device.batch import Float32, Int32

if TYPE_CHECKING:
    from ..pictures.patches import Picture

PICTURE_TOKEN: Final = 0
"""What stands in a prompt where a token is a row of a picture; Gemma 4 adds this token's own embeddings to it."""
AXES: Final = 4  # time, height, width, extra: see `Batch.rope_positions`


@dataclass(frozen=True, slots=True)
class PlacedPicture:
    """A picture in a prompt.

    Attributes:
        picture: what is encoded.
        digest: of it.
        runs: where its rows stand, from its first to its last: the first token of each run, and how many they are.
        grid: rows from top to bottom, and from left to right.
    """

    picture: Picture
    digest: bytes
    runs: tuple[tuple[int, int], ...]
    grid: tuple[int, int]

    @property
    def num_rows(self) -> int:
        """Rows that it is encoded in."""
        return self.grid[0] * self.grid[1]

    @property
    def span(self) -> tuple[int, int]:
        """Its first token, and the one behind its last."""
        return self.runs[0][0], self.runs[-1][0] + self.runs[-1][1]


class PromptPictures:
    """The pictures of one prompt, encoded. Nothing of it changes: any thread may ask."""

    def __init__(
        self, pictures: Sequence[PlacedPicture], rows: Sequence[Float32], length: int, m_rope: bool, both_ways: bool
    ) -> None:
        """Args: pictures in their order; rows of each; tokens of the prompt; see `Vision` for the others."""
        self._pictures = tuple(pictures)
        self._rows = np.concatenate(rows)
        self._row_of = np.full(length, -1, np.int32)
        first = 0
        for one in pictures:
            for start, count in one.runs:
                self._row_of[start : start + count] = np.arange(first, first + count)
                first += count
        self._both_ways = both_ways
        self._rotary = rotary_positions(pictures if m_rope else (), length) if m_rope or both_ways else None
        if both_ways and self._rotary is not None:
            self._rotary[-1] = np.arange(1, length + 1)
            for one in pictures:
                self._rotary[-1, slice(*one.span)] = one.span[1]

    @property
    def width(self) -> int:
        """Elements of a row."""
        return int(self._rows.shape[1])

    @property
    def rotates(self) -> bool:
        """Whether tokens have rotary positions, that are not theirs or that say how far they see."""
        return self._rotary is not None

    @property
    def both_ways(self) -> bool:
        """Whether tokens of a picture see those after them: the last rotary position is behind what one sees."""
        return self._both_ways

    def take(self, start: int, count: int) -> tuple[Float32, Int32]:
        """Return the rows that tokens from `start` on take, and which of these each takes, -1: none."""
        own = np.full(count, -1, np.int32)
        known = self._row_of[start : start + count]
        own[: len(known)] = known
        taken = own >= 0
        rows = self._rows[own[taken]]
        own[taken] = np.arange(len(rows))
        return rows, own

    def rotary(self, start: int, count: int) -> Int32:
        """Return int32[4, count], the rotary positions of tokens from `start` on; those behind the prompt go on."""
        assert self._rotary is not None
        length = self._rotary.shape[1]
        found = np.empty((AXES, count), np.int32)
        inside = max(0, min(count, length - start))
        found[:, :inside] = self._rotary[:, start : start + inside]
        last = int(self._rotary[:-1, -1].max()) - (length - 1)  # how far the text is behind its tokens' places
        found[:, inside:] = np.arange(start + inside, start + count) + last
        if self._both_ways:
            found[-1, inside:] = np.arange(start + inside + 1, start + count + 1)
        return found

    def words(self, token_ids: Sequence[int]) -> list[int]:
        """Return the tokens of the prompt that are no rows."""
        return [token for token, row in zip(token_ids, self._row_of.tolist(), strict=True) if row < 0]

    def key(self, start: int, end: int) -> bytes:
        """Return what sets tokens `start` to `end - 1` apart from others of the same ids: whose rows they are."""
        parts = []
        for one in self._pictures:
            first, last = one.span
            if first < end and start < last:
                parts.append(one.digest + first.to_bytes(8, "little"))
        return b"".join(parts)

    def chunk_end(self, start: int, end: int, most: int) -> int:
        """Return where a chunk of tokens from `start` ends that was to end at `end`: where rows of a picture see one
        another, behind it or before it, or nowhere where it has begun already; `most`: tokens that the step has room
        for."""
        for one in self._pictures if self._both_ways else ():
            first, last = one.span
            if first < end < last:
                return last if last - start <= most else max(first, start)
        return end


def rotary_positions(pictures: Sequence[PlacedPicture], length: int) -> Int32:
    """Return int32[4, length], rotary positions of a prompt: rows of a picture share the time at which it begins, and
    have their places in it; the text goes on behind the larger of its sides.

    Source: Wang et al.: "Qwen2-VL", section 2.1; llama.cpp 11434, `mtmd_image_tokens_get_decoder_pos`.
    """
    found = np.empty((AXES, length), np.int32)
    at, token = 0, 0
    for one in pictures:
        first, last = one.span
        found[:, token:first] = np.arange(at, at + first - token)
        at += first - token
        rows, columns = np.divmod(np.arange(one.num_rows, dtype=np.int32), np.int32(one.grid[1]))
        found[:, first:last] = at + np.stack([np.zeros_like(rows), rows, columns, np.zeros_like(rows)])
        at, token = at + max(one.grid), last
    found[:, token:] = np.arange(at, at + length - token)
    return found


class PictureArrays(TypedDict, total=False):
    """Fields of `Batch`."""

    input_rows: Float32
    row_of: Int32
    rope_positions: Int32


def picture_arrays(spans: Sequence[tuple[PromptPictures | None, int, int]]) -> PictureArrays:
    """Return the rows that a step's tokens take and the positions by which they rotate; nothing where no sequence has
    pictures.

    Args:
        spans: of each sequence in turn its pictures, the first of its tokens in the step, and how many they are.
    """
    found: PictureArrays = {}
    if any(pictures is not None for pictures, _, _ in spans):
        rows, row_of = _taken(spans)
        if len(rows):
            found["input_rows"], found["row_of"] = rows, row_of
    if any(pictures is not None and pictures.rotates for pictures, _, _ in spans):
        both_ways = any(pictures is not None and pictures.both_ways for pictures, _, _ in spans)
        found["rope_positions"] = np.concatenate([_rotary(*span, both_ways) for span in spans], axis=1)
    return found


def _taken(spans: Sequence[tuple[PromptPictures | None, int, int]]) -> tuple[Float32, Int32]:
    rows: list[Float32] = []
    row_of: list[Int32] = []
    for pictures, start, count in spans:
        own = np.full(count, -1, np.int32)
        if pictures is not None:
            taken, own = pictures.take(start, count)
            own[own >= 0] += sum(map(len, rows))
            rows.append(taken)
        row_of.append(own)
    return np.concatenate(rows), np.concatenate(row_of)


def _rotary(pictures: PromptPictures | None, start: int, count: int, both_ways: bool) -> Int32:
    if pictures is not None and pictures.rotates:
        return pictures.rotary(start, count)
    found = np.tile(np.arange(start, start + count, dtype=np.int32), (AXES, 1))
    found[-1] += both_ways
    return found
