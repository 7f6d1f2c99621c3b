"""The sandbox of chat templates: Jinja's immutable one, with a budget that everything that can grow is charged to."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_STEPS = 200_000
MAX_SECONDS = 2.0
# Characters of a value or of the output: this much, and a multiple of what the caller gave.
MAX_CHARS = 1 << 20
MAX_GROWTH = 4
MAX_RANGE = 10_000
MAX_WIDTH = 1_000
MAX_INT_BITS = 1_024

# Filters that a template may use. The rest of Jinja's are either of no use in a prompt (urlize, pprint,
# xmlattr) or give a different result each time (random).
_FILTERS = frozenset(
    {
        "abs",
        "attr",
        "batch",
        "capitalize",
        "center",
        "count",
        "d",
        "default",
        "dictsort",
        "e",
        "escape",
        "first",
        "float",
        "format",
        "groupby",
        "indent",
        "int",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "replace",
        "reverse",
        "round",
        "safe",
        "select",
        "selectattr",
        "slice",
        "sort",
        "string",
        "striptags",
        "sum",
        "title",
        "trim",
        "truncate",
        "unique",
        "upper",
        "wordcount",
    }
)
# Their integer arguments are widths or counts, and make the result longer.
_WIDTH_FILTERS = frozenset({"batch", "center", "indent", "slice", "truncate"})
_WIDTH_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})
_UNSAFE_STRING_METHODS = frozenset({"format", "format_map", "translate", "maketrans"})


class _LimitError(Exception):
    """A limit of the sandbox was met."""


@dataclass(slots=True)
class _Budget:
    """What one rendering may still use.

    Attributes:
        max_chars: largest value or output, in characters (and list elements).
        deadline: `time.monotonic()` after which it fails.
        steps: how many were made.
        output: characters put out, macros' included.
    """

    max_chars: int
    deadline: float
    steps: int = 0
    output: int = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise _LimitError(f"more than {MAX_STEPS} steps")
        if time.monotonic() > self.deadline:
            raise _LimitError(f"takes more than {MAX_SECONDS:g} s")

    def size(self, chars: int) -> None:
        if chars > self.max_chars:
            raise _LimitError(f"a value of more than {self.max_chars} characters")

    def value(self, value: Any) -> Any:
        """Pass a value that the template made, if it is small enough."""
        if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise _LimitError(f"an integer of more than {MAX_INT_BITS} bits")
        self.size(_weight(value, self.max_chars))
        return value

    def emit(self, chars: int) -> None:
        self.output += chars
        if self.output > self.max_chars:
            raise _LimitError(f"an output of more than {self.max_chars} characters")


class _Current(threading.local):
    """The budget of the rendering that runs on this thread."""

    budget: _Budget | None = None


_current = _Current()


@contextmanager
def budgeted(variables: Mapping[str, object]) -> Iterator[None]:
    """Give the rendering that runs inside a budget, by the size of what the caller brings."""
    try:
        given = sum(_weight(value, sys.maxsize) for value in variables.values())
        _current.budget = _Budget(MAX_CHARS + MAX_GROWTH * given, time.monotonic() + MAX_SECONDS)
        yield
    finally:
        _current.budget = None


def _budget() -> _Budget:
    # Without one, Jinja is trying to fold a constant at compile time; an error makes it leave that.
    if _current.budget is None:
        raise _LimitError("no rendering")
    return _current.budget


def _weight(value: object, limit: int) -> int:
    """Return the size of a value: characters of its strings, and one for each element; stops past `limit`.

    Lists that hold one another are counted as often as they are reached: that is the work of printing them.
    """
    total = 0
    stack = [value]
    while stack and total <= limit:
        item = stack.pop()
        total += 1
        if isinstance(item, str | bytes):
            total += len(item)
        elif isinstance(item, Mapping):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            if len(item) + total > limit:
                return limit + 1
            stack += item
    return total


def _check_width(args: Iterable[object]) -> None:
    for arg in args:
        if isinstance(arg, int) and abs(arg) > MAX_WIDTH:
            raise _LimitError(f"a width or count of more than {MAX_WIDTH}")


def _check_growth(name: str, value: object, args: tuple[Any, ...], budget: _Budget) -> None:
    """Refuse a string operation whose result would be too large, before it is made."""
    text = value if isinstance(value, str | bytes) else ""
    if name in _WIDTH_METHODS | _WIDTH_FILTERS:
        _check_width(args)
    widths = [abs(arg) for arg in args if isinstance(arg, int)]
    if name == "replace" and len(args) >= 2:
        # An empty string is found before every character and after the last. bytes have the same length.
        found = text.count(str(args[0])) if isinstance(text, str) else len(text) + 1
        budget.size(len(text) + found * len(args[1] if isinstance(args[1], str | bytes) else str(args[1])))
    elif name == "join" and isinstance(args[0] if args else None, list | tuple):
        budget.size(_weight(args[0], budget.max_chars) + len(args[0]) * len(text))
    elif name == "expandtabs":
        budget.size(len(text) + len(text) * max(widths, default=8))
    elif name == "indent":
        width = len(args[0]) if args and isinstance(args[0], str) else max(widths, default=4)
        budget.size(len(text) + (1 + len(text.splitlines())) * width)


def _check_percent(text: str, right: object, budget: _Budget) -> None:
    """Refuse `text % right` whose result could be too large."""
    run = 0
    for char in text:
        run = run + 1 if char.isdigit() else 0
        if run > 3:
            raise _LimitError(f"a width or count of more than {MAX_WIDTH}")
    if "*" in text and "%" in text:
        raise _LimitError("a format with a variable width")
    budget.size(len(text) + text.count("%") * (MAX_WIDTH + 2 * _weight(right, budget.max_chars)))


def _guard(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that counts a step and bounds what it makes."""
    # Jinja's filters say by an attribute whether they take the context or environment first.
    offset = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget = _budget()
        budget.step()
        value, rest = args[offset], (*args[offset + 1 :], *kwargs.values())
        if name == "join":
            # Jinja joins any iterable; a list can be measured.
            value = [*_counted(value)]
            args = (*args[:offset], value, *args[offset + 1 :])
            separator = rest[0] if rest and isinstance(rest[0], str) else ""
            _check_growth("join", separator, (value,), budget)
        elif name == "format":
            _check_percent(str(value), (*args[offset + 1 :], kwargs), budget)
        elif name == "sum" and ("start" in kwargs or len(args) > offset + 2):
            raise _LimitError("sum with a start value")
        else:
            _check_growth(name, value, rest, budget)
        return budget.value(function(*args, **kwargs))

    return guarded


def _counted(iterable: Iterable[Any]) -> Iterator[Any]:
    """Iterate, counting a step for each turn."""
    budget = _budget()
    for item in iterable:
        budget.step()
        yield item


def _sized(value: Any) -> Any:
    """Pass a list, tuple or dict that the template wrote down, if it is small enough."""
    budget = _budget()
    budget.step()
    return budget.value(value)


def _range(*args: int) -> range:
    result = range(*args)
    if len(result) > MAX_RANGE:
        raise _LimitError(f"a range of more than {MAX_RANGE} numbers")
    return result


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as Hugging Face's templates expect: not escaped for HTML, keys in their own order."""
    width = len(indent) if isinstance(indent, str) else indent
    if (width and width > 16) or max(map(len, separators or ("",))) > 16:
        raise _LimitError("a JSON indent of more than 16")
    budget = _budget()
    budget.step()
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    chunks: list[str] = []
    length = 0
    for chunk in encoder.iterencode(value):
        length += len(chunk)
        budget.size(length)
        chunks.append(chunk)
    return "".join(chunks)


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 100 or any(char.isdigit() for char in pattern):
        raise _LimitError("a date pattern that is too long, or has widths")
    return datetime.now().astimezone().strftime(pattern)


_shared: Environment | None = None


def template_environment() -> Environment:
    """Return the one environment of all templates; Jinja is imported with the first."""
    global _shared  # noqa: PLW0603 - set once, to equal values; an import at the top would cost every start
    if _shared is None:
        _shared = _make_environment()
    return _shared


def _make_environment() -> Environment:
    """Build the sandbox. A function, since its classes derive from those of a module imported late."""
    from jinja2 import TemplateError, nodes, pass_context  # noqa: PLC0415 - startup time
    from jinja2.exceptions import SecurityError  # noqa: PLC0415
    from jinja2.ext import Extension, loopcontrols  # noqa: PLC0415
    from jinja2.parser import Parser  # noqa: PLC0415
    from jinja2.runtime import Context, Undefined  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415
    from jinja2.visitor import NodeTransformer  # noqa: PLC0415

    def call_filter(node: nodes.Node, name: str) -> nodes.Filter:
        # Jinja's annotations say Expr | None; the parser gives a For any node that stands for a value.
        return nodes.Filter(cast("nodes.Expr", node), name, [], [], None, None, lineno=node.lineno)

    class Limiter(NodeTransformer):
        """Rewrites a template so that everything that can grow passes one of the checks.

        It leaves comparisons, tests, subscripts and slices alone: they make nothing larger than they get.
        """

        def visit_For(self, node: nodes.For) -> nodes.Node:
            self.generic_visit(node)
            node.iter = call_filter(node.iter, "_counted")
            return node

        def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
            self.generic_visit(node)
            texts: list[nodes.Expr] = [call_filter(child, "string") for child in node.nodes]
            whole = texts[0]
            for text in texts[1:]:
                whole = nodes.Add(whole, text, lineno=node.lineno)
            return whole

        def visit_List(self, node: nodes.List) -> nodes.Node:
            self.generic_visit(node)
            return call_filter(node, "_sized")

        def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
            self.generic_visit(node)
            return call_filter(node, "_sized")

        def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
            self.generic_visit(node)
            return call_filter(node, "_sized") if node.ctx == "load" else node

        def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
            # A constant expression is counted where it is put out; plain template text would not be.
            return nodes.Const(node.data, lineno=node.lineno)

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}` marks training targets; for a prompt it is its content."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's immutable sandbox, with a budget."""

        intercepted_binops = frozenset({"+", "*", "**", "%", "-", "/", "//"})

        def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
            tree = super()._parse(source, name, filename)
            Limiter().visit(tree)
            return tree

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            if isinstance(obj, str) and attr in _UNSAFE_STRING_METHODS:
                return False
            return super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
            # Its fields have widths and attribute access of their own; the `format` filter is left.
            if super().wrap_str_format(value) is not None:
                raise SecurityError("str.format is not available")
            return None

        def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
            # Jinja would hand out an undefined value that prints as nothing: a silent failure.
            raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} is unsafe")

        def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            budget = _budget()
            budget.step()
            owner = getattr(obj, "__self__", None)
            if isinstance(owner, str | bytes):
                name = obj.__name__
                if name == "join" and args:
                    args = ([*_counted(args[0])], *args[1:])
                _check_growth(name, owner, (*args, *kwargs.values()), budget)
            return budget.value(super().call(context, obj, *args, **kwargs))

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            budget = _budget()
            budget.step()
            if operator == "**":
                if isinstance(left, int) and isinstance(right, int) and abs(right) * left.bit_length() > MAX_INT_BITS:
                    raise _LimitError(f"an integer of more than {MAX_INT_BITS} bits")
            elif operator == "*":
                for value, count in ((left, right), (right, left)):
                    if isinstance(value, str | list | tuple) and isinstance(count, int):
                        budget.size(_weight(value, budget.max_chars) * max(count, 0))
            elif operator == "+" and isinstance(left, str) and isinstance(right, str):
                budget.size(len(left) + len(right))
            elif operator == "%" and isinstance(left, str):
                _check_percent(left, right, budget)
            return budget.value(super().call_binop(context, operator, left, right))

    @pass_context
    def finalize(context: Context, value: Any) -> Any:
        """Count what is put out; takes the context so that Jinja never calls it at compile time."""
        budget = _budget()
        budget.step()
        text = str(value)
        budget.emit(len(text))
        return text

    def raise_exception(message: object) -> None:
        raise TemplateError(str(message))

    # optimized=False: constants are folded nowhere but under the budget of a rendering.
    env = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=finalize,
        extensions=[loopcontrols, Generation],
    )
    env.filters = {name: _guard(name, f) for name, f in env.filters.items() if name in _FILTERS}
    env.filters |= {"tojson": _tojson, "_counted": _counted, "_sized": _sized}
    env.globals = {
        "dict": dict,
        "namespace": env.globals["namespace"],
        "range": _range,
        "raise_exception": raise_exception,
        "strftime_now": _strftime_now,
    }
    return env
