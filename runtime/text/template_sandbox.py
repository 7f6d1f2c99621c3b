"""The sandbox of chat templates: Jinja's immutable one, with a budget that everything that can grow is charged to.

It brings Jinja: import it where a template is about to be parsed, and not at a server's start.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

from jinja2 import Environment, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .template_budget import (
    MAX_INT_BITS,
    LimitError,
    check_fields,
    check_growth,
    check_percent,
    current_budget,
    weight_of,
)
from .template_filters import FUNCTIONS, OwnList, bounded_filters, counted

_UNSAFE_STRING_METHODS = frozenset({"format", "format_map", "translate", "maketrans"})
# Kimi's templates queue the ids of calls; Hugging Face's renderer refuses them, llama.cpp's does not.
_LIST_METHODS = frozenset({"append", "pop"})


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    # Jinja's annotations say Expr | None; the parser gives a For any node that stands for a value.
    return nodes.Filter(cast("nodes.Expr", node), name, [], [], None, None, lineno=node.lineno)


class _Limiter(NodeTransformer):
    """Rewrites a template so that everything that can grow passes one of the checks.

    It leaves comparisons, tests, subscripts and slices alone: they make nothing larger than they get.
    """

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        texts: list[nodes.Expr] = [_filtered(child, "_plain") for child in node.nodes]
        whole = texts[0]
        for text in texts[1:]:
            whole = nodes.Add(whole, text, lineno=node.lineno)
        return whole

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "_sized")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "_sized")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "_sized") if node.ctx == "load" else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        # A constant expression is counted where it is put out; plain template text would not be.
        return nodes.Const(node.data, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks training targets; for a prompt it is its content."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "-", "/", "//"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Limiter().visit(tree)
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _UNSAFE_STRING_METHODS:
            return False
        return (isinstance(obj, OwnList) and attr in _LIST_METHODS) or super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        # Its fields have widths, attributes and items of their own: it fills in plain ones alone.
        fill = super().wrap_str_format(value)
        if fill is None:
            return None
        if value.__name__ != "format":
            raise SecurityError("str.format_map is not available")

        def checked(*args: Any, **kwargs: Any) -> str:
            check_fields(value.__self__, (args, kwargs), current_budget())
            return fill(*args, **kwargs)

        return checked

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        # Jinja would hand out an undefined value that prints as nothing: a silent failure.
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} is unsafe")

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = current_budget()
        budget.step()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str | bytes):
            name = obj.__name__
            if name == "join" and args:
                args = ([*counted(args[0])], *args[1:])
            check_growth(name, owner, (*args, *kwargs.values()), budget)
        made = budget.value(super().call(context, obj, *args, **kwargs))
        if isinstance(owner, OwnList):
            budget.grown = True
            budget.value(owner)
        return made

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = current_budget()
        budget.step()
        if operator == "**":
            if isinstance(left, int) and isinstance(right, int) and abs(right) * left.bit_length() > MAX_INT_BITS:
                raise LimitError(f"an integer of more than {MAX_INT_BITS} bits")
        elif operator == "*":
            for value, count in ((left, right), (right, left)):
                if isinstance(value, str | list | tuple) and isinstance(count, int):
                    budget.size(weight_of(value, budget.max_chars) * max(count, 0))
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            budget.size(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            check_percent(left, right, budget)
        return budget.value(super().call_binop(context, operator, left, right))


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """Count what is put out; takes the context so that Jinja never calls it at compile time."""
    budget = current_budget()
    budget.step()
    text = str(budget.known(value))
    budget.emit(len(text))
    return text


class NoTools(Undefined):
    """What `tools` is where there are none: undefined, as llama.cpp has it, and none, as Hugging Face has it.

    Some templates ask for the one, some for the other, and some go through it without asking.
    """

    __slots__ = ()
    __hash__ = Undefined.__hash__

    def __init__(self) -> None:
        super().__init__(name="tools")

    def __eq__(self, other: object) -> bool:
        return _is_none(other)


def _is_none(value: object) -> bool:
    return value is None or isinstance(value, NoTools)


def raise_exception(message: object) -> None:
    """Fail the rendering, as a template asks for."""
    raise TemplateError(str(message))


@cache
def template_environment() -> Environment:
    """Return the one environment of all templates."""
    # optimized=False: constants are folded nowhere but under the budget of a rendering.
    env = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=_finalize,
        extensions=[loopcontrols, _Generation],
    )
    env.filters = bounded_filters(env.filters)
    env.tests["none"] = _is_none
    env.globals = {**FUNCTIONS, "namespace": env.globals["namespace"], "raise_exception": raise_exception}
    return env
