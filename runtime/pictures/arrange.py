"""What becomes of an image in a prompt: pictures, which are encoded at once, and texts around them and their rows.

Sizes are those of llama.cpp 11434 (`tools/mtmd/mtmd-image.cpp`), so that an image has as many tokens there as here, and
pixels those of Pillow, as in the processors of Hugging Face's transformers: an image fills its picture, no border.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import RequestError
from ...artifacts.vision import Vision
from .patches import Picture, Piece, RowsOf

_RESAMPLES: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


_float: Final = np.float32  # in which llama.cpp reckons: a multiple may be one more or less else


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels, or tiles."""

    width: int
    height: int


def arrange(image: Image.Image, vision: Vision, name: str) -> list[Piece]:
    """Return the pieces of an image, in their order.

    Args:
        image: RGB, as `decode_image` returns it.
        vision: of the model.
        name: of the field that it came in, for messages.

    Raises:
        RequestError: a picture of it has more patches than the model's code takes.
    """
    if vision.resize in ("square", "pixels"):
        size = Size(vision.image_size, vision.image_size)
        if vision.resize == "pixels":
            size = near_size(image.width, image.height, vision.patch_size * vision.merge, vision)
        pieces = [vision.begin, *_rows(_resized(image, size, vision), vision, name), vision.end]
    else:
        pieces = list(_tiled(image, vision, name))
    return [piece for piece in pieces if piece != ""]


def near_size(width: int, height: int, unit: int, vision: Vision) -> Size:
    """Return sides that are multiples of `unit`, of about an image's proportions, within the pixels of a picture."""
    sides, each = (_float(height), _float(width)), _float(unit)
    high, wide = (max(unit, _rounded(side / each) * unit) for side in sides)
    if vision.max_pixels and high * wide > vision.max_pixels:
        shrink = np.sqrt(sides[0] * sides[1] / _float(vision.max_pixels))
        high, wide = (max(unit, math.floor(side / shrink / each) * unit) for side in sides)
    elif vision.min_pixels and high * wide < vision.min_pixels:
        grow = np.sqrt(_float(vision.min_pixels) / (sides[0] * sides[1]))
        high, wide = (math.ceil(side * grow / each) * unit for side in sides)
    return Size(wide, high)


def _rounded(value: np.float32) -> int:
    """Return the nearest integer, halves away from zero, as C rounds."""
    return math.floor(float(value) + 0.5)


def _resized(image: Image.Image, size: Size, vision: Vision) -> Image.Image:
    if image.size == (size.width, size.height):
        return image
    return image.resize((size.width, size.height), _RESAMPLES[vision.resample])


def _rows(image: Image.Image, vision: Vision, name: str) -> Iterator[Piece]:
    """Return the rows of a picture, from top to bottom, with the text between them."""
    picture = Picture(image.height, image.width, image.tobytes())
    high, wide = picture.grid(vision)
    if (patches := high * wide * vision.merge**2) > vision.max_patches:
        raise RequestError(name, f"expected at most {vision.max_patches} patches of a picture, found {patches}")
    if not vision.row_end:
        yield RowsOf(picture, 0, high * wide)
        return
    for row in range(high):
        yield RowsOf(picture, row * wide, wide)
        if row + 1 < high:
            yield vision.row_end


def _tiled(image: Image.Image, vision: Vision, name: str) -> Iterator[Piece]:
    """Return the pieces of an image that has tiles, and an overview of all."""
    side = vision.image_size
    grid = _idefics_grid(image, vision) if vision.resize == "idefics3" else _internvl_grid(image, vision)
    tiles, source = grid.width * grid.height, image
    own_texts = bool(tiles) and bool(vision.overview_begin)
    if not own_texts:
        yield vision.begin
    if tiles:
        if vision.resize == "idefics3":
            source = _resized(image, _longest(image, vision.longest_edge), vision)
        refined = _resized(source, Size(grid.width * side, grid.height * side), vision)
        source = refined if vision.resize == "idefics3" else image
        for row in range(grid.height):
            for column in range(grid.width):
                yield vision.tile_begin.format(row=row + 1, column=column + 1)
                box = (column * side, row * side, (column + 1) * side, (row + 1) * side)
                yield from _rows(refined.crop(box), vision, name)
            yield vision.tile_row_end
    if own_texts:
        yield vision.overview_begin
    yield from _rows(_resized(source, Size(side, side), vision), vision, name)
    yield vision.overview_end if own_texts else vision.end


def _longest(image: Image.Image, longest: int) -> Size:
    """Return the size of an image whose longer side is so many pixels; the other one is even."""
    if not longest:
        return Size(image.width, image.height)
    ratio = image.width / image.height
    if image.width >= image.height:
        height = max(1, int(longest / ratio))
        return Size(longest, height + height % 2)
    width = max(1, int(longest * ratio))
    return Size(width + width % 2, longest)


def _idefics_grid(image: Image.Image, vision: Vision) -> Size:
    size, side = _longest(image, vision.longest_edge), vision.image_size
    if not vision.longest_edge:  # an older file's, which does not say it
        near = near_size(image.width, image.height, side, vision)
        return Size(near.width // side, near.height // side)
    return Size(-(-size.width // side), -(-size.height // side))


def _internvl_grid(image: Image.Image, vision: Vision) -> Size:
    """Return the grid of tiles that wastes least of an image that is larger than one; no tiles for a smaller one."""
    side, pixels = vision.image_size, image.width * image.height
    if max(image.width, image.height) <= side:
        return Size(0, 0)
    best, most, least_wasted = Size(1, 1), 0, 0
    for grid in _grids(vision):
        width, height = grid.width * side, grid.height * side
        scale = min(_float(width) / _float(image.width), _float(height) / _float(image.height))
        used = min(int(_float(image.width) * scale) * int(_float(image.height) * scale), pixels)
        wasted = width * height - used
        if used > most or (used == most and wasted < least_wasted):
            best, most, least_wasted = grid, used, wasted
    return best


def _grids(vision: Vision) -> Iterator[Size]:
    least, most = vision.min_tiles, vision.max_tiles
    for width in range(least, most + 1):
        for height in range(max(-(-least // width), least), most // width + 1):
            yield Size(width, height)
