"""As much of C++ as llama.cpp's `tests/test-chat.cpp` needs: strings, lists, variables, calls in a chain.

Nothing of it is run: declarations and chains of calls are read where they stand, and expressions become Python values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_TOKEN: Final = re.compile(
    r'(?P<space>\s+|//[^\n]*|/\*.*?\*/)|R"(?P<mark>[^(\s"]*)\((?P<raw>.*?)\)(?P=mark)"|"(?P<text>(?:\\.|[^"\\])*)"'
    r"|'(?P<char>(?:\\.|[^'\\])*)'|(?P<name>[A-Za-z_]\w*(?:::[A-Za-z_]\w*)*)|(?P<number>\d[\w.]*)|(?P<sign>->|.)",
    re.DOTALL,
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f", "a": "\a", "v": "\v"}
_PAIRS: Final = {"(": ")", "{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Token:
    """A token: its kind ("text", "name", "number" or "sign"), and what it says."""

    kind: str
    text: str


def tokens_of(source: str) -> list[Token]:
    """All tokens but white space and comments; of a literal its value."""
    tokens = []
    for found in _TOKEN.finditer(source):
        kind = found.lastgroup or ""
        if kind == "space":
            continue
        if found["raw"] is not None:
            tokens.append(Token("text", found["raw"]))
        elif kind in ("text", "char"):
            tokens.append(Token("text", _unescaped(found[kind])))
        else:
            tokens.append(Token(kind, found[0]))
    return tokens


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in "xuU":
            number = int(code[1:], 16)
            return bytes([number]).decode("latin-1") if code[0] == "x" else chr(number)
        return _ESCAPES.get(code, code)

    read = re.sub(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", one, text, flags=re.DOTALL)
    if re.search(r"\\x", text):  # bytes of UTF-8
        return read.encode("latin-1", "ignore").decode("utf-8", "replace") if read.isascii() is False else read
    return read


class Unknown(Exception):
    """An expression that is none of those that are read."""


Function = Callable[..., Any]


class Expressions:
    """Reads expressions of a list of tokens.

    Args:
        tokens: all of them.
        functions: what a call of each name gives.
    """

    def __init__(self, tokens: list[Token], functions: Mapping[str, Function]) -> None:
        self.tokens = tokens
        self._functions = functions

    def is_sign(self, at: int, sign: str) -> bool:
        """Whether a sign stands there."""
        return at < len(self.tokens) and self.tokens[at] == Token("sign", sign)

    def closing(self, at: int) -> int:
        """Where the bracket is closed that is opened there."""
        open_signs = 0
        for index in range(at, len(self.tokens)):
            token = self.tokens[index]
            if token.kind == "sign" and token.text in _PAIRS:
                open_signs += 1
            elif token.kind == "sign" and token.text in _PAIRS.values():
                open_signs -= 1
                if not open_signs:
                    return index
        raise Unknown

    def value(self, at: int, variables: Mapping[str, Any]) -> tuple[Any, int]:
        """The value of the expression that begins there, and where it ends.

        Raises:
            Unknown: it is none that is read.
        """
        value, at = self._primary(at, variables)
        while self.is_sign(at, "+"):
            more, at = self._primary(at + 1, variables)
            value = value + more
        return value, at

    def arguments(self, at: int, variables: Mapping[str, Any]) -> tuple[list[Any], int]:
        """The values between the brackets that are opened there, and where it goes on behind them."""
        end, values = self.closing(at), []
        at += 1
        while at < end:
            value, at = self.value(at, variables)
            values.append(value)
            at += self.is_sign(at, ",")
        return values, end + 1

    def _primary(self, at: int, variables: Mapping[str, Any]) -> tuple[Any, int]:
        token = self.tokens[at]
        if token.kind == "text":
            text = ""
            while self.tokens[at].kind == "text":
                text += self.tokens[at].text
                at += 1
            return text, at
        if token.kind == "number":
            return int(token.text), at + 1
        if self.is_sign(at, "{"):
            return self.arguments(at, variables)
        if token.kind != "name":
            raise Unknown
        return self._named(at, variables)

    def _named(self, at: int, variables: Mapping[str, Any]) -> tuple[Any, int]:
        name = self.tokens[at].text
        if name in ("true", "false"):
            return name == "true", at + 1
        after = at + 1
        if self.is_sign(after, "<"):
            while not self.is_sign(after, ">"):
                after += 1
            after += 1
        if self.is_sign(after, "(") or self.is_sign(after, "{"):
            values, after = self.arguments(after, variables)
            if name in ("std::string", "std::vector"):
                return (values[0] if name == "std::string" and values else values), after
            if name not in self._functions:
                raise Unknown
            return self._functions[name](*values), after
        return variables.get(name, name), after
