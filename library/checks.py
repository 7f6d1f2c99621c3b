"""What a program gives, held against what any field takes: whole numbers, and values that become JSON."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, TypeGuard

from ..artifacts.errors import RequestError, UsageError, printable, shown
from ..runtime.text.json_depth import MAX_DEPTH, too_deep


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
    deeper = f"expected JSON nested at most {MAX_DEPTH} deep, found deeper"
    try:
        text = json.dumps(value)
    except RecursionError:
        raise RequestError(name, deeper) from None
    except (TypeError, ValueError) as error:
        raise RequestError(name, f"expected JSON, found {shown(value)}: {printable(error)}") from None
    if too_deep(value, text.count("{") + text.count("[")):
        raise RequestError(name, deeper)


def check_text(name: str, value: object) -> None:
    """Hold a field of a request against what is text.

    Raises:
        RequestError: it is none.
    """
    if not isinstance(value, str):
        raise RequestError(name, f"expected a text, found {shown(value)}")


def checked_ids(name: str, value: object) -> list[int]:
    """Return token ids, of which there may be any iterable.

    Raises:
        RequestError: they are none.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise RequestError(name, f"expected token ids, found {shown(value)}")
    ids = list(value)
    for one in ids:
        if not isinstance(one, Integral):  # NumPy's are such too
            raise RequestError(name, f"expected token ids, found {shown(one)}")
    return ids


def checked_path(name: str, value: object) -> Path:
    """Return the path that an option of loading or compiling names.

    Raises:
        UsageError: it is none, or none that a file can have.
    """
    if isinstance(value, str | os.PathLike):
        with contextlib.suppress(TypeError, ValueError):  # of bytes; half a surrogate pair
            if b"\0" not in os.fsencode(path := Path(value)):
                return path
    raise UsageError(f"{name}: expected a path that a file can have, found {shown(value)}")


def check_option(name: str, value: object, fits: bool, expected: str) -> None:
    """Refuse an option of loading or compiling unless it fits.

    Raises:
        UsageError: says what was `expected`.
    """
    if not fits:
        raise UsageError(f"{name}: expected {expected}, found {shown(value)}")


def check_texts(name: str, value: object) -> None:
    """Hold an option of compiling that takes several texts against that: one text is none.

    Raises:
        UsageError: it is anything else.
    """
    check_option(name, value, is_list(value) and all(isinstance(one, str) for one in value), "a list of texts")
