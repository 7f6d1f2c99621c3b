"""The API's documentation: every example is run as printed, and every operation and field is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.support.doc_examples import (
    DOCS,
    MORE,
    Example,
    Operation,
    check_answer,
    check_shape,
    read_examples,
    run_example,
)
from rocmforge.tests.support.process import Server

PAGES = sorted((DOCS / "api").glob("*.md"))
# Routes that the OpenAPI document leaves out: pages, and the document itself.
PAGE_OPERATIONS = {("get", "/"), ("get", "/docs"), ("get", "/openapi.json")}
_FIELD = re.compile(r"^\| ((?:`[^`]+`(?:, )?)+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_answer_as_printed(page: Path, server: Server) -> None:
    for example in read_examples(page):
        status, text = run_example(example, server.url)
        assert status == example.status, f"{example.command}\n{text}"
        check_answer(example, text)


def test_what_is_printed_wrong_is_found() -> None:
    check_shape({"a": [{"b": 1}], "c": None, MORE: MORE}, {"a": [{"b": 2.5}], "c": "x", "d": 1})
    for wrong in ({"a": 1, "b": 2}, {"a": "1"}, {"a": True}, {MORE: MORE, "b": 1}, {}, [1]):
        with pytest.raises(AssertionError):
            check_shape(wrong, {"a": 1})
    with pytest.raises(AssertionError):
        check_answer(Example("", 200, "data: [DONE]\n"), 'data: {"a": 1}\n')


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/openapi.json").json()
    return found


def find_operation(document: dict[str, Any], asked: Operation) -> Operation | None:
    """The operation of the document that a request is for."""
    method, path = asked
    templates = [template for template, entry in document["paths"].items() if method in entry]
    for template in sorted(templates, key=lambda template: "{" in template):
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(template)), path):
            return method, template
    return None


def test_every_operation_has_an_example(document: dict[str, Any]) -> None:
    asked = {operation for page in PAGES for example in read_examples(page) for operation in example.operations()}
    pages = asked & PAGE_OPERATIONS
    found = {operation: find_operation(document, operation) for operation in asked - pages}
    assert None not in found.values(), [operation for operation, route in found.items() if route is None]
    expected = {(method, path) for path, entry in document["paths"].items() for method in entry}
    assert expected - set(found.values()) == set()
    assert pages == PAGE_OPERATIONS


def documented_fields(page: Path) -> set[str]:
    """Names in the first column of a page's tables."""
    return {name for cell in _FIELD.findall(page.read_text()) for name in re.findall(r"`([^`]+)`", cell)}


def test_every_field_is_in_a_table(document: dict[str, Any]) -> None:
    """Of a request's body or query, on the page of its example or among the fields that several APIs share."""
    shared = documented_fields(DOCS / "api.md")
    schemas = document["components"]["schemas"]
    missing = set()
    for page in PAGES:
        known = shared | documented_fields(page)
        for example in read_examples(page):
            for asked in example.operations():
                operation = find_operation(document, asked)
                if operation is None:
                    continue
                entry = document["paths"][operation[1]][operation[0]]
                fields = {parameter["name"] for parameter in entry.get("parameters", ())}
                body = entry.get("requestBody", {"content": {"application/json": {"schema": {}}}})
                reference = body["content"]["application/json"]["schema"].get("$ref", "")
                fields |= schemas.get(reference.rpartition("/")[2], {}).get("properties", {}).keys()
                missing |= {(page.name, asked[1], name) for name in fields - known}
    assert missing == set()
