"""Request bodies: untrusted bytes to a JSON object, and its fields by type and range."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import falcon

from ...artifacts.errors import printable
from ..generation import RequestError

MAX_DEPTH = 100


def read_json(req: falcon.Request, max_bytes: int) -> Fields:
    """Read the body as a JSON object, whatever content type it claims (`curl -d` claims a form).

    Raises:
        falcon.HTTPUnsupportedMediaType: it is compressed.
        falcon.HTTPContentTooLarge: more than `max_bytes`, by its Content-Length; nothing was read.
        RequestError: not a JSON object of finite numbers, in UTF-8, nested at most `MAX_DEPTH` deep.
    """
    encoding = req.get_header("Content-Encoding", default="identity")
    if encoding != "identity":
        raise falcon.HTTPUnsupportedMediaType(
            description=f"expected no Content-Encoding, found {printable(encoding, 60)}"
        )
    length = req.content_length or 0
    if length > max_bytes:
        raise falcon.HTTPContentTooLarge(description=f"expected a body of at most {max_bytes} bytes, found {length}")
    raw = req.bounded_stream.read(length)
    if not raw:
        raise RequestError("body", "expected a JSON object, found nothing")
    value = _parse(raw)
    if not isinstance(value, dict):
        raise RequestError("body", f"expected a JSON object, found {_kind(value)}")
    _check_depth(value)
    return Fields(value)


def _parse(raw: bytes) -> object:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise RequestError("body", f"expected UTF-8, found other bytes @{error.start}") from None
    except RecursionError:
        raise RequestError("body", f"nested more than {MAX_DEPTH} deep") from None
    except json.JSONDecodeError as error:
        raise RequestError("body", f"expected JSON: {error.msg} @{error.pos}") from None
    except ValueError:  # Python's own limit on the digits of an integer
        raise RequestError("body", "expected JSON: an integer with too many digits") from None


def _refuse_constant(name: str) -> float:
    raise RequestError("body", f"expected finite numbers, found {name}")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RequestError("body", f"expected finite numbers, found {printable(text, 40)}")
    return value


def _check_depth(value: object) -> None:
    """Walk level by level: code that recurses over the body may then rely on the bound."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            inner += [child for child in children if isinstance(child, dict | list)]
        if not inner:
            return
        level = inner
    raise RequestError("body", f"nested more than {MAX_DEPTH} deep")


def _kind(value: object) -> str:
    """Name a JSON value's type, and show it where it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        return f"the string {printable(json.dumps(value), 60)}"
    return printable(_short(value), 60)


def _short(value: object) -> str:
    # Thousands of digits would meet Python's limit on printing them.
    huge = isinstance(value, int) and value.bit_length() > 128
    return "a number of more than 38 digits" if huge else str(value)


def wrong(parameter: str, expected: str, found: object) -> RequestError:
    """Return the error that says what a parameter should have been."""
    return RequestError(parameter, f"expected {expected}, found {_kind(found)}")


@dataclass(frozen=True, slots=True)
class Fields:
    """Typed access to a JSON object. An absent field and null both mean the default.

    Attributes:
        values: the object.
        prefix: what names it in messages, such as "messages[0].".
    """

    values: Mapping[str, object]
    prefix: str = ""

    def get(self, name: str) -> object:
        """The raw value, or None."""
        return self.values.get(name)

    def integer(self, name: str, low: int, high: int) -> int | None:
        """An integer in [low, high]. `true` is none, though Python thinks so.

        Raises:
            RequestError: it is anything else.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(self.prefix + name, f"an integer from {low} to {high}", value)
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number in [low, high].

        Raises:
            RequestError: it is anything else.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise wrong(self.prefix + name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """True or false.

        Raises:
            RequestError: it is anything else.
        """
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise wrong(self.prefix + name, "true or false", value)
        return value

    def text(self, name: str) -> str:
        """A string that must be there.

        Raises:
            RequestError: it is not.
        """
        value = self.values.get(name)
        if not isinstance(value, str):
            raise wrong(self.prefix + name, "a string", value)
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None.

        Raises:
            RequestError: it is anything else.
        """
        return None if self.values.get(name) is None else self.text(name)

    def array(self, name: str) -> list[object]:
        """An array that must be there.

        Raises:
            RequestError: it is not.
        """
        value = self.values.get(name)
        if not isinstance(value, list):
            raise wrong(self.prefix + name, "an array", value)
        return value

    def object(self, name: str) -> Fields:
        """An object; an empty one where it is absent.

        Raises:
            RequestError: it is anything else.
        """
        value = self.values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise wrong(self.prefix + name, "an object", value)
        return Fields(value, f"{self.prefix}{name}.")
