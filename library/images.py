"""Images of a program: files or their bytes, before a text or in the messages of a chat."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import RequestError, os_problem, printable, shown
from .checks import is_list

if TYPE_CHECKING:
    from ..artifacts.vision import Vision
    from ..runtime.engine.pictures import PlacedPicture
    from ..runtime.pictures.read import GivenImage

# ruff: noqa: PLC0415 - what reads images is imported where there are some

Image = bytes | str | os.PathLike[str]
"""The bytes of a file, or its path."""


@dataclass(frozen=True, slots=True)
class SeenPrompt:
    """A prompt with images, as `Model.with_images` makes it.

    Attributes:
        token_ids: of its text; those that are rows of pictures are 0.
        pictures: what the model sees.
    """

    token_ids: tuple[int, ...]
    pictures: tuple[PlacedPicture, ...]


def given_images(images: object, name: str) -> list[GivenImage]:
    """Return images as they are read.

    Raises:
        RequestError: they are none, or a file cannot be read.
    """
    if not is_list(images):
        raise RequestError(name, f"expected a list of paths or bytes, found {shown(images)}")
    if not images:
        return []
    from ..runtime.pictures.read import GivenImage

    return [GivenImage(_bytes(one, f"{name}[{index}]"), f"{name}[{index}]") for index, one in enumerate(images)]


def _bytes(image: object, name: str) -> bytes:
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str | os.PathLike):
        raise RequestError(name, f"expected a path or bytes, found {shown(image)}")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise RequestError(name, f"{printable(str(image))}: {os_problem(error)}") from None
    except ValueError:  # of NUL, or half a surrogate pair
        raise RequestError(name, f"expected a path that a file can have, found {shown(image)}") from None


def seen_prompt(
    text: str, images: Sequence[GivenImage], vision: Vision | None, encode: Callable[[str, bool], Sequence[int]]
) -> SeenPrompt:
    """Return a prompt in whose text marks stand for images; see `picture_prompt`.

    Raises:
        RequestError: the model does not see, or an image cannot be read.
    """
    if vision is None:
        if images:
            raise RequestError(images[0].name, "the model reads text alone")
        return SeenPrompt(tuple(encode(text, True)), ())
    from ..runtime.engine.picture_prompt import picture_prompt
    from ..runtime.pictures.read import read_images

    return SeenPrompt(*picture_prompt(text, read_images(images, vision), vision, encode))
