"""The child's side of a chat template's process, here: its frames, its limits, and what it says of errors."""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest

from rocmforge.runtime.text import template_worker as worker
from rocmforge.runtime.text.template_worker import (
    BYTES_PER_GIVEN,
    CPU_SECONDS,
    MAX_PROBLEM_CHARS,
    MEMORY_BYTES,
    SandboxedTemplate,
    describe,
)

HELD = 5_000_000


def framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(8, "little") + frame for frame in frames)


class Buffered(io.BytesIO):
    """A stream of which nothing is sent before it is flushed."""

    sent = b""

    def flush(self) -> None:
        self.sent = self.getvalue()


class Child:
    """`main` with streams of its own, and what it asked of the system."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, requests: bytes) -> None:
        self.limits: list[tuple[int, int]] = []
        self.signals: list[tuple[int, object]] = []
        answers = Buffered()
        monkeypatch.setattr(worker, "_limit", lambda what, soft: self.limits.append((what, soft)))
        monkeypatch.setattr(worker, "_address_space", lambda: HELD)
        monkeypatch.setattr(signal, "signal", lambda number, what: self.signals.append((number, what)))
        monkeypatch.setattr(worker, "time", SimpleNamespace(process_time=lambda: 1.5))
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(requests)))
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=answers))
        worker.main()
        self.answers = answers.sent


def of_a_frame(frame: bytes) -> list[tuple[int, int]]:
    """Limits while it is answered, and after."""
    return [
        (resource.RLIMIT_AS, HELD + MEMORY_BYTES + BYTES_PER_GIVEN * len(frame)),
        (resource.RLIMIT_CPU, 2 + CPU_SECONDS),
        (resource.RLIMIT_AS, resource.RLIM_INFINITY),
    ]


def test_each_frame_has_its_answer_and_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "{% if x == 1 %}{{ raise_exception('n\ud800' * 600) }}{% endif %}x={{ x }}\ud801".encode(
        "utf-8", "surrogatepass"
    )
    frames = [source, b'{"x": 7}', b'{"x": 1}', b'{"x": "\xc3\xa9"}']
    child = Child(monkeypatch, framed(*frames) + b"\x01\0\0")  # the last breaks off
    problem = ("n\ud800" * 500).encode("utf-8", "surrogatepass")
    assert len(problem.decode("utf-8", "surrogatepass")) == MAX_PROBLEM_CHARS
    expected = [b"r", b"+", b"+x=7\xed\xa0\x81", b"-" + problem, b"+x=\xc3\xa9\xed\xa0\x81"]
    assert child.answers == framed(*expected)
    none = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)]
    assert child.limits == none + [limit for frame in frames for limit in of_a_frame(frame)]
    assert child.signals == [(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]


def test_a_source_that_does_not_parse_may_be_followed_by_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child(monkeypatch, framed(b"{% if %}", b"fine", b"{}"))
    _, problem, parsed, text = (found[8:] for found in split(child.answers))
    assert problem.startswith(b"-line 1: TemplateSyntaxError: Expected an expression")
    assert (parsed, text) == (b"+", b"+fine")


def split(answers: bytes) -> list[bytes]:
    """The frames, each with its length."""
    found = []
    while answers:
        end = 8 + int.from_bytes(answers[:8], "little")
        found.append(answers[:end])
        answers = answers[end:]
    return found


def test_one_without_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(template: SandboxedTemplate, variables: object) -> str:
        raise MemoryError

    monkeypatch.setattr(SandboxedTemplate, "render", no_memory)
    child = Child(monkeypatch, framed(b"x", b"{}", b"{}"))
    last = b"!takes more than 256 MiB of memory, or nests too deeply"
    assert child.answers == framed(b"r", b"+", last)
    assert child.limits[-1] == (resource.RLIMIT_AS, resource.RLIM_INFINITY)


def syntax_error() -> jinja2.TemplateSyntaxError:
    return jinja2.TemplateSyntaxError("wrong", 7)


class _HiddenError(Exception):
    pass


@pytest.mark.parametrize(
    "error, expected",
    [
        (RecursionError("deep"), "recurses too deeply"),
        (MemoryError(), f"takes more than {MEMORY_BYTES >> 20} MiB of memory, or nests too deeply"),
        (jinja2.TemplateError("no system"), "no system"),
        (syntax_error(), "line 7: TemplateSyntaxError: wrong\n  line 7"),
        (ValueError("x"), "ValueError: x"),
        (_HiddenError("y"), "HiddenError: y"),
        (jinja2.UndefinedError("'a' is undefined"), "UndefinedError: 'a' is undefined"),
    ],
)
def test_what_is_said_of_an_error(error: Exception, expected: str) -> None:
    assert describe(error) == expected


def test_a_template_gets_a_copy_of_its_variables() -> None:
    variables = {"a": 1}
    assert SandboxedTemplate("{% set a = 2 %}{{ a }}").render(variables) == "2"
    assert json.dumps(variables) == '{"a": 1}'


def test_the_address_space_is_in_bytes() -> None:
    found = re.search(r"^VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    assert worker._address_space() == pytest.approx(1024 * int(found[1]), rel=0.05)
