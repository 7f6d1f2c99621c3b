"""What a program gives, held against what any field takes: whole numbers, and values that become JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeGuard

from ..artifacts.errors import RequestError, UsageError, printable


def shown(value: object, limit: int = 60) -> str:
    """Return a program's value for a message, or its type where it cannot be written: an integer of too many digits."""
    try:
        return printable(repr(value), limit)
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Return whether a value is a list, a tuple or the like, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def check_count(name: str, value: object) -> None:
    """Hold an option of loading or compiling against None and the integers from 1 on.

    Raises:
        UsageError: it is neither.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UsageError(f"{name}: expected an integer of at least 1, found {shown(value)}")


def check_json(name: str, value: object) -> None:
    """Hold a field of a request against what JSON can say.

    Raises:
        RequestError: there is no JSON for it, or it is nested too deep.
    """
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(name, f"expected JSON, found {shown(value)}: {printable(error)}") from None
