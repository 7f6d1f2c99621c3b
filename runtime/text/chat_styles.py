"""How a family of models writes reasoning and calls of tools: what the rows of `chat_formats` consist of."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Final

from ...artifacts.dataclass import dataclass

# A call up to the brace of its arguments, as nearly all models write it.
NAME_FIRST: Final = re.compile(
    r'[\s\[]*\{\s*"name"\s*:\s*"(?P<name>[^"\\]{1,256})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning stands between two texts, at the beginning of an answer.

    Attributes:
        open, close: the two.
        calls_end_it: a call ends it as well: these models leave the closing text out.
    """

    open: str = "<think>"
    close: str = "</think>"
    calls_end_it: bool = False


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """A call is a JSON object with a name and arguments, or several are an array of these.

    Attributes:
        markers: texts before calls, and of each the text behind them, "" for none.
        bare: they may stand without a marker, where they are the whole answer.
        head: matches a call up to the brace of its arguments.
        name_keys: the members that may hold the name; none: the name is the one member's key.
    """

    markers: tuple[tuple[str, str], ...]
    bare: bool = False
    head: re.Pattern[str] = NAME_FIRST
    name_keys: tuple[str, ...] = ("name",)


@dataclass(frozen=True, slots=True)
class Tagged:
    """Arguments in tags, each with its key.

    Attributes:
        key: matches what stands before a value; groups: `key`, and maybe `kind`, the value's type or whether it is a
            text.
        close: stands behind a value; `{key}` in it is the key.
        end: stands behind the last value.
        lines: a value stands on lines of its own.
        nested: a value may hold further tags, the members of an object or the items of an array.
        character_data: a text may stand in XML's `<![CDATA[` and `]]>`.
        written_key, written_close: what a model writes before a value and behind it; `{key}` is the key, `{text}`
            whether the value is a text, `{kind}` its type.
    """

    key: re.Pattern[str]
    close: str
    end: re.Pattern[str]
    lines: bool = False
    nested: bool = False
    character_data: bool = False
    written_key: str = ""
    written_close: str = ""


@dataclass(frozen=True, slots=True)
class Literals:
    """Arguments as a programming language writes them, with commas between.

    Attributes:
        key: matches a key and what stands between it and its value; group: `key`.
        end: stands behind the last value.
        quotes: texts around a string, before and behind it the same.
        escapes: whether a backslash escapes within a string; then JSON may stand for any value.
        written_key, written_comma: what a model writes before a value, `{key}` being its key, and between two.
    """

    key: re.Pattern[str]
    end: str
    quotes: tuple[str, ...]
    escapes: bool
    written_key: str
    written_comma: str


@dataclass(frozen=True, slots=True)
class NamedCalls:
    """A call's name stands between texts, and its arguments behind it.

    Attributes:
        starts: a call begins with one of these.
        head: matches a call up to its arguments, from one of these on; group: `name`.
        arguments: how they are written; None: as a JSON object, with whose brace they begin.
        closers: what may stand behind a call, besides white space.
        more: matches the head of a further call in the same brackets, from `more_start` on.
        known: only what is named like a tool of the request is a call.
    """

    starts: tuple[str, ...]
    head: re.Pattern[str]
    arguments: Tagged | Literals | None = None
    closers: tuple[str, ...] = ()
    more: re.Pattern[str] | None = None
    more_start: str = ""
    known: bool = False


@dataclass(frozen=True, slots=True)
class Channels:
    """An answer is a row of messages, each with a header that says to whom it goes.

    Attributes:
        ends: texts behind a message.
        reasoning, content: what opens a message of each.
        next: stands between two messages of an answer.
        space: one space begins each message, and is none of it.
        reasons: recipients and channels that mean reasoning.
        calls: how the body of a call is written; None: it is the JSON of its arguments.
    """

    ends: tuple[str, ...]
    reasoning: str = "<|channel|>analysis<|message|>"
    content: str = "<|channel|>final<|message|>"
    next: str = "<|end|><|start|>assistant"
    space: bool = False
    reasons: tuple[str, ...] = ("analysis",)
    calls: NamedCalls | None = None


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a family writes its answers.

    Attributes:
        family: for people.
        signs: texts that all stand in a chat template of it.
        reasoning: how it reasons.
        calls: how it calls tools.
        silent: texts that are no part of what it says.
        tokens: further texts of control tokens by which its answers are read.
        channels: where it has those.
        opening: how a prompt ends with which an answer is read together.
        others: further signs, any of which will do.
        written: a call as the model writes it, of which a constraint is made; `{name}` and `{arguments}` stand for
            these. "" where that cannot be.
    """

    family: str
    signs: tuple[str, ...]
    reasoning: Reasoning = field(default_factory=Reasoning)
    calls: JsonCalls | NamedCalls | None = None
    silent: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    channels: Channels | None = None
    opening: str = ""
    others: tuple[tuple[str, ...], ...] = ()
    written: str = ""

    @property
    def calls_bare(self) -> bool:
        """Whether a call as the model writes it is JSON alone."""
        return self.written.startswith('{"')

    @property
    def beginnings(self) -> tuple[str, ...]:
        """Texts with which calls begin."""
        if isinstance(self.calls, JsonCalls):
            return tuple(marker for marker, _ in self.calls.markers)
        calls = self.calls if self.channels is None else self.channels.calls
        return () if calls is None else calls.starts

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts by which its answers are read: of control tokens, those that stand in one of these are needed."""
        found = [self.reasoning.open, self.reasoning.close, *self.silent, *self.tokens, self.written]
        if isinstance(self.calls, JsonCalls):
            found += [text for pair in self.calls.markers for text in pair if text]
        elif self.calls is not None:
            found += [*self.calls.starts, *self.calls.closers]
            if isinstance(self.calls.arguments, Tagged):
                found += [self.calls.arguments.written_key, self.calls.arguments.written_close]
        return tuple(found)
