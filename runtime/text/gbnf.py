"""GBNF, llama.cpp's notation of grammars, as the library's form of Lark's language.

Each character of a GBNF grammar is a terminal of its own there. The library's lexer takes the longest terminal that
matches and does not come back, so that a terminal of several characters would hide others: of `[a-z]{2} "1" | "ab" "2"`
it would never take `ab1`. With one character each there is nothing to choose, and its parser, which is one of Earley's,
follows all that GBNF means: alternatives in any order, and left recursion, which llama.cpp itself refuses.
"""

from __future__ import annotations

import re
from typing import Final

from ...artifacts.errors import RocmforgeError, printable

MAX_DEPTH: Final = 200
"""Of groups in groups: a rule that llama.cpp's converter of JSON schemas writes has one for each letter of a key."""

MAX_RULES: Final = 1000
"""Those that are named, and groups with groups in them. The library's stack ends at a chain of 2,700."""

MAX_REPEATS: Final = 2000
"""llama.cpp's `MAX_REPETITION_THRESHOLD`: more is refused as the least, and is no limit as the most."""

# A rule's name and `::=`, after comments. Lark's rules have a colon alone, and its comments begin with `//`.
_BEGINS = re.compile(r"(?:\s|#[^\r\n]*)*[A-Za-z0-9_-]+[ \t]*::=")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_NEWLINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NUMBER = re.compile(r"[0-9]{1,9}")
_HEX: Final = {"x": 2, "u": 4, "U": 8}
_ESCAPES: Final = {"t": "\t", "r": "\r", "n": "\n"} | {char: char for char in '\\"[]-'}


class GbnfError(RocmforgeError):
    """A text that is no GBNF; says where."""


def is_gbnf(grammar: str) -> bool:
    """Whether a grammar begins as GBNF does, so that it is none of Lark's."""
    return _BEGINS.match(grammar) is not None


def lark_of(grammar: str) -> str:
    """A grammar in GBNF, in Lark's language.

    Raises:
        GbnfError: it is wrong, lacks `root`, or names a rule that it does not have.
    """
    return _Translation(grammar).text()


class _Translation:
    """A grammar under way: where it is read, and the rules and characters found so far, each with its Lark name."""

    def __init__(self, grammar: str) -> None:
        self._grammar = grammar
        self._at = 0
        self._names: dict[str, str] = {}
        self._first_use: dict[str, int] = {}
        self._rules: dict[str, str] = {}
        self._terminals: dict[str, str] = {}

    def text(self) -> str:
        """All of it."""
        self._skip(_SPACE_AND_NEWLINES)
        while self._at < len(self._grammar):
            self._rule()
        for name, at in self._first_use.items():
            if self._names[name] not in self._rules:
                raise self._error(f"there is no rule {printable(name)!r}", at)
        if "root" not in self._names:
            raise GbnfError("there is no rule 'root'")
        lines = ["%llguidance {}", f"start: {self._names['root']}"]
        lines += [f"{name}: {body}" for name, body in self._rules.items()]
        lines += [f"{name}: /{expression}/" for expression, name in self._terminals.items()]
        return "\n".join(lines) + "\n"

    def _rule(self) -> None:
        name = self._name()
        self._skip(_SPACE)
        self._expect("::=")
        self._skip(_SPACE_AND_NEWLINES)
        self._add(name, self._alternatives(0))  # of two with one name llama.cpp takes the later too
        if self._at < len(self._grammar) and self._grammar[self._at] not in "\r\n":
            raise self._error("expected a newline, or the end")
        self._skip(_SPACE_AND_NEWLINES)

    def _alternatives(self, depth: int) -> str:
        """Sequences between bars, up to what ends them; `depth`: groups around them, in which newlines are spaces."""
        found = [self._sequence(depth)]
        while self._take("|"):
            self._skip(_SPACE_AND_NEWLINES)
            found.append(self._sequence(depth))
        return " | ".join(found)

    def _sequence(self, depth: int) -> str:
        items: list[str] = []
        space = _SPACE_AND_NEWLINES if depth else _SPACE
        while (item := self._item(depth)) is not None:
            self._skip(space)
            while (repeats := self._repeats(space)) is not None:
                item = (item if item.isidentifier() or item[-1] in '")' else self._grouped(item)) + repeats
                self._skip(space)
            items.append(item)
        return " ".join(items) or '""'

    def _item(self, depth: int) -> str | None:
        """The next of a sequence, or None where it ends."""
        at = self._at
        if self._take('"'):
            return self._literal()
        if self._take("["):
            return self._terminal(self._character_class())
        if self._take("."):
            return self._terminal(r"[\x{0}-\x{10ffff}]")
        if self._take("("):
            if depth == MAX_DEPTH:
                raise self._error(f"expected at most {MAX_DEPTH} groups in one another", at)
            return self._group(depth)
        if self._grammar[at : at + 1] in ("<", "!"):
            raise self._error("tokens, as in <[1000]> or <think>, are not supported")
        return self._name() if _NAME.match(self._grammar, at) else None

    def _group(self, depth: int) -> str:
        self._skip(_SPACE_AND_NEWLINES)
        body = self._alternatives(depth + 1)
        self._expect(")")
        return self._grouped(body)

    def _grouped(self, body: str) -> str:
        """As one item: a rule of its own where it has groups in it, which the library takes 20 deep at most."""
        if "(" not in body:
            return f"({body})"
        name = f"g{len(self._rules)}"
        self._add(name, body)
        return name

    def _add(self, name: str, body: str) -> None:
        self._rules[name] = body
        if len(self._rules) > MAX_RULES:
            raise GbnfError(f"expected at most {MAX_RULES} rules and groups with groups in them, found more")

    def _name(self) -> str:
        """The Lark name of the rule that is named here."""
        found = _NAME.match(self._grammar, self._at)
        if found is None:
            raise self._error("expected the name of a rule")
        self._first_use.setdefault(found[0], self._at)
        self._at = found.end()
        return self._names.setdefault(found[0], f"r{len(self._names)}")

    def _literal(self) -> str:
        names = []
        while not self._take('"'):
            names.append(self._terminal(_escape(self._character())))
        return " ".join(names) or '""'

    def _character_class(self) -> str:
        """What is left of one, as a regular expression's."""
        at = self._at - 1
        ranges = "^" if self._take("^") else ""
        empty = ranges
        while not self._take("]"):
            first = last = self._character()
            if self._grammar[self._at : self._at + 1] == "-" and self._grammar[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character()
            if last < first:
                raise self._error("expected a range whose end is not before its beginning", at)
            ranges += _escape(first) if first == last else f"{_escape(first)}-{_escape(last)}"
        if ranges == empty:
            raise self._error("expected at least one character", at)
        return f"[{ranges}]"

    def _character(self) -> str:
        """The next, in a literal or a class; an escape is read."""
        at = self._at
        char = self._grammar[at : at + 1]
        self._at += 1
        if char == "\\":
            kind = self._grammar[self._at : self._at + 1]
            self._at += 1
            if kind in _HEX:
                return self._hexadecimal(_HEX[kind], at)
            char = _ESCAPES.get(kind, "")
            if not char:
                raise self._error("unknown escape", at)
        if not char:
            raise self._error("expected more, found the end", at)
        return char

    def _hexadecimal(self, digits: int, at: int) -> str:
        found = re.compile(f"[0-9A-Fa-f]{{{digits}}}").match(self._grammar, self._at)
        if found is None:
            raise self._error(f"expected {digits} hexadecimal digits", at)
        self._at = found.end()
        value = int(found[0], 16)
        if value > 0x10FFFF or 0xD800 <= value <= 0xDFFF:
            raise self._error("expected a character of Unicode", at)
        return chr(value)

    def _repeats(self, space: re.Pattern[str]) -> str | None:
        """How often what came before is repeated, or None: once."""
        at = self._at
        sign = self._grammar[at : at + 1]
        if sign and sign in "*+?":
            self._at += 1
            return sign
        if not self._take("{"):
            return None
        self._skip(space)
        least = self._number()
        most: int | None = least
        self._skip(space)
        if self._take(","):
            self._skip(space)
            most = self._number() if self._grammar[self._at : self._at + 1] != "}" else None
            self._skip(space)
        self._expect("}")
        if least > MAX_REPEATS or (most is not None and most < least):
            raise self._error(f"expected repetitions that ascend, at least {MAX_REPEATS} times at most", at)
        return f"{{{least},}}" if most is None or most > MAX_REPEATS else f"{{{least},{most}}}"

    def _number(self) -> int:
        found = _NUMBER.match(self._grammar, self._at)
        if found is None:
            raise self._error("expected a number")
        self._at = found.end()
        return int(found[0])

    def _terminal(self, expression: str) -> str:
        """The Lark name of one character of those that match."""
        return self._terminals.setdefault(expression, f"C{len(self._terminals)}")

    def _skip(self, space: re.Pattern[str]) -> None:
        found = space.match(self._grammar, self._at)
        assert found is not None  # it matches nothing too
        self._at = found.end()

    def _take(self, sign: str) -> bool:
        """Go past a sign if it stands here."""
        taken = self._grammar.startswith(sign, self._at)
        self._at += len(sign) * taken
        return taken

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._error(f"expected {sign}")

    def _error(self, problem: str, at: int | None = None) -> GbnfError:
        before = self._grammar[: self._at if at is None else at]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return GbnfError(f"line {line}, column {column}: {problem}")


def _escape(char: str) -> str:
    """A character in a regular expression, inside a class or not."""
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}"
