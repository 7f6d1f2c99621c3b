"""The JSON files of a folder: objects whose values are checked as they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import InputError, printable
from ..text_file import read_text_file

MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object of a JSON file; a key whose value is null is as good as absent.

    Attributes:
        at: keys on the way to it, with a dot after each.
    """

    path: Path
    values: Mapping[str, object]
    at: str = ""

    def error(self, key: str, problem: str) -> InputError:
        """Return the error that `key` has `problem`."""
        return InputError(self.path, self.at + key, problem)

    def has(self, key: str) -> bool:
        """Return whether a key has a value."""
        return self.values.get(key) is not None

    def part(self, key: str) -> JsonObject:
        """Return the object that a key has; an empty one where it is absent."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return JsonObject(self.path, value or {}, f"{self.at}{key}.")

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._wrong(key, "text that UTF-8 can hold", value) from None
        return value

    def integer(self, key: str, default: int | None, low: int, high: int) -> int:
        """Return an integer from `low` to `high`."""
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, f"an integer from {low} to {high}", value)
        return value

    def number(self, key: str, default: float | None, low: float, high: float) -> float:
        """Return a finite number from `low` to `high`."""
        value = self.values.get(key)
        value = default if value is None else value
        bad = isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
        if bad or not isinstance(value, int | float) or not low <= value <= high:
            raise self._wrong(key, f"a number from {low} to {high}", value)
        return float(value)

    def numbers(self, key: str, low: float, high: float) -> tuple[float, ...]:
        """Return an array of finite numbers from `low` to `high`."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "an array of numbers", value)
        each = JsonObject(self.path, {str(i): item for i, item in enumerate(value)}, f"{self.at}{key}.")
        return tuple(each.number(str(i), None, low, high) for i in range(len(value)))

    def boolean(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        value = self.values.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def _wrong(self, key: str, expected: str, found: object) -> InputError:
        shown = "nothing" if found is None else printable(repr(found), 60)
        return self.error(key, f"expected {expected}, found {shown}")


def read_json_object(path: Path, max_bytes: int = MAX_BYTES) -> JsonObject:
    """Read a JSON file that holds an object.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    text = read_text_file(path, "file", "JSON", max_bytes)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(path, "file", f"expected JSON, found: {printable(error, 100)}") from None
    if not isinstance(value, dict):
        raise InputError(path, "file", f"expected a JSON object, found {type(value).__name__}")
    return JsonObject(path, value)
