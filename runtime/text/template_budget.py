"""What a chat template may use: a budget that everything that can grow is charged to, before it grows."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from string import Formatter
from typing import Any

from ...artifacts.dataclass import dataclass

MAX_STEPS = 200_000
MAX_SECONDS = 2.0
# Characters of a value or of the output: this much, and a multiple of what the caller gave.
MAX_CHARS = 1 << 20
MAX_GROWTH = 4
MAX_RANGE = 10_000
MAX_WIDTH = 1_000
MAX_INT_BITS = 1_024
# Their integer arguments are widths or counts, and make the result longer.
_WIDTH_FILTERS = frozenset({"batch", "center", "indent", "slice", "truncate"})
_WIDTH_METHODS = frozenset({"center", "expandtabs", "ljust", "rjust", "zfill"})


class LimitError(Exception):
    """A limit of the sandbox was met."""


@dataclass(slots=True)
class Budget:
    """What one rendering may still use.

    Attributes:
        max_chars: largest value or output, in characters (and list elements).
        deadline: `time.monotonic()` after which it fails.
        steps: how many were made.
        output: characters put out, macros' included.
        grown: whether a list was appended to: what holds it was measured before.
    """

    max_chars: int
    deadline: float
    steps: int = 0
    output: int = 0
    grown: bool = False

    def step(self) -> None:
        """Charge one step, and look at the time."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise LimitError(f"more than {MAX_STEPS} steps")
        if time.monotonic() > self.deadline:
            raise LimitError(f"takes more than {MAX_SECONDS:g} s")

    def size(self, chars: int) -> None:
        """Refuse a value of more characters than are allowed."""
        if chars > self.max_chars:
            raise LimitError(f"a value of more than {self.max_chars} characters")

    def value(self, value: Any) -> Any:
        """Pass a value that the template made, if it is small enough."""
        if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
            raise LimitError(f"an integer of more than {MAX_INT_BITS} bits")
        self.size(weight_of(value, self.max_chars))
        return value

    def known(self, value: Any) -> Any:
        """Pass a value that was measured when it was made, if it is small enough still."""
        return self.value(value) if self.grown else value

    def emit(self, chars: int) -> None:
        """Charge characters that are put out."""
        self.output += chars
        if self.output > self.max_chars:
            raise LimitError(f"an output of more than {self.max_chars} characters")


class _Current(threading.local):
    """The budget of the rendering that runs on this thread."""

    budget: Budget | None = None


_current = _Current()


@contextmanager
def budgeted(variables: Mapping[str, object]) -> Iterator[None]:
    """Give the rendering that runs inside a budget, by the size of what the caller brings."""
    try:
        given = sum(weight_of(value, sys.maxsize) for value in variables.values())
        _current.budget = Budget(MAX_CHARS + MAX_GROWTH * given, time.monotonic() + MAX_SECONDS)
        yield
    finally:
        _current.budget = None


def current_budget() -> Budget:
    """Return the budget of the rendering that runs on this thread."""
    # Without one, Jinja is trying to fold a constant at compile time; an error makes it leave that.
    if _current.budget is None:
        raise LimitError("no rendering")
    return _current.budget


def weight_of(value: object, limit: int) -> int:
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
            raise LimitError(f"a width or count of more than {MAX_WIDTH}")


def check_growth(name: str, value: object, args: tuple[Any, ...], budget: Budget) -> None:
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
        budget.size(weight_of(args[0], budget.max_chars) + len(args[0]) * len(text))
    elif name == "expandtabs":
        budget.size(len(text) + len(text) * max(widths, default=8))
    elif name == "indent":
        width = len(args[0]) if args and isinstance(args[0], str) else max(widths, default=4)
        budget.size(len(text) + (1 + len(text.splitlines())) * width)


def _check_digits(text: str) -> None:
    """Refuse a format that may have a width of more than three digits."""
    run = 0
    for char in text:
        run = run + 1 if char.isdigit() else 0
        if run > 3:
            raise LimitError(f"a width or count of more than {MAX_WIDTH}")


def check_fields(text: str, values: object, budget: Budget) -> None:
    """Refuse `text.format(...)` that does more than fill in values, or whose result could be too large."""
    fields = 0
    for _, name, spec, conversion in Formatter().parse(text):
        if name is None:
            continue
        fields += 1
        if not (name == "" or name.isalnum()) or conversion is not None or "{" in (spec or ""):
            raise LimitError("a format whose fields are not plain")
        _check_digits(spec or "")
    # A width and a precision, both of MAX_WIDTH at most.
    budget.size(len(text) + fields * (2 * MAX_WIDTH + 2 * weight_of(values, budget.max_chars)))


def check_percent(text: str, right: object, budget: Budget) -> None:
    """Refuse `text % right` whose result could be too large."""
    _check_digits(text)
    if "*" in text and "%" in text:
        raise LimitError("a format with a variable width")
    budget.size(len(text) + text.count("%") * (MAX_WIDTH + 2 * weight_of(right, budget.max_chars)))
