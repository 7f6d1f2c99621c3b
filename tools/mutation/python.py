"""Mutations of Python, found in its syntax tree.

Left alone, because no test should care: annotations, docstrings, messages (f-strings, calls of a log, descriptions of
options and schemas), arguments of `@dataclass`, and the figures of limits that stand at a module's head in capitals:
what compares with them is mutated, how large they are is policy.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from .mutation import Mutation

_COMPARISONS: Final[Mapping[type[ast.cmpop], tuple[bytes, tuple[str, ...]]]] = {
    ast.Lt: (rb"<", ("<=", ">=")),
    ast.LtE: (rb"<=", ("<", ">")),
    ast.Gt: (rb">", (">=", "<=")),
    ast.GtE: (rb">=", (">", "<")),
    ast.Eq: (rb"==", ("!=",)),
    ast.NotEq: (rb"!=", ("==",)),
    ast.In: (rb"\bin\b", ("not in",)),
    ast.NotIn: (rb"\bnot\s+in\b", ("in",)),
    ast.Is: (rb"\bis\b", ("is not",)),
    ast.IsNot: (rb"\bis\s+not\b", ("is",)),
}
_ARITHMETIC: Final[Mapping[type[ast.operator], tuple[bytes, str]]] = {
    ast.Add: (rb"\+", "-"),
    ast.Sub: (rb"-", "+"),
    ast.Mult: (rb"\*", "+"),
    ast.FloorDiv: (rb"//", "*"),
    ast.Div: (rb"/", "*"),
    ast.Mod: (rb"%", "//"),
    ast.LShift: (rb"<<", ">>"),
    ast.RShift: (rb">>", "<<"),
    ast.BitAnd: (rb"&", "|"),
}
_OTHER_NAMES: Final = {"any": "all", "all": "any", "min": "max", "max": "min"}
_TEXTS: Final = {
    "description",
    "title",
    "help",
    "examples",
    "metavar",
    "name",
    "strict",
    "stacklevel",
    "exc_info",
    "extra",
}
_LOGS: Final = {"log", "_log", "logging", "logger"}
_COMMUTES: Final = {"min", "max", "isinstance", "gcd"}
_LARGEST_NUMBER: Final = 256
_FIGURE: Final = re.compile(r"_?[A-Z][A-Z0-9_]*")


def python_mutations(path: str, source: bytes) -> list[Mutation]:
    """All of a file, in its order; some of them may not parse."""
    return sorted(_Finder(path, source).found(), key=lambda mutation: (mutation.start, mutation.operator))


def parses(mutation: Mutation, source: bytes) -> bool:
    """Whether the mutated file is Python still, and other Python than before."""
    try:
        return ast.dump(ast.parse(mutation.apply(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


class _Finder:
    def __init__(self, path: str, source: bytes) -> None:
        self._path, self._source = path, source
        self._lines = [0, *(match.end() for match in re.finditer(rb"\n", source))]

    def found(self) -> Iterator[Mutation]:
        for node in _nodes(ast.parse(self._source)):
            for operator, find in _OPERATORS.items():
                for start, end, replacement in find(self, node):
                    yield Mutation(self._path, operator, start, end, replacement)

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.lineno - 1] + node.col_offset, self._lines[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt | ast.keyword) -> bytes:
        start, end = self.span(node)
        return self._source[start:end]

    def between(self, left: ast.expr, right: ast.expr, pattern: bytes) -> tuple[int, int] | None:
        match = re.compile(pattern).search(self._source, self.span(left)[1], self.span(right)[0])
        return match.span() if match else None

    def comparison(self, node: ast.AST) -> Iterator[_Piece]:
        if isinstance(node, ast.Compare):
            for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                pattern, others = _COMPARISONS[type(op)]
                if place := self.between(left, right, pattern):
                    yield from ((*place, other.encode()) for other in others)

    def and_or(self, node: ast.AST) -> Iterator[_Piece]:
        if isinstance(node, ast.BoolOp):
            word, other = (rb"\band\b", b"or") if isinstance(node.op, ast.And) else (rb"\bor\b", b"and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                if place := self.between(left, right, word):
                    yield (*place, other)

    def negation(self, node: ast.AST) -> Iterator[_Piece]:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start, _ = self.span(node)
            yield start, start + len(b"not"), b""
        tests = node.ifs if isinstance(node, ast.comprehension) else [getattr(node, "test", None)]
        for test in tests:
            if isinstance(test, ast.expr) and not isinstance(test, ast.Compare | ast.UnaryOp):
                yield (*self.span(test), b"not (" + self.text(test) + b")")

    def arithmetic(self, node: ast.AST) -> Iterator[_Piece]:
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _joins(node):
            pattern, other = _ARITHMETIC[type(node.op)]
            if place := self.between(node.left, node.right, pattern):
                yield (*place, other.encode())
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub) and not _joins(node):
            old, other = (rb"\+=", "-=") if isinstance(node.op, ast.Add) else (rb"-=", "+=")
            if place := self.between(node.target, node.value, old):
                yield (*place, other.encode())

    def constant(self, node: ast.AST) -> Iterator[_Piece]:
        if not isinstance(node, ast.Constant) or isinstance(node.value, str | bytes | complex):
            return
        if isinstance(node.value, bool):
            yield (*self.span(node), str(not node.value).encode())
        elif isinstance(node.value, int) and node.value <= _LARGEST_NUMBER:
            yield (*self.span(node), str(node.value + 1).encode())
            if node.value > 1:
                yield (*self.span(node), str(node.value - 1).encode())
        elif isinstance(node.value, float):
            yield (*self.span(node), repr(2 * node.value or 1.0).encode())

    def returned(self, node: ast.AST) -> Iterator[_Piece]:
        if isinstance(node, ast.Return) and node.value is not None and self.text(node.value) != b"None":
            yield (*self.span(node), b"return None")

    def deleted(self, node: ast.AST) -> Iterator[_Piece]:
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        stored = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
        if call or stored or isinstance(node, ast.Raise | ast.Delete | ast.AugAssign):
            assert isinstance(node, ast.stmt)
            yield (*self.span(node), b"pass")
        if isinstance(node, ast.Continue):
            yield (*self.span(node), b"break")

    def left_out(self, node: ast.AST) -> Iterator[_Piece]:
        """A keyword, a part of a key, an element, an entry."""
        if isinstance(node, ast.Call):
            keywords = [k for k in node.keywords if k.arg is not None and k.arg not in _TEXTS]
            key = isinstance(node.func, ast.Name) and "key" in node.func.id and len(node.args) > 1
            for part in (*keywords, *(node.args if key else ())):
                yield (*self._with_comma(*self.span(part)), b"")
        if isinstance(node, ast.List | ast.Set | ast.Tuple) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            for element in node.elts if len(node.elts) > (2 if isinstance(node, ast.Tuple) else 1) else ():
                yield (*self._with_comma(*self.span(element)), b"")
        if isinstance(node, ast.Dict) and len(node.keys) > 1:
            for name, value in zip(node.keys, node.values, strict=True):
                if name is not None:
                    yield (*self._with_comma(self.span(name)[0], self.span(value)[1]), b"")

    def _with_comma(self, start: int, end: int) -> tuple[int, int]:
        if after := re.compile(rb"\s*,[ \t]*").match(self._source, end):
            return start, after.end()
        before = re.compile(rb"[ \t]*,\s*\Z").search(self._source[:start])
        return (before.start() if before else start), end

    def swapped(self, node: ast.AST) -> Iterator[_Piece]:
        if isinstance(node, ast.Call) and len(node.args) > 1 and _name(node.func) not in _COMMUTES:
            one, two = node.args[:2]
            if (
                self.text(one) != self.text(two)
                and not isinstance(one, ast.Starred)
                and not isinstance(two, ast.Starred)
            ):
                (first, end), (begin, last) = self.span(one), self.span(two)
                yield first, last, self.text(two) + self._source[end:begin] + self.text(one)

    def renamed(self, node: ast.AST) -> Iterator[_Piece]:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _OTHER_NAMES:
            yield (*self.span(node.func), _OTHER_NAMES[node.func.id].encode())


_Piece = tuple[int, int, bytes]
_OPERATORS: Final = {
    "comparison": _Finder.comparison,
    "and/or": _Finder.and_or,
    "negation": _Finder.negation,
    "arithmetic": _Finder.arithmetic,
    "constant": _Finder.constant,
    "return": _Finder.returned,
    "deleted": _Finder.deleted,
    "left out": _Finder.left_out,
    "swapped": _Finder.swapped,
    "any/all": _Finder.renamed,
}


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes without what is left alone."""
    for child in _children(node):
        yield child
        yield from _nodes(child)


def _children(node: ast.AST) -> Iterable[ast.AST]:
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_comment") or (
            field == "decorator_list" and isinstance(node, ast.ClassDef)
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _left_alone(child):
                yield child


def _left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr):
        return True
    if isinstance(node, ast.keyword):
        return node.arg in _TEXTS
    if isinstance(node, ast.Expr):
        call = node.value
        return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and _name(call.func.value) in _LOGS
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        is_figure = isinstance(node.value, ast.Constant | ast.BinOp) and _FIGURE.fullmatch(_name(target) or "")
        return bool(is_figure) or _name(target) == "__all__"
    return isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING"


def _name(node: ast.expr) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _joins(node: ast.BinOp | ast.AugAssign) -> bool:
    """Whether texts or lists are joined or filled in: with another operator it does not run at all."""
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(
        isinstance(side, ast.JoinedStr | ast.List | ast.Tuple)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in sides
    )
