"""Arguments of a call as they stream: what a family writes, made the text of a JSON object."""

from __future__ import annotations

import json
import re
from typing import Final, Protocol

from .argument_types import as_json, is_text, member, types_of
from .chat_styles import Literals, Tagged
from .json_scan import ObjectEnd, is_object, open_end
from .literals import LiteralError, json_of
from .nested_tags import nested_json

_LONGEST_KEY: Final = 1024
_CHARACTER_DATA: Final = re.compile(r"\s*<!\[CDATA\[(.*)\]\]>\s*", re.DOTALL)
_TEXT_KINDS: Final = ("true", "string")  # what a tag says of a value that is a text
_OPENING: Final = "([{"
_CLOSING: Final = ")]}"


class Arguments(Protocol):
    """The arguments of one call, from their beginning on."""

    rest: str | None
    """What follows them; None while they go on."""
    whole: bool
    """Whether they are the text of a JSON object, once they have ended."""

    def push(self, text: str) -> str:
        """Take a piece; returns what is known now of the JSON."""


class JsonArguments:
    """A JSON object, as it is."""

    def __init__(self) -> None:
        self.rest: str | None = None
        self.whole = False
        self._object = ObjectEnd("")
        self._pieces: list[str] = []

    def push(self, text: str) -> str:
        """See `Arguments`."""
        length, ended = self._object.find(text)
        self._pieces.append(text[:length])
        if ended:
            self.rest, self.whole = text[length:], is_object("".join(self._pieces))
        return text[:length]


class TaggedArguments:
    """Values between tags; those that the schema says are texts stream as they come, the others when they are complete.

    Args:
        style: of the tags.
        schema: of the arguments.
    """

    def __init__(self, style: Tagged, schema: object) -> None:
        self.rest: str | None = None
        self.whole = False
        self._style = style
        self._schema = schema
        self._held = ""
        self._count = 0
        self._close = ""  # of the value that is open
        self._key = ""
        self._streams = False  # it is a text
        self._begun = False
        self._searched = 0  # of what is held, for the closing tag

    def push(self, text: str) -> str:
        """See `Arguments`."""
        self._held += text
        made = ""
        while self.rest is None and (step := self._value() if self._close else self._between()) is not None:
            made += step
        return made

    def _between(self) -> str | None:
        self._held = self._held.lstrip()
        end = self._style.end.match(self._held)
        if end is not None:
            self.rest, self.whole = self._held[end.end() :], True
            return "}" if self._count else "{}"
        found = self._style.key.match(self._held[:_LONGEST_KEY])
        if found is None:
            # What is neither a key nor the end is left out: its first character, and so on to the next tag.
            if len(self._held) > _LONGEST_KEY:
                self._held = self._held[1:]
                return ""
            return None
        self._key = found["key"].strip()
        kind = found.groupdict().get("kind")
        types = types_of(member(self._schema, self._key))
        self._streams = kind in _TEXT_KINDS if kind is not None else is_text(types)
        self._streams = self._streams and not (self._style.nested or self._style.character_data)
        self._close = self._style.close.format(key=self._key)
        self._begun, self._searched = not self._style.lines, 0
        self._held = self._held[found.end() :]
        self._count += 1
        name = json.dumps(self._key, ensure_ascii=False)
        return ("{" if self._count == 1 else ", ") + f"{name}: " + ('"' if self._streams else "")

    def _value(self) -> str | None:
        if not self._begun:
            if not self._held:
                return None
            self._held, self._begun = self._held.removeprefix("\n"), True
        at = self._held.find(self._close, self._searched)
        if at >= 0 and self._style.character_data and _open_data(self._held[:at]):
            self._searched = at + len(self._close)
            return ""
        if at >= 0:
            value, self._held = self._held[:at], self._held[at + len(self._close) :]
            if self._style.lines:
                value = value.removesuffix("\n")
            self._close = ""
            return _quoted(value) + '"' if self._streams else self._converted(value)
        if not self._streams:
            self._searched = max(0, len(self._held) - len(self._close) + 1)
            return None
        known = open_end(self._held, (self._close, "\n" + self._close) if self._style.lines else (self._close,))
        piece, self._held = self._held[:known], self._held[known:]
        return _quoted(piece) or None

    def _converted(self, value: str) -> str:
        schema = member(self._schema, self._key)
        if self._style.nested:
            return nested_json(value, schema, self._style)
        if self._style.character_data and (found := _CHARACTER_DATA.fullmatch(value)) is not None:
            return json.dumps(found[1], ensure_ascii=False)
        return as_json(value, types_of(schema))


class LiteralArguments:
    """Values of a programming language; each is given when it is complete.

    Args:
        style: how they are written.
    """

    def __init__(self, style: Literals) -> None:
        self.rest: str | None = None
        self.whole = False
        self._style = style
        self._held = ""
        self._count = 0
        self._good = True
        self._at = -1  # how far the value that is open has been read; none is where this is below 0
        self._quote = ""  # of the string that is open
        self._depth = 0
        signs = sorted([*style.quotes, *_OPENING, *_CLOSING, ","], key=len, reverse=True)
        self._signs = re.compile("|".join(map(re.escape, signs)))
        self._longest = max(map(len, style.quotes))

    def push(self, text: str) -> str:
        """See `Arguments`."""
        self._held += text
        made = ""
        while self.rest is None and (step := self._between() if self._at < 0 else self._value()) is not None:
            made += step
        return made

    def _between(self) -> str | None:
        self._held = self._held.lstrip(" \t\r\n,")
        if self._held.startswith(self._style.end):
            self.rest, self.whole = self._held[len(self._style.end) :], self._good
            return "}" if self._count else "{}"
        found = self._style.key.match(self._held[:_LONGEST_KEY])
        if found is None:
            if len(self._held) > _LONGEST_KEY:
                self.rest, self._good = self._held, False
            return None
        self._held = self._held[found.end() :]
        self._count += 1
        self._at, self._quote, self._depth = 0, "", 0
        key = found["key"].strip("\"'")
        return ("{" if self._count == 1 else ", ") + f"{json.dumps(key, ensure_ascii=False)}: "

    def _value(self) -> str | None:
        end = self._end()
        if end is None:
            return None
        value, self._held, self._at = self._held[:end].strip(), self._held[end:], -1
        try:
            return json_of(value, self._style)
        except (LiteralError, RecursionError):
            self._good = False
            return json.dumps(value, ensure_ascii=False)

    def _end(self) -> int | None:
        """Where the value ends: at a comma or the end of the arguments, outside of strings and brackets."""
        text = self._held
        while True:
            if self._quote:
                at = self._string_end(text)
                if at < 0:
                    return None
                self._at, self._quote = at + len(self._quote), ""
            found = self._signs.search(text, self._at)
            if found is None:  # the end may be the beginning of a longer quote
                self._at = max(self._at, len(text) - self._longest + 1)
                return None
            if found[0] in self._style.quotes:
                self._quote, self._at = found[0], found.end()
            elif found[0] in _OPENING:
                self._depth, self._at = self._depth + 1, found.end()
            elif not self._depth and (found[0] == "," or found[0] == self._style.end):
                return found.start()
            else:
                self._depth, self._at = max(0, self._depth - (found[0] in _CLOSING)), found.end()

    def _string_end(self, text: str) -> int:
        """Where the string ends that is open; -1 where it does not yet, and it is known how far it was read."""
        at = self._at
        while (end := text.find(self._quote, at)) >= 0:
            back = end
            while self._style.escapes and back > self._at and text[back - 1] == "\\":
                back -= 1
            if (end - back) % 2 == 0:
                return end
            at = end + 1
        self._resume(text)
        return -1

    def _resume(self, text: str) -> None:
        """Look further from where the string cannot end before; never from between a backslash and what it escapes."""
        end = max(self._at, len(text) - len(self._quote) + 1)
        while self._style.escapes and end > self._at and text[end - 1] == "\\":
            end -= 1
        self._at = end


def _open_data(text: str) -> bool:
    """Whether a text begins XML's character data and does not end it."""
    return text.lstrip().startswith("<![CDATA[") and "]]>" not in text


def _quoted(text: str) -> str:
    """What a text is within the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
