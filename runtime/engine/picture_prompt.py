"""A rendered prompt in which marks stand for images, as tokens and the pictures whose rows they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from ...artifacts.vision import Vision
from ..pictures.patches import Picture, Piece, RowsOf
from .pictures import PICTURE_TOKEN, PlacedPicture

Encode = Callable[[str, bool], Sequence[int]]
"""Token ids of a text, and whether what begins a prompt is added."""


def picture_prompt(
    text: str, images: Mapping[str, Sequence[Piece]], vision: Vision, encode: Encode
) -> tuple[tuple[int, ...], tuple[PlacedPicture, ...]]:
    """Return the token ids of a prompt and its pictures.

    Args:
        text: with marks in it.
        images: the pieces of each, by its mark.
        vision: of the model.
        encode: what tokenizes texts; the first is what the prompt begins with.
    """
    ids: list[int] = []
    pending, first = "", True
    placed: list[tuple[Picture, list[tuple[int, int]]]] = []
    for piece in _pieces(text, images):
        if isinstance(piece, str):
            pending += piece
            continue
        if first or pending:
            ids += encode(pending, first)
        pending, first = "", False
        if piece.first == 0:
            placed.append((piece.picture, []))
        placed[-1][1].append((len(ids), piece.count))
        ids += [PICTURE_TOKEN] * piece.count
    if first or pending:
        ids += encode(pending, first)
    pictures = (PlacedPicture(picture, picture.digest(), tuple(runs), picture.grid(vision)) for picture, runs in placed)
    return tuple(ids), tuple(pictures)


def text_of(text: str, images: Mapping[str, Sequence[Piece]]) -> str:
    """Return a prompt as it is shown: of images the texts around their rows."""
    return "".join(piece for piece in _pieces(text, images) if isinstance(piece, str))


def _pieces(text: str, images: Mapping[str, Sequence[Piece]]) -> Iterator[str | RowsOf]:
    pattern = "|".join(map(re.escape, images)) or r"(?!)"
    end = 0
    for found in re.finditer(pattern, text):
        yield text[end : found.start()]
        yield from images[found.group()]
        end = found.end()
    yield text[end:]
