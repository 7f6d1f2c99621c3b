"""Images of messages: a mark stands for each in its message's text until the prompt is made."""

from __future__ import annotations

from collections.abc import Sequence

from ....artifacts.dataclass import dataclass
from ...pictures.read import GivenImage
from .conversation import Message
from .errors import UnsupportedError

IMAGES = "images"
"""Where a message has those whose marks are in its text; templates do not see it."""
TEXT_ALONE = "the model reads text alone"


@dataclass(frozen=True, slots=True)
class MessageImage:
    """An image of a message.

    Attributes:
        given: what the client sends.
        refused: the parameter and the problem by which a model refuses it that reads text alone.
    """

    given: GivenImage
    refused: tuple[str, str]


Images = list[MessageImage]


def add_image(images: Images, source: object, name: str, refused: tuple[str, str]) -> str:
    """Take an image into a message's; returns its mark, for the message's text.

    Args:
        images: of the message.
        source: see `GivenImage`; what is no text is refused once it is known that the model sees.
        name: of the field that it came in.
        refused: see `MessageImage`.
    """
    images.append(MessageImage(GivenImage(source if isinstance(source, str) else "", name), refused))
    return images[-1].given.mark


def with_images(message: Message, images: Images) -> Message:
    """Return a message with its images."""
    return {**message, IMAGES: tuple(images)} if images else message


def joined_images(messages: Sequence[Message]) -> Images:
    """Return the images of several messages."""
    found = [message.get(IMAGES) for message in messages]
    return [image for images in found if isinstance(images, tuple) for image in images]


def take_images(messages: Sequence[Message]) -> tuple[tuple[Message, ...], Images]:
    """Return messages as templates take them, and the images that stood in them."""
    plain = tuple({name: value for name, value in one.items() if name != IMAGES} for one in messages)
    return plain, joined_images(messages)


def refuse_images(images: Images) -> None:
    """Refuse those of a request to a model that does not see.

    Raises:
        UnsupportedError: there is one.
    """
    for image in images:
        raise UnsupportedError(*image.refused)
