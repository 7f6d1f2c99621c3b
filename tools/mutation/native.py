"""Mutations of C and HIP, found in their tokens; some of them may not compile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final

from .mutation import Mutation

_SKIPPED: Final = re.compile(
    rb'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|#[ \t]*(?:include|pragma)[^\n]*'
    rb"|_Pragma\([^\n]*?\)|__attribute__\(\(.*?\)\)",
    re.DOTALL,
)
_OPERATORS: Final[Mapping[str, tuple[str, ...]]] = {
    **{"<": ("<=", ">="), "<=": ("<", ">"), ">": (">=", "<="), ">=": (">", "<"), "==": ("!=",), "!=": ("==",)},
    **{"&&": ("||",), "||": ("&&",), "+": ("-",), "-": ("+",), "*": ("+",), "/": ("*",), "%": ("/",)},
    **{
        "<<": (">>",),
        ">>": ("<<",),
        "&": ("|",),
        "|": ("&",),
        "^": ("|",),
        "+=": ("-=",),
        "-=": ("+=",),
        "|=": ("&=",),
    },
}
# A binary operator stands between spaces, after a value; `float *x` does not.
_BINARY: Final = re.compile(
    rb"(?<=[\w)\]]) (<<|>>|[<>=!]=|&&|\|\||[+|-]=|[<>+*/%&|^-])(?=\s)",
)
_NUMBER: Final = re.compile(rb"(?<![\w.])(\d+)([uUlL]*)(?![\w.])")
_FLOAT: Final = re.compile(rb"(?<![\w.])(\d+\.\d+)(f?)(?!\w)")
_DECLARED: Final = re.compile(rb"[ \t]*(?:static |const |__shared__ )*(?:struct )?\w+ \**\w+(?:\[\w+\])*\[\Z")
_STATEMENT: Final = re.compile(rb"^[ \t]*((?:[\w*][\w.>()\[\] *+-]* [+|*-]?= |\w+\()[^;{}]*);[ \t]*$", re.MULTILINE)
_RETURN: Final = re.compile(rb"\breturn ([^;{}]+);")
_IF: Final = re.compile(rb"\bif \(")
_CALL: Final = re.compile(rb"\b(\w+\()(\w+)(, )(\w+)(?=[,)])")
_TYPE: Final = re.compile(
    rb"[ \t]*(?:return|typedef|struct|static|const|else|case"
    rb"|(?:u?int\d*(?:_t)?|float|double|[ui]\d+|V_\w+|[fi]32x16)\b)"
)


def native_mutations(path: str, source: bytes) -> list[Mutation]:
    """All of a file, in its order."""
    found = [Mutation(path, operator, *piece) for operator, piece in _in_c(source)]
    return sorted(found, key=lambda mutation: (mutation.start, mutation.operator))


_Found = Iterator[tuple[str, tuple[int, int, bytes]]]


def _in_c(source: bytes) -> _Found:
    # What is skipped becomes blanks, so that places stay what they are.
    code = _SKIPPED.sub(lambda match: re.sub(rb"[^\n]", b" ", match[0]), source)
    for match in _BINARY.finditer(code):
        for other in _OPERATORS[match[1].decode()]:
            yield "operator", (*match.span(1), other.encode())
    yield from chain(_constants(code), _statements(code))
    for match in _IF.finditer(code):
        end = _closing(code, match.end())
        yield "negation", (match.end(), end, b"!(" + source[match.end() : end] + b")")
    for match in _CALL.finditer(code):
        if match[2] != match[4]:
            yield "swapped", (*match.span(), match[1] + match[4] + match[3] + match[2])


def _constants(code: bytes) -> _Found:
    for match in _NUMBER.finditer(code):
        value, line = int(match[1]), code[code.rfind(b"\n", 0, match.start()) + 1 : match.start()]
        if value <= 64 and not (code[match.end() : match.end() + 1] == b"]" and _DECLARED.match(line)):
            yield "constant", (*match.span(1), b"%d" % (value + 1))
            if value > 1:
                yield "constant", (*match.span(1), b"%d" % (value - 1))
    for match in _FLOAT.finditer(code):
        yield "constant", (*match.span(1), repr(2 * float(match[1]) or 1.0).encode())


def _statements(code: bytes) -> _Found:
    for match in _STATEMENT.finditer(code):
        if not _TYPE.match(match[0]):
            yield "deleted", (*match.span(1), b"")
    for match in _RETURN.finditer(code):
        if match[1] not in (b"0", b"NULL"):
            yield "return", (*match.span(1), b"0")


def _closing(code: bytes, start: int) -> int:
    """Where the parenthesis that is open at `start` is closed."""
    depth = 1
    for match in re.compile(rb"[()]").finditer(code, start):
        depth += 1 if match[0] == b"(" else -1
        if not depth:
            return match.start()
    return start
