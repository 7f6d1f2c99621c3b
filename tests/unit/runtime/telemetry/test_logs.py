"""The log: levels by RUST_LOG, text and JSON, request ids, and that nobody can forge a line."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any

import click
import falcon.testing
import pytest

from rocmforge.cli.serve import serve
from rocmforge.runtime.http.transport.observe import request_id_of
from rocmforge.runtime.telemetry.logs import (
    LEVELS,
    REQUEST_ID,
    TRACE,
    JsonFormatter,
    LogOptions,
    TextFormatter,
    configure,
    read_filter,
)
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

ERROR, WARN, INFO, DEBUG = logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG


pytestmark = pytest.mark.usefixtures("loggers_restored")


class Lines:
    """What went to standard error."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def getvalue(self) -> str:
        return self._capture.readouterr().err


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capsys)


@pytest.mark.parametrize(
    "directives, levels",
    [
        ("", {"": INFO}),
        ("info", {"": INFO}),
        ("DEBUG", {"": DEBUG}),
        ("off", {"": 60}),
        ("trace", {"": TRACE}),
        ("rocmforge=debug,warn", {"rocmforge": DEBUG, "": WARN}),
        (" warn , rocmforge::runtime::http = trace ", {"": WARN, "rocmforge.runtime.http": TRACE}),
        ("rocmforge.access=off", {"rocmforge.access": 60, "": ERROR}),
        ("rocmforge", {"rocmforge": TRACE, "": ERROR}),
    ],
)
def test_filters(directives: str, levels: dict[str, int]) -> None:
    assert read_filter(directives) == (levels, [])


@pytest.mark.parametrize(
    "directive", ["rocmforge=loud", "=debug", "a[span{x=1}]=debug", "x/regex", "a=b=debug", "\x1b=info"]
)
def test_a_directive_that_is_not_understood_is_ignored_and_named(directive: str, lines: Lines) -> None:
    assert read_filter(f"debug,{directive}") == ({"": DEBUG}, [directive])
    configure(LogOptions(filter=f"debug,{directive}"))
    [line] = lines.getvalue().splitlines()
    assert "WARNING" in line
    assert "is not understood, and ignored" in line
    assert line.isprintable()


def test_the_longest_target_holds(lines: Lines) -> None:
    configure(LogOptions(filter="warn,rocmforge=debug,rocmforge.access=off"))
    for name in ("other", "rocmforge.runtime.engine", "rocmforge.access"):
        logging.getLogger(name).debug("debug of %s", name)
        logging.getLogger(name).warning("warning of %s", name)
    messages = [line.split(": ", 1)[1] for line in lines.getvalue().splitlines()]
    assert messages == ["warning of other", "debug of rocmforge.runtime.engine", "warning of rocmforge.runtime.engine"]


def test_a_level_stands_above_the_filter(lines: Lines) -> None:
    configure(LogOptions(level="error", filter="trace"))
    logging.getLogger("x").warning("not this")
    logging.getLogger("x").error("this")
    assert [line.rsplit(": ", 1)[1] for line in lines.getvalue().splitlines()] == ["this"]


def test_each_level_is_a_choice_of_the_command() -> None:
    [option] = [option for option in serve.params if option.name == "log_level"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(LEVELS) == ["off", "error", "warn", "info", "debug", "trace"]


def record(message: str, *arguments: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("rocmforge.x", INFO, __file__, 1, message, arguments, extra.pop("exc_info", None))
    made.__dict__.update(extra)
    return made


FORGERY = "x\r\n2026-11-21 13:00:00,000 INFO rocmforge.access: GET /admin 200\x1b[2J\u2028\x85 é"


def failure(text: str) -> Any:
    try:
        raise ValueError(text)
    except ValueError:
        return sys.exc_info()


def test_F57_a_line_of_text_cannot_be_forged() -> None:
    line = TextFormatter().format(record("path %s", FORGERY))
    assert line.isprintable()
    assert r"x\r\n2026" in line
    assert "é" in line


def test_F57_nor_by_the_text_of_an_exception() -> None:
    text = TextFormatter().format(record("failed", exc_info=failure(FORGERY)))
    first, *others = text.splitlines()
    assert first.endswith("INFO rocmforge.x: failed")
    assert others
    assert all(line.startswith("    ") and line.isprintable() for line in others)


def test_F57_a_line_of_json_is_one_line() -> None:
    line = JsonFormatter().format(record("path %s", FORGERY, exc_info=failure(FORGERY)))
    assert line.isprintable()
    document = json.loads(line)
    assert document["message"] == f"path {FORGERY}"
    assert "ValueError: x" in document["exception"]


def test_a_message_is_bounded() -> None:
    assert len(TextFormatter().format(record("x" * 10**6))) < 5000
    assert len(JsonFormatter().format(record("\u2028" * 10**6))) < 30_000  # six characters for each of 4,000


def test_json_has_time_level_logger_id_and_fields() -> None:
    token = REQUEST_ID.set("abc")
    document = json.loads(JsonFormatter().format(record("done", created=1.5, fields={"status": 200})))
    REQUEST_ID.reset(token)
    assert document == {
        "timestamp": "1970-01-01T00:00:01.500000Z",
        "level": "info",
        "logger": "rocmforge.x",
        "message": "done",
        "request_id": "abc",
        "status": 200,
    }


def test_a_line_of_text_has_time_level_logger_and_id() -> None:
    made = record("done", created=time.time())
    token = REQUEST_ID.set("abc")
    named = TextFormatter().format(made)
    REQUEST_ID.reset(token)
    plain = TextFormatter().format(made)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO rocmforge\.x: done", plain)
    assert named == plain.replace("rocmforge.x:", "rocmforge.x [abc]:")


def test_levels_in_json() -> None:
    logging.addLevelName(TRACE, "x")
    configure(LogOptions(level="trace", json=True))
    names = []
    for level in (TRACE, DEBUG, INFO, WARN, ERROR):
        made = record("done", levelno=level, levelname=logging.getLevelName(level))
        names.append(json.loads(JsonFormatter().format(made))["level"])
    assert names == ["trace", "debug", "info", "warn", "error"]


def test_it_may_be_set_up_again(lines: Lines) -> None:
    for level in ("error", "info"):
        configure(LogOptions(level=level))
    logging.getLogger("x").info("once")
    assert [line.rsplit(": ", 1)[1] for line in lines.getvalue().splitlines()] == ["once"]


def test_a_file_is_written_to_and_opened_again_after_it_was_moved(tmp_path: Path, lines: Lines) -> None:
    path = tmp_path / "log"
    configure(LogOptions(file=path, json=True))
    logging.getLogger("x").info("one")
    path.rename(tmp_path / "log.1")
    logging.getLogger("x").info("two")
    assert json.loads((tmp_path / "log.1").read_text())["message"] == "one"
    assert json.loads(path.read_text())["message"] == "two"
    assert lines.getvalue() == ""


def client() -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(FakeEngine()))


@pytest.mark.parametrize("given", ["abc-1", "a" * 128, "8d5c:1/2+3=@x_y.z"])
def test_the_clients_request_id_comes_back(given: str) -> None:
    assert client().simulate_get("/health", headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\r\nSet-Cookie: x", "a\x1b[2J", "ä", "<script>", "x,y"])
def test_F57_a_request_id_that_is_not_sane_is_replaced(given: str) -> None:
    environ = falcon.testing.create_environ(headers={})
    environ["HTTP_X_REQUEST_ID"] = given
    made = request_id_of(falcon.Request(environ))
    assert len(made) == 32
    assert int(made, 16) >= 0


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/status/x", "/generate"])
def test_every_answer_names_its_request(path: str) -> None:
    ids = {client().simulate_get(path).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_the_lines_of_a_request_have_its_id_and_the_next_ones_do_not(stream: bool, lines: Lines) -> None:
    configure(LogOptions(json=True))
    path = "/generate/stream" if stream else "/generate"
    engine = FakeEngine(fail_after=1)
    falcon.testing.TestClient(make_app(engine)).simulate_post(
        path, json={"prompt": "x"}, headers={"X-Request-Id": "mine"}
    )
    logging.getLogger("x").info("idle")
    *of_request, after = map(json.loads, lines.getvalue().splitlines())
    assert {line["request_id"] for line in of_request} == {"mine"}
    assert "request_id" not in after
    access = of_request[-1]
    assert (access["logger"], access["method"], access["path"]) == ("rocmforge.access", "POST", path)
    assert access["status"] == (200 if stream else 500)
    assert access["milliseconds"] >= 0


def test_prompts_and_answers_are_logged_at_no_level(lines: Lines) -> None:
    configure(LogOptions(level="trace", json=True))
    engine = FakeEngine(reply=["answered ", "confidentially"])
    testing = falcon.testing.TestClient(make_app(engine))
    secret = "the prompt is secret"
    messages = [{"role": "user", "content": secret}]
    for path, body in (
        ("/generate", {"prompt": secret}),
        ("/generate/stream", {"prompt": secret}),
        ("/v1/completions", {"prompt": secret}),
        ("/v1/chat/completions", {"messages": messages}),
        ("/v1/chat/completions", {"messages": messages, "stream": True}),
        ("/generate", {"prompt": secret, "max_tokens": "wrong"}),
    ):
        assert testing.simulate_post(path, json=body).status_code in {200, 400}
    engine.broken = True
    assert testing.simulate_post("/generate", json={"prompt": secret}).status_code == 500
    text = lines.getvalue()
    assert len(text.splitlines()) >= 7
    assert "secret is" not in text
    assert secret not in text
    assert "confidentially" not in text
