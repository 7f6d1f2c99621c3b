"""What an image of a request may be."""

from __future__ import annotations

from typing import Final

from ...artifacts.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What an image may be.

    Attributes:
        file_bytes: of its file.
        pixels: of it.
        side: pixels of its longer side.
        ratio: of its longer side to the shorter.
        images: of a request.
        seconds: that all images of a request may take until they are pixels of pictures.
    """

    file_bytes: int = 32 << 20
    pixels: int = 40_000_000
    side: int = 16384
    ratio: int = 200
    images: int = 64
    seconds: float = 30.0


DEFAULT_LIMITS: Final = ImageLimits()
