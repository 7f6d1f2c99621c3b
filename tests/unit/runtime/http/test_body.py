"""Bodies that are read: which are taken, and what is said of the others, to the letter."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import msgspec
import pytest

from rocmforge.artifacts.errors import RequestError
from rocmforge.runtime.http.core.body import convert, kind_of, read_json, wrong
from rocmforge.runtime.text.json_depth import MAX_DEPTH

DIGITS = "a number of more than 38 digits"


def said(data: bytes, limit: int = 1000, headers: dict[str, str] | None = None) -> str:
    """Why a body is refused."""
    req = falcon.testing.create_req(method="POST", body=data, headers=headers)
    with pytest.raises((RequestError, falcon.HTTPError)) as caught:
        read_json(req, limit)
    return str(getattr(caught.value, "description", None) or caught.value)


def test_what_is_no_body() -> None:
    assert said(b"") == "body: expected a JSON object, found nothing"
    assert said(b"[1]") == "body: expected a JSON object, found an array"
    assert said(b'{"a": \xff}') == "body: expected UTF-8, found other bytes @6"
    assert said(b'{"a": }') == "body: expected JSON: Expecting value @6"
    assert said(b'{"a": NaN}') == "body: expected finite numbers, found NaN"
    assert said(b'{"a": 1e999}') == "body: expected finite numbers, found 1e999"
    assert said(b'{"a": 1%s}' % (b"0" * 50) + b" ", 10) == "expected a body of at most 10 bytes, found 59"
    assert said(b'{"a": 1%s}' % (b"0" * 5000), 9000) == "body: expected JSON: an integer with too many digits"
    assert said(b"{}", headers={"Content-Encoding": "gzip"}) == "expected no Content-Encoding, found gzip"
    assert (
        said(b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1)) == f"body: nested more than {MAX_DEPTH} deep"
    )


def test_a_body_as_large_and_as_deep_as_may_be_is_read_once() -> None:
    data = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    req = falcon.testing.create_req(method="POST", body=data)
    assert read_json(req, len(data)) == json.loads(data)
    assert read_json(req, 1) == json.loads(data)  # kept, and not read again


def test_half_a_character_is_replaced_wherever_it_stands() -> None:
    data = rb'{"\ud800": ["\udfff x", {"b": "\uD83D\ude00", "c": [1, null, true]}]}'
    found = read_json(falcon.testing.create_req(method="POST", body=data), 1000)
    assert found == {"\ufffd": ["\ufffd x", {"b": "\U0001f600", "c": [1, None, True]}]}


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ({}, "an object"),
        ([], "an array"),
        ('a"', 'the string "a\\""'),
        (1.5, "1.5"),
        (2**128 - 1, str(2**128 - 1)),
        (2**128, DIGITS),
        (-(2**128), DIGITS),
        ("x" * 70, 'the string "' + "x" * 59 + "…"),
    ],
)
def test_values_are_named(value: object, text: str) -> None:
    assert kind_of(value) == text
    assert str(wrong("a.b", "a thing", value)) == f"a.b: expected a thing, found {text}"
    assert wrong("a.b", "a thing", value).parameter == "a.b"


class Inner(msgspec.Struct):
    """A part of a request."""

    number: int = 0
    names: list[str] = []
    counts: dict[str, int] = {}


class Whole(msgspec.Struct):
    """A request."""

    must: int
    parts: list[Inner] = []


@pytest.mark.parametrize(
    "value, text",
    [
        ([], "body: expected object, found an array"),
        ({}, "must: expected it to be there, found nothing"),
        ({"must": "1"}, 'must: expected int, found the string "1"'),
        ({"must": 1, "parts": [{}, {"number": 1.5}]}, "parts[1].number: expected int, found 1.5"),
        ({"must": 1, "parts": [{"names": ["a", 2]}]}, "parts[0].names[1]: expected str, found 2"),
        ({"must": 1, "parts": [{"counts": {"a": 1, "b": "x"}}]}, "parts[0].counts: expected int"),
        ({"must": 1, "parts": {}}, "parts: expected array, found an object"),
    ],
)
def test_a_field_at_fault_is_named_by_its_path(value: Any, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        convert(value, Whole)
    assert str(caught.value) == text
    assert convert({"must": 2, "more": 3}, Whole) == Whole(2)


@pytest.mark.parametrize(
    "value, text",
    [
        ([], "a.b[3]: expected object, found an array"),
        ({}, "a.b[3].must: expected it to be there, found nothing"),
        ({"must": 1, "parts": [{"number": 1.5}]}, "a.b[3].parts[0].number: expected int, found 1.5"),
        ({"must": 1, "parts": [{"counts": {"b": "x"}}]}, "a.b[3].parts[0].counts: expected int"),
    ],
)
def test_what_is_a_part_of_a_request_is_named_by_its_whole_path(value: Any, text: str) -> None:
    with pytest.raises(RequestError) as caught:
        convert(value, Whole, "a.b[3]")
    assert str(caught.value) == text
