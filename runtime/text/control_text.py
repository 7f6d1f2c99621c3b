"""Text of control tokens in what a client says: kept from being read as these tokens.

A chat template writes the messages between control tokens of its own, and one text comes out. So that a message that
says `<|im_end|>` ends no turn, a character that stands nowhere else is put into each such text before the template
sees it. What still reads as a control token afterwards is the template's, and the character is taken out of the rest.

It is also put where a message begins or ends with a part of a control token, which what stands beside it could
complete. A string of letters is left alone there, as is the middle of a token: templates write `'<|' + role + '|>'`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from .reasoning import CLOSE, OPEN

# An assistant's message may hold its own reasoning and calls of tools, which it wrote with these: they are its to say.
ASSISTANT_MARKERS: Final = frozenset({OPEN, CLOSE, "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"})
# Noncharacters, which are for use within a program, then characters for private use.
_CANDIDATES: Final = (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF900))


class NoMarkError(Exception):
    """A text that holds every character that could stand for nothing else."""


class ControlTexts:
    """The texts of a model's control tokens. Immutable.

    Args:
        texts: of the tokens; those of one character cannot be parted, and are left out.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = tuple(sorted({text for text in texts if len(text) > 1}))
        self._others = tuple(text for text in self._texts if text not in ASSISTANT_MARKERS)
        self._longest = max(map(len, self._texts), default=0)
        self._beginnings = tuple({text[:end] for text in self._texts for end in range(1, len(text))})
        self._ends = tuple({text[start:] for text in self._texts for start in range(1, len(text))})
        edges = {text[0] for text in self._texts} | {text[-1] for text in self._texts}
        self._edge = re.compile("[" + "".join(map(re.escape, sorted(edges))) + "]") if edges else None

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them."""
        return self._texts

    def hide(self, values: Mapping[str, object], source: str = "") -> tuple[Mapping[str, object], str]:
        """Mark texts of control tokens in the strings of JSON values, keys included.

        Args:
            values: variables of a template.
            source: of the template.

        Returns:
            The values, and the mark: "" where there was nothing to hide, and the values are the same.

        Raises:
            NoMarkError: there is no character for it.
        """
        if not any(map(self._concerns, _strings(values))):
            return values, ""
        mark = self._choose(values, source)
        return {name: self._hidden(value, mark, self._texts) for name, value in values.items()}, mark

    def _touches(self, text: str) -> bool:
        """Whether it holds a character with which control tokens begin or end: most texts hold none."""
        return self._edge is not None and self._edge.search(text) is not None

    def _concerns(self, text: str) -> bool:
        """Whether it holds a control token, or begins or ends with a part of one."""
        if not self._touches(text):
            return False
        return any(self._edges(text.strip())) or any(control in text for control in self._texts)

    def _edges(self, body: str) -> tuple[bool, bool]:
        """Whether it begins with the end of a control token, and ends with the beginning of one."""
        if body.isidentifier():
            return False, False
        head, tail = body[: self._longest], body[-self._longest :]
        begins = self._touches(head) and head.startswith(self._ends)
        return begins, self._touches(tail) and tail.endswith(self._beginnings)

    def _choose(self, values: Mapping[str, object], source: str) -> str:
        used = {char for text in (source, *_strings(values), *self._texts) for char in text}
        whole = "\0".join((source, *_strings(values))).lower()
        for code in _CANDIDATES:
            if chr(code) not in used and _escaped(chr(code)) not in whole:
                return chr(code)
        raise NoMarkError

    def _hidden(self, value: object, mark: str, texts: tuple[str, ...]) -> object:
        if isinstance(value, str):
            return self._marked(value, mark, texts)
        if isinstance(value, Mapping):
            inner = self._others if value.get("role") == "assistant" else texts
            return {self._hidden(key, mark, texts): self._hidden(item, mark, inner) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._hidden(item, mark, texts) for item in value]
        return value

    def _marked(self, text: str, mark: str, texts: tuple[str, ...]) -> str:
        if not self._concerns(text):
            return text
        for control in texts:
            while control in text:
                text = text.replace(control, control[0] + mark + control[1:])
        body = text.strip()  # templates trim
        at = text.index(body)
        first, last = (mark if edge else "" for edge in self._edges(body))
        return f"{text[:at]}{first}{body}{last}{text[at + len(body) :]}"


def shown(text: str, mark: str) -> str:
    """A text as it was before, whether the template wrote the mark itself or, as JSON and Python may, its number."""
    return text.replace(mark, "").replace(_escaped(mark), "") if mark else text


def _escaped(mark: str) -> str:
    return f"\\u{ord(mark):04x}"


def _strings(value: object) -> Iterator[str]:
    """All strings within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
