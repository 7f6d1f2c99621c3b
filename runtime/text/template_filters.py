"""The filters and functions that a chat template may call, each charged to the budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, Final

from .template_budget import MAX_RANGE, LimitError, check_growth, check_percent, current_budget

# Filters that a template may use. The rest of Jinja's are either of no use in a prompt (urlize, pprint,
# xmlattr) or give a different result each time (random).
_ALLOWED = frozenset(
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


def _guard(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that counts a step and bounds what it makes."""
    # Jinja's filters say by an attribute whether they take the context or environment first.
    offset = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget = current_budget()
        budget.step()
        value, rest = budget.known(args[offset]), (*args[offset + 1 :], *kwargs.values())
        if name == "join":
            # Jinja joins any iterable; a list can be measured.
            value = [*counted(value)]
            args = (*args[:offset], value, *args[offset + 1 :])
            separator = rest[0] if rest and isinstance(rest[0], str) else ""
            check_growth("join", separator, (value,), budget)
        elif name == "format":
            check_percent(str(value), (*args[offset + 1 :], kwargs), budget)
        elif name == "sum" and ("start" in kwargs or len(args) > offset + 2):
            raise LimitError("sum with a start value")
        else:
            check_growth(name, value, rest, budget)
        return budget.value(function(*args, **kwargs))

    return guarded


def counted(iterable: Iterable[Any]) -> Iterator[Any]:
    """Iterate, counting a step for each turn."""
    budget = current_budget()
    for item in iterable:
        budget.step()
        yield item


class OwnList(list[Any]):
    """A list that the template wrote down: it alone may be appended to, not one that it was given."""


def _sized(value: Any) -> Any:
    """Pass a list, tuple or dict that the template wrote down, if it is small enough."""
    budget = current_budget()
    budget.step()
    return budget.value(OwnList(value) if isinstance(value, list) else value)


def _plain(value: Any) -> str:
    """The text of a value; one that is marked as safe HTML would escape what it is joined with."""
    budget = current_budget()
    budget.step()
    text = str(budget.known(value))
    budget.size(len(text))
    return text


def _range(*args: int) -> range:
    result = range(*args)
    if len(result) > MAX_RANGE:
        raise LimitError(f"a range of more than {MAX_RANGE} numbers")
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
        raise LimitError("a JSON indent of more than 16")
    budget = current_budget()
    budget.step()
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    chunks: list[str] = []
    length = 0
    for chunk in encoder.iterencode(value):
        length += len(chunk)
        budget.size(length)
        chunks.append(chunk)
    return "".join(chunks)


def _from_json(text: str) -> Any:
    """What JSON says: DeepSeek V3.2's templates read the arguments of calls by it."""
    budget = current_budget()
    budget.step()
    return budget.value(json.loads(text))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 100 or any(char.isdigit() for char in pattern):
        raise LimitError("a date pattern that is too long, or has widths")
    return datetime.now().astimezone().strftime(pattern)


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {"dict": dict, "range": _range, "strftime_now": _strftime_now}


_OWN: Final[Mapping[str, Callable[..., Any]]] = {
    "tojson": _tojson,
    "from_json": _from_json,
    "_counted": counted,
    "_sized": _sized,
    "_plain": _plain,
}


def bounded_filters(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return those of Jinja's filters that a template may use, guarded, and the sandbox's own."""
    allowed = {name: _guard(name, function) for name, function in filters.items() if name in _ALLOWED}
    return {**allowed, **_OWN}
