"""Request bodies: untrusted bytes to a JSON object, and that to a struct of the schema."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, TypeVar

import falcon
import msgspec

from ....artifacts.decoded_types import learn
from ....artifacts.errors import RequestError, printable
from ...text.json_depth import MAX_DEPTH, too_deep

T = TypeVar("T")


def read_json(req: falcon.Request, max_bytes: int) -> dict[str, object]:
    """Read the body as a JSON object; see `read_value`.

    Raises:
        As `read_value`.
        RequestError: it is no object.
    """
    value = read_value(req, max_bytes)
    if not isinstance(value, dict):
        raise RequestError("body", f"expected a JSON object, found {kind_of(value)}")
    return value


def read_value(req: falcon.Request, max_bytes: int) -> object:
    """Read the body as JSON, whatever content type it claims (`curl -d` claims a form).

    Its bytes are kept in `req.context.body`, so that it can be read again. Half a surrogate pair, which JSON can escape
    and clients send that cut an emoji, is read as U+FFFD wherever it stands: it is in no encoding of text.

    Raises:
        falcon.HTTPUnsupportedMediaType: it is compressed.
        falcon.HTTPContentTooLarge: more than `max_bytes`, by its Content-Length; nothing was read.
        RequestError: not JSON of finite numbers, in UTF-8, nested at most `MAX_DEPTH` deep.
    """
    raw: bytes | None = getattr(req.context, "body", None)
    if raw is None:
        raw = req.context.body = _read_bytes(req, max_bytes)
    value = _parse(raw)
    if too_deep(value, raw.count(b"{") + raw.count(b"[")):
        raise RequestError("body", f"nested more than {MAX_DEPTH} deep")
    return _whole_text(value) if _ESCAPED_SURROGATE.search(raw) else value


def _read_bytes(req: falcon.Request, max_bytes: int) -> bytes:
    encoding = req.get_header("Content-Encoding", default="identity")
    if encoding != "identity":
        raise falcon.HTTPUnsupportedMediaType(
            description=f"expected no Content-Encoding, found {printable(encoding, 60)}"
        )
    length = req.content_length or 0
    if length > max_bytes:
        raise falcon.HTTPContentTooLarge(description=f"expected a body of at most {max_bytes} bytes, found {length}")
    raw: bytes = req.bounded_stream.read(length)
    if not raw:
        raise RequestError("body", "expected a JSON object, found nothing")
    return raw


def _parse(raw: bytes) -> object:
    try:
        return _DECODER.decode(raw.decode("utf-8"))
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


# `json.loads` would make one for each request.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")  # alone: those of a pair have become one character


def _whole_text(value: Any) -> Any:
    """The same with U+FFFD in the place of each lone surrogate, in names as in values."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole_text(item) for item in value]
    if isinstance(value, dict):
        return {_whole_text(name): _whole_text(item) for name, item in value.items()}
    return value


def kind_of(value: object) -> str:
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
    return RequestError(parameter, f"expected {expected}, found {kind_of(found)}")


def read(req: falcon.Request, kind: type[T], max_bytes: int) -> T:
    """Read the body as a struct of the schema, or as an array of such.

    Raises:
        As `read_value`.
        RequestError: it is no object, or no array; a field is missing, or of another type or range; names it by its
            path.
    """
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return convert((read_json if is_struct else read_value)(req, max_bytes), kind)


def convert(value: object, kind: type[T], where: str = "") -> T:
    """Validate a JSON value, which stands at the path `where`; fields that the schema does not know are left out.

    Raises:
        RequestError: names the field at fault by its path, such as `messages[0].content`.
    """
    learn(kind)
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(str(error), value, where) from None


_AT = re.compile(r" - at `(?P<key>key in )?\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")


def _explain(message: str, value: object, where: str) -> RequestError:
    """From the library's words: "Expected `int`, got `str` - at `$.max_tokens`"."""
    found = _AT.search(message)
    path, text = (found["path"], message[: found.start()]) if found else ("", message)
    text = text.replace("`", "")
    missing = re.fullmatch(r"Object missing required field (.+)", text)
    if missing:
        return RequestError(f"{where}{path}.{missing[1]}".lstrip("."), "expected it to be there, found nothing")
    expected = text.partition(", got ")[0]
    expected = expected[:1].lower() + expected[1:]
    at = _walk(value, path)
    shown = "" if at is _LOST else f", found {kind_of(at)}"
    path = where + path.removesuffix("[...]")  # a value of a mapping, whose key the library does not say
    return RequestError(printable(path.lstrip("."), 100) or "body", printable(f"{expected}{shown}", 200))


_LOST = object()


def _walk(value: object, path: str) -> object:
    """The value at a path; `_LOST` where it cannot be said (a value of a mapping has no name in the path)."""
    for step in _STEP.finditer(path):
        name, index = step["name"], step["index"]
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and index is not None and index.isdigit() and int(index) < len(value):
            value = value[int(index)]
        else:
            return _LOST
    return value
