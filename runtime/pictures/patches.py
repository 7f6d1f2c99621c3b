"""Pictures, which are encoded at once, and what an encoder reads of one."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ...artifacts.vision import CHANNELS, Vision

DIGEST_BYTES = 16
"""Of BLAKE2b: no two pictures that anyone can find share one."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, or a part of one, as an encoder takes it.

    Attributes:
        height: in pixels; a multiple of what becomes a row.
        width: likewise.
        pixels: uint8[height, width, 3], red, green, blue.
    """

    height: int
    width: int
    pixels: bytes

    def digest(self) -> bytes:
        """Return what it is known by."""
        size = self.height.to_bytes(4, "little") + self.width.to_bytes(4, "little")
        return hashlib.blake2b(size + self.pixels, digest_size=DIGEST_BYTES, person=b"picture").digest()

    def grid(self, vision: Vision) -> tuple[int, int]:
        """Return how many rows there are from top to bottom, and from left to right."""
        side = vision.patch_size * vision.merge
        return self.height // side, self.width // side


@dataclass(frozen=True, slots=True)
class RowsOf:
    """Rows of a picture, `first` to `first + count - 1`, each of which stands for a token."""

    picture: Picture
    first: int
    count: int


Piece = str | RowsOf
"""Of what an image becomes: text, in which control tokens count, or rows."""


@dataclass(frozen=True, slots=True)
class Patches:
    """A picture in patches, row by row from the top left on.

    Attributes:
        values: float32[height * width, patch_values], see `Vision`.
        height: in patches; a multiple of `Vision.merge`.
        width: likewise.
    """

    values: npt.NDArray[np.float32]
    height: int
    width: int


def patches_of(picture: Picture, vision: Vision) -> Patches:
    """Return the patches of a picture."""
    side = vision.patch_size
    height, width = picture.height // side, picture.width // side
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(height, side, width, side, CHANNELS)
    mean, std = (np.array(numbers, np.float32) for numbers in (vision.mean, vision.std))
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    values = scaled.transpose(0, 2, 4, 1, 3).reshape(height * width, vision.patch_values)
    return Patches(np.ascontiguousarray(values), height, width)
