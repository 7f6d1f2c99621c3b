"""JSON in a text that comes in pieces: where an object ends, and whether it is one."""

from __future__ import annotations

import json
import re
from typing import Final, NoReturn

_IN_OBJECT: Final = re.compile(r'["{}<]')
_IN_STRING: Final = re.compile(r'["\\]')


class ObjectEnd:
    """Finds the end of a JSON object, by its braces and strings, in a text that comes in pieces.

    Args:
        closer: a text that ends it too, outside of a string; "" for none.
        depth: of the braces that are open.
    """

    def __init__(self, closer: str, depth: int = 0) -> None:
        self.depth = depth
        self._closer = closer
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> tuple[int, bool]:
        """How much of a piece belongs to the object, and whether it ends there; the rest is to come again."""
        at = 0
        if self._escaped and text:
            self._escaped, at = False, 1
        while (found := (_IN_STRING if self._in_string else _IN_OBJECT).search(text, at)) is not None:
            start, at = found.span()
            match found[0]:
                case '"':
                    self._in_string = not self._in_string
                case "\\":
                    self._escaped = at == len(text)
                    at += 1
                case "{":
                    self.depth += 1
                case "}":
                    self.depth -= 1
                    if not self.depth:
                        return at, True
                case _ if self._closer and text.startswith(self._closer, start):
                    return start, True
                case _ if self._closer.startswith(text[start:]):
                    return start, False
        return len(text), False


def open_end(text: str, markers: tuple[str, ...]) -> int:
    """Where the end of `text` may begin a marker; its length where it does not."""
    longest = max(map(len, markers)) - 1
    for at in range(max(0, len(text) - longest), len(text)):
        if any(marker.startswith(text[at:]) for marker in markers):
            return at
    return len(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # Python reads NaN, which is no JSON


JSON: Final = json.JSONDecoder(parse_constant=_refuse)


def is_object(text: str) -> bool:
    """Whether a text is that of a JSON object."""
    try:
        return isinstance(JSON.decode(text), dict)
    except (ValueError, RecursionError):
        return False
