"""JSON as bytes: a document, an event, a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import msgspec

_encoder = msgspec.json.Encoder()


_LINE_ENDS = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")  # U+0085, U+2028 and U+2029 as UTF-8


def dump(document: object) -> bytes:
    """JSON as UTF-8, of structs too; a lone surrogate, which UTF-8 cannot say, becomes a question mark."""
    try:
        return _encoder.encode(document)
    except (UnicodeEncodeError, TypeError):  # a surrogate, or a value that only has a text
        plain = msgspec.to_builtins(document, enc_hook=str)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace")


def _one_line(document: object) -> bytes:
    """JSON that nobody takes for two lines: many a client cuts its lines where Unicode ends one."""
    data = dump(document)
    return data if data.isascii() else _LINE_ENDS.sub(_escaped, data)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


class TextFrame:
    """The bytes of events that differ in a text alone, all else of which is made once."""

    def __init__(self, event_of: Callable[[str], bytes]) -> None:
        """Args: what makes the whole event of a text; it must hold the text once."""
        mark = "\x00text\x00"  # JSON escapes it, and so no name or id holds what it becomes
        self._head, self._tail = event_of(mark).split(dump(mark))

    def of(self, text: str) -> bytes:
        """The event of this text."""
        return self._head + _one_line(text) + self._tail


def sse(document: object) -> bytes:
    """One server-sent event, to be sent in one write."""
    return b"data: " + _one_line(document) + b"\n\n"


def named_sse(event: str, document: object) -> bytes:
    """One server-sent event with a name, as OpenAI's responses and Anthropic's messages have them."""
    return b"event: " + event.encode() + b"\ndata: " + _one_line(document) + b"\n\n"


def ndjson(document: object) -> bytes:
    """One line of a stream of JSON lines."""
    return _one_line(document) + b"\n"
