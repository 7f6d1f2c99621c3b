"""The API's documentation: every example is run as printed, and every operation and field is in it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "api").glob("*.md"))
PRINTED_URL = "http://localhost:8080"
# Routes that the OpenAPI document leaves out: pages, and the document itself.
PAGE_OPERATIONS = {("get", "/"), ("get", "/docs"), ("get", "/openapi.json")}
_EXAMPLE = re.compile(r"```bash\n(.*?)```\n\nAnswer(?:, status (\d+))?:\n\n```\w+\n(.*?)```", re.DOTALL)
_FIELD = re.compile(r"^\| ((?:`[^`]+`(?:, )?)+)", re.MULTILINE)
# Stands in a printed object for fields that are not shown.
MORE = "…"
Operation = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A command, and what it answers, as printed."""

    command: str
    status: int
    answer: str

    def operations(self) -> list[Operation]:
        """Method and path of each request that it makes."""
        found = []
        for words in re.split(r"\bcurl ", self.command)[1:]:
            path = re.search(re.escape(PRINTED_URL) + r"([^\s\"?]*)", words)
            method = re.search(r"-X (\w+)", words)
            assert path, self.command
            found.append(((method[1] if method else "POST" if " -d " in words else "GET").lower(), path[1]))
        return found


def read_examples(page: Path) -> list[Example]:
    """The examples of a page; each block of shell must be one."""
    text = page.read_text()
    found = [Example(command, int(status or 200), answer) for command, status, answer in _EXAMPLE.findall(text)]
    assert len(found) == text.count("```bash\n") > 0, f"{page.name}: an example without its answer"
    return found


def run_example(example: Example, url: str) -> tuple[int, str]:
    """Run it in a shell; returns the status of its last request, and what it printed."""
    tell = "curl() { command curl -sS -w '%{stderr}%{http_code}\\n' \"$@\"; }\n"
    command = tell + example.command.replace(PRINTED_URL, url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    return int(done.stderr.split()[-1]), done.stdout


def check_shape(printed: Any, found: Any, where: str = "answer") -> None:
    """Both have the same keys and kinds of values, where the printed one does not say that it leaves some out."""
    if printed is None or found is None:
        return
    kinds = [
        float if isinstance(value, int) and not isinstance(value, bool) else type(value) for value in (printed, found)
    ]
    assert kinds[0] is kinds[1], f"{where}: printed {kinds[0].__name__}, found {kinds[1].__name__}"
    if isinstance(printed, dict):
        shown = printed.keys() - {MORE}
        assert shown <= found.keys() if MORE in printed else shown == found.keys(), f"{where}: {sorted(found)}"
        for key in shown:
            check_shape(printed[key], found[key], f"{where}.{key}")
    elif isinstance(printed, list) and printed:
        assert found, f"{where}: printed entries, found none"
        check_shape(printed[0], found[0], f"{where}[0]")


def same_line(printed: str, found: str) -> bool:
    """Whether a line of a stream or of text is of the same form: JSON by its shape, anything else but for numbers."""
    try:
        check_shape(json.loads(printed.removeprefix("data: ")), json.loads(found.removeprefix("data: ")))
    except ValueError:
        return re.sub(r"\d+(\.\d+)?", "0", printed) == re.sub(r"\d+(\.\d+)?", "0", found)
    except AssertionError:
        return False
    return True


def check_answer(example: Example, text: str) -> None:
    """What came back has the form of what is printed."""
    try:
        printed = json.loads(example.answer)
    except ValueError:
        lines = [line for line in text.splitlines() if line and line != ": ping"]
        for line in filter(None, example.answer.splitlines()):
            assert any(same_line(line, other) for other in lines), f"no such line in the answer: {line}\n{text[:2000]}"
    else:
        check_shape(printed, json.loads(text))


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
