"""Turn untrusted values of a file into typed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NoReturn

from .dataclass import dataclass
from .errors import BundleError

MAX_CHARS: Final = 512  # of a text, where nothing else is said
MAX_ITEMS: Final = 64  # of an array, where nothing else is said


@dataclass(frozen=True, slots=True)
class Checker:
    """Turns untrusted values from `path` into typed ones, or raises a `BundleError` that names the field."""

    path: Path | str

    def fail(self, field: str, problem: str) -> NoReturn:
        """Raise a `BundleError` for `field`."""
        raise BundleError(self.path, field, problem)

    def integer(self, value: object, field: str, low: int = 0, high: int = (1 << 63) - 1) -> int:
        """Return `value` if it is an int (not a bool) in [low, high]."""
        if type(value) is not int:
            self.fail(field, f"expected an integer, found {type(value).__name__}")
        if not low <= value <= high:
            self.fail(field, f"expected {low} to {high}, found {value}")
        return value

    def text(self, value: object, field: str, max_chars: int = MAX_CHARS, empty: bool = False) -> str:
        """Return `value` if it is a str of at most `max_chars` characters, and not empty unless `empty`."""
        if not isinstance(value, str):
            self.fail(field, f"expected a string, found {type(value).__name__}")
        if len(value) > max_chars or not (value or empty):
            self.fail(field, f"expected {0 if empty else 1} to {max_chars} characters, found {len(value)}")
        return value

    def array(self, value: object, field: str, low: int = 0, high: int = MAX_ITEMS) -> list[object]:
        """Return `value` if it is a list of `low` to `high` elements."""
        if not isinstance(value, list):
            self.fail(field, f"expected an array, found {type(value).__name__}")
        if not low <= len(value) <= high:
            self.fail(field, f"expected {low} to {high} elements, found {len(value)}")
        return value
