"""Bytes that a client sends as an image, as pixels, within limits of size, pixels and time.

Nothing of what a client says is believed: a header may promise any size, and few bytes may unfold into many.
"""

from __future__ import annotations

import io
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from ...artifacts.errors import RequestError, printable
from .limits import DEFAULT_LIMITS, ImageLimits

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_DEEP_MODES: Final = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_WHITE: Final = (255, 255, 255)


def decode_image(data: bytes, name: str, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Return an image as it is to be seen: RGB, turned as its EXIF says, on white where it can be seen through.

    Of one that moves the first frame is taken. Of 16 bits a channel the upper 8 are.

    Args:
        data: of the file.
        name: of the field that it came in, for messages.
        limits: of it.

    Raises:
        RequestError: it is none of `FORMATS`, cut short, damaged, or beyond the limits.
    """
    if not data:
        raise RequestError(name, "expected an image, found no bytes")
    if len(data) > limits.file_bytes:
        raise RequestError(name, f"expected an image of at most {limits.file_bytes} bytes, found {len(data)}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, name, limits)
            image.load()
            return _as_seen(image)
    except RequestError:
        raise
    except UnidentifiedImageError:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise RequestError(name, f"expected an image in {known}, found {len(data)} bytes of something else") from None
    except Exception as error:  # whatever a decoder makes of bytes that anyone may send
        raise RequestError(name, f"the image cannot be decoded: {printable(str(error) or repr(error), 200)}") from None


def _check_size(image: Image.Image, name: str, limits: ImageLimits) -> None:
    """Hold what the header says against the limits, before a pixel is made."""
    width, height = image.size
    shorter, longer = sorted((width, height))
    if not shorter:
        raise RequestError(name, f"expected pixels, found an image of {width} x {height}")
    if width * height > limits.pixels or longer > limits.side:
        most = f"at most {limits.pixels} pixels and {limits.side} a side"
        raise RequestError(name, f"expected {most}, found an image of {width} x {height}")
    if longer > limits.ratio * shorter:
        most = f"a side at most {limits.ratio} times as long as the other"
        raise RequestError(name, f"expected {most}, found an image of {width} x {height}")


def _as_seen(image: Image.Image) -> Image.Image:
    turned: Image.Image = ImageOps.exif_transpose(image)
    if turned.mode in _DEEP_MODES:
        turned = _upper_bits(turned)
    if turned.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in turned.info:
        seen = turned.convert("RGBA")
        below = Image.new("RGBA", seen.size, (*_WHITE, 255))
        turned = Image.alpha_composite(below, seen)
    return turned.convert("RGB")


def _upper_bits(image: Image.Image) -> Image.Image:
    """Return gray of 8 bits of what has 16 or more: what is beyond white is white."""
    return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
