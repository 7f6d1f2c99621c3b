"""Images as clients send them in JSON: base64, or as a `data:` URL."""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Sequence
from dataclasses import field

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import RequestError, printable
from ...artifacts.vision import Vision
from .limits import DEFAULT_LIMITS, ImageLimits
from .patches import Piece

_MARK_BYTES = 16


def _new_mark() -> str:
    return f"image{secrets.token_hex(_MARK_BYTES)}"


@dataclass(frozen=True, slots=True)
class GivenImage:
    """An image of a request.

    Attributes:
        source: base64 of its file, or a `data:` URL; bytes of the file, where a program has them.
        name: of the field that it came in, for messages.
        mark: what stands for it in its message, which nobody can guess.
    """

    source: str | bytes = field(repr=False)
    name: str
    mark: str = field(default_factory=_new_mark)


def image_bytes(image: GivenImage, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """Return the bytes of an image's file.

    Raises:
        RequestError: it is no base64, a URL that would have to be fetched, or too large.
    """
    source = image.source
    if isinstance(source, bytes):
        return source
    if not source:
        raise RequestError(image.name, "expected base64 or a data: URL, found nothing")
    scheme, colon, _ = source[:64].partition(":")
    if colon and scheme.lower() == "data":
        header, comma, _ = source.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise RequestError(image.name, "expected data:image/...;base64, and the image, found another data: URL")
        source = source[len(header) + 1 :]
    elif colon:
        found = printable(scheme, 20)
        problem = f"expected a data: URL or base64, found a URL of {found}: images are not fetched"
        raise RequestError(image.name, problem)
    if len(source) > limits.file_bytes * 4 // 3 + 1024:
        raise RequestError(image.name, f"expected an image of at most {limits.file_bytes} bytes, found more")
    try:
        return base64.b64decode("".join(source.split()), validate=True)
    except (ValueError, binascii.Error):
        raise RequestError(image.name, "expected base64, found something else") from None


def read_images(
    images: Sequence[GivenImage], vision: Vision, limits: ImageLimits = DEFAULT_LIMITS
) -> dict[str, list[Piece]]:
    """Return what becomes of each image in a prompt, by its mark.

    Raises:
        RequestError: one cannot be read; names its field.
    """
    from .arrange import arrange  # noqa: PLC0415 - Pillow takes long to import, and few servers see
    from .decode import decode_image  # noqa: PLC0415

    if len(images) > limits.images:
        raise RequestError("images", f"expected at most {limits.images} images, found {len(images)}")
    read: dict[str, list[Piece]] = {}
    began = time.monotonic()
    for image in images:
        if time.monotonic() - began > limits.seconds:
            problem = f"expected images that are decoded within {limits.seconds:g} s, found more"
            raise RequestError(image.name, problem)
        read[image.mark] = arrange(decode_image(image_bytes(image, limits), image.name, limits), vision, image.name)
    return read
