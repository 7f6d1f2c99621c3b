"""Responses and their items, kept for a while: clients name them instead of sending them again."""

from __future__ import annotations

import threading
from collections import OrderedDict

from ....artifacts.dataclass import dataclass
from ..core.conversation import Message
from ..core.encoding import dump
from ..core.images import joined_images
from .response_schema import ResponseDocument

KEPT_RESPONSES = 1024
KEPT_CHARS = 16 << 20
KEPT_IMAGE_CHARS = 128 << 20  # of base64; one that goes through a conversation is there once


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, the conversation up to its end, and its items as messages, by their ids."""

    document: ResponseDocument
    messages: tuple[Message, ...]
    items: dict[str, Message]

    @property
    def cost(self) -> int:
        """Characters but for images, about. A client's tools and metadata, which come back, may be most of them."""
        return sum(len(str(message)) for message in self.messages) + len(dump(self.document))

    @property
    def images(self) -> dict[str, int]:
        """Images of the conversation by their marks, and the characters of each."""
        return {image.given.mark: len(image.given.source) for image in joined_images(self.messages)}


class ResponseStore:
    """The latest responses of each client. Thread-safe; the oldest go first."""

    def __init__(self) -> None:
        """An empty one."""
        self._lock = threading.Lock()
        self._responses: OrderedDict[tuple[str, str], StoredResponse] = OrderedDict()
        self._items: dict[tuple[str, str], Message] = {}
        self._chars = 0
        self._images: dict[str, int] = {}  # by their marks: how many responses have each
        self._image_chars = 0

    def put(self, client: str, response: StoredResponse) -> None:
        """Keep one."""
        with self._lock:
            self._responses[client, response.document.id] = response
            self._items.update({(client, item): message for item, message in response.items.items()})
            self._count(response, 1)
            while len(self._responses) > 1 and self._full():
                self._drop(next(iter(self._responses)))

    def get(self, client: str, response_id: str) -> StoredResponse | None:
        """A response of this client, or None."""
        with self._lock:
            return self._responses.get((client, response_id))

    def item(self, client: str, item_id: str) -> Message | None:
        """An item of this client's as a message, or None."""
        with self._lock:
            return self._items.get((client, item_id))

    def delete(self, client: str, response_id: str) -> bool:
        """Forget one; returns whether it was there."""
        with self._lock:
            if (client, response_id) not in self._responses:
                return False
            self._drop((client, response_id))
            return True

    def _full(self) -> bool:
        many = len(self._responses) > KEPT_RESPONSES
        return many or self._chars > KEPT_CHARS or self._image_chars > KEPT_IMAGE_CHARS

    def _count(self, response: StoredResponse, change: int) -> None:
        """Of what is kept, count one response more or less."""
        self._chars += change * response.cost
        for mark, chars in response.images.items():
            before = self._images.pop(mark, 0)
            if before + change:
                self._images[mark] = before + change
            if not before or not before + change:
                self._image_chars += change * chars

    def _drop(self, key: tuple[str, str]) -> None:
        response = self._responses.pop(key)
        self._count(response, -1)
        for item in response.items:
            self._items.pop((key[0], item), None)
