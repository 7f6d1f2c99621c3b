"""What is asked of a server behind this one, and what its answers may be."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rocmforge.runtime.http.proxy import manager as integrations
from rocmforge.runtime.http.proxy.manager import (
    ASK_SECONDS,
    IDLE_SECONDS,
    Forwarded,
    Health,
    IntegrationError,
    OllamaIntegration,
    OpenAIIntegration,
)
from rocmforge.tests.support.backends import EVENTS, asked


class Connections:
    """A server that gives each connection the next of its answers and leaves it open, and who asked it what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> None:
        self.ours: list[http.client.HTTPConnection] = []
        self.asked: list[bytes] = []
        self._answers = answers
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._held: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        made = self.ours

        class Known(http.client.HTTPConnection):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                made.append(self)

        monkeypatch.setattr(http.client, "HTTPConnection", Known)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            theirs, _ = self._listening.accept()
            self._held.append(theirs)
            self.asked.append(theirs.recv(1 << 16))
            theirs.sendall(answer)

    def all_closed(self) -> bool:
        """Whether we have hung up, each time."""
        return len(self.ours) == len(self._answers) and all(one.sock is None for one in self.ours)

    def close(self) -> None:
        self._thread.join(10)
        for one in (self._listening, *self._held):
            one.close()


def kept_open(status: str, body: bytes, kind: str = "application/json", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.contextmanager
def connections(monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> Iterator[Connections]:
    with contextlib.closing(Connections(monkeypatch, *answers)) as made:
        yield made
    assert made.all_closed()


def test_what_is_asked_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = kept_open("200 OK", b'{"version": "1"}')
    with connections(monkeypatch, answer, answer) as made:
        assert OllamaIntegration(made.url + "/below/", 5.0, api_key="k").get_version() == "1"
        forwarded = OllamaIntegration(made.url, api_key="").forward("/api/chat", b"{}")
        forwarded.close()
        host = made.url.removeprefix("http://")
        key = "Authorization: Bearer k"
        assert made.asked[0].decode().split("\r\n") == asked("/below/api/version", host, key)
        more = ("Content-Type: application/json",)
        head, _, body = made.asked[1].decode().partition("\r\n\r\n")
        lines = asked("/api/chat", host, "Content-Length: 2", *more, method="POST")
        assert sorted([*head.split("\r\n"), "", ""]) == sorted(lines)
        assert body in ("", "{}")  # it may come on its own
        assert [one.timeout for one in made.ours] == [5.0, IDLE_SECONDS]


def test_an_encrypted_server_is_asked_so(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []

    def refuse(host: str, port: int | None, *, timeout: float) -> None:
        told.append((host, port, timeout))
        raise OSError(111, "refused")

    monkeypatch.setattr(http.client, "HTTPSConnection", refuse)
    for integration in (OpenAIIntegration("https://h:77/v1"), OllamaIntegration("https://h", 3.0)):
        assert integration.health_check() == Health(False, None, f"{integration.url}: Connection refused")
        assert not integration.is_available()
    assert told == [("h", 77, ASK_SECONDS)] * 2 + [("h", None, 3.0)] * 2


BAD_ANSWERS = {
    "no HTTP": (b"hello\r\n\r\n", "{url}: hello\\r\\n"),
    "page": (
        kept_open("200 OK", b"x", "text/html"),
        "{url}/x: expected application/json or text/event-stream, found text/html (status 200)",
    ),
    "events of an error": (
        kept_open("300 Many", b"x", "text/event-stream"),
        "{url}/x: a redirect (status 300), which is not followed",
    ),
    "redirect": (kept_open("399 X", b"{}"), "{url}/x: a redirect (status 399), which is not followed"),
    "error of events": (
        kept_open("400 X", b"x", "text/event-stream"),
        "{url}/x: expected application/json or text/event-stream, found text/event-stream (status 400)",
    ),
    "status 600": (kept_open("600 X", b"{}"), "{url}/x: expected a status from 200 to 599, found 600"),
    "compressed": (
        kept_open("200 OK", b"{}", "application/json", "Content-Encoding: br"),
        "{url}/x: expected no Content-Encoding, found br",
    ),
    "no JSON": (
        kept_open("201 OK", b"{"),
        "{url}/x: expected JSON, as its content type says, found something else (status 201)",
    ),
    "too deep": (
        kept_open("200 OK", b"[" * 100_000),
        "{url}/x: expected JSON, as its content type says, found something else (status 200)",
    ),
}


@pytest.mark.parametrize("answer, problem", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
def test_a_connection_with_a_bad_answer_is_closed(monkeypatch: pytest.MonkeyPatch, answer: bytes, problem: str) -> None:
    with connections(monkeypatch, answer) as made:
        with pytest.raises(IntegrationError) as caught:
            OllamaIntegration(made.url).forward("/x", b"{}")
        assert str(caught.value) == problem.format(url=made.url)
        assert made.ours[0].sock is None


@pytest.mark.parametrize(
    "status, seconds, expected",
    [("200", "7", "7"), ("299", "123456", "123456"), ("400", "1234567", None), ("599", "", None)],
)
def test_an_answer_of_json(monkeypatch: pytest.MonkeyPatch, status: str, seconds: str, expected: str | None) -> None:
    monkeypatch.setattr(integrations, "MAX_ANSWER_BYTES", 10)
    with connections(
        monkeypatch, kept_open(f"{status} X", b'{"a":"bc"}', "application/json", f"Retry-After: {seconds}")
    ) as made:
        forwarded = OllamaIntegration(made.url).forward("/x", b"{}")
        found = (forwarded.status, forwarded.media_type, forwarded.body, forwarded.retry_after)
        assert found == (int(status), "application/json", b'{"a":"bc"}', expected)
        forwarded.close()
    with (
        connections(monkeypatch, kept_open(f"{status} X", b'{"a":"bcd"}')) as made,
        pytest.raises(IntegrationError, match=r"/x: expected at most 10 bytes in one piece$"),
    ):
        OllamaIntegration(made.url).forward("/x", b"{}")


def test_a_stream_is_read_as_it_comes_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [kept_open("200 OK", EVENTS, "text/event-stream"), kept_open("200 OK", b"1\n", "application/x-ndjson")]
    with connections(monkeypatch, *answers) as made:
        ollama = OllamaIntegration(made.url)
        events, lines = ollama.forward("/v1/x", b"{}"), ollama.forward("/api/x", b"{}")
        assert (events.body, events.media_type, b"".join(events.chunks())) == (None, "text/event-stream", EVENTS)
        assert (lines.body, lines.media_type) == (None, "application/x-ndjson")
        assert [one.sock is None for one in made.ours] == [False, False]
        for one in (events, lines):
            one.close()
            assert one._response.isclosed()


class Breaking:
    """A response, or a connection, that breaks off."""

    def __init__(self, error: Exception) -> None:
        self.error, self.closed = error, 0

    def read1(self, size: int) -> bytes:
        raise self.error

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(104, "x"), "Connection reset by peer"),
        (OSError("odd"), "odd"),
        (socket.gaierror(-2, "Name or service not known"), "[Errno -2] Name or service not known"),
        (TimeoutError(), "TimeoutError"),
        (http.client.IncompleteRead(b""), "IncompleteRead(0 bytes read)"),
        (OSError(0, "nothing"), "[Errno 0] nothing"),
    ],
)
def test_why_it_broke_off(error: Exception, reason: str) -> None:
    response, connection = Breaking(error), Breaking(error)
    forwarded = Forwarded(200, "text/event-stream", None, None, response, connection)  # type: ignore[arg-type]
    with pytest.raises(IntegrationError) as caught:
        next(forwarded.chunks())
    assert str(caught.value) == f"the server behind broke off: {reason}"
    forwarded.close()
    assert (response.closed, connection.closed) == (1, 1)


@pytest.mark.parametrize(
    "answer, problem",
    [
        (kept_open("201 Created", b"{}"), "expected a short answer with status 200, found 201"),
        (kept_open("200 OK", b'{"data":[]} '), "expected a short answer with status 200, found 200"),
        (kept_open("200 OK", b"[]"), "expected a JSON object"),
        (kept_open("200 OK", b"{"), "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (kept_open("200 OK", b"[" * 11), "Expecting value: line 1 column 12 (char 11)"),
    ],
)
def test_a_list_that_is_none(monkeypatch: pytest.MonkeyPatch, answer: bytes, problem: str) -> None:
    monkeypatch.setattr(integrations, "MAX_LIST_BYTES", 11)
    with connections(monkeypatch, answer) as made:
        with pytest.raises(IntegrationError) as caught:
            OpenAIIntegration(made.url + "/v1").get_models()
        assert str(caught.value) == f"{made.url}/v1/models: {problem}"
        assert made.ours[0].sock is None


def test_a_list_that_is_too_deep_and_one_of_the_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    with connections(monkeypatch, kept_open("200 OK", b"[" * 100_000), kept_open("200 OK", b'{"data":[]}')) as made:
        server = OpenAIIntegration(made.url + "/v1/")
        with pytest.raises(IntegrationError, match="maximum recursion depth"):
            server.get_models()
        monkeypatch.setattr(integrations, "MAX_LIST_BYTES", 11)
        assert server.get_models() == []
        assert (server.url, server.prefix) == (made.url + "/v1", "/v1")


def test_what_is_told_of_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = [
        {"name": "a", "size": 1_250_000_000, "details": {"family": "llama", "parameter_size": "1B"}},
        {"name": "b", "size": "large", "details": []},
        {"name": 5},
        "c",
        {},
    ]
    models = [{"id": "d", "object": "other", "created": 7, "owned_by": "x", "more": 1}, {"id": "e"}, {"name": "f"}]
    told: list[dict[str, object]] = [{"models": tags}, {"data": models}, {"models": {}}, {}]
    answers = [json.dumps(one).encode() for one in told]
    with connections(monkeypatch, *(kept_open("200 OK", answer) for answer in answers)) as made:
        ollama, other = OllamaIntegration(made.url), OpenAIIntegration(made.url + "/v1")
        same = {
            **{"object": "model", "created": 0, "owned_by": "ollama", "supports_agent": True, "supports_tools": True},
            "capabilities": {"completion": True, "tools": True},
        }
        assert ollama.get_models() == [
            {"id": "a", **same, "details": {"size": "1.2GB", "family": "llama", "parameter_size": "1B"}},
            {"id": "b", **same, "details": {"size": "unknown", "family": "unknown", "parameter_size": "unknown"}},
        ]
        assert other.get_models() == [models[0], {"id": "e", "object": "model", "created": 0, "owned_by": "unknown"}]
        for server, name in ((ollama, "models"), (other, "data")):
            with pytest.raises(IntegrationError, match=f"^expected a list {name}$"):
                server.get_models()
        assert ollama.prefix == ""


@pytest.mark.parametrize("version, expected", [("1.2", "1.2"), (5, None), ("v" * 41, "v" * 40 + "…")])
def test_its_version(monkeypatch: pytest.MonkeyPatch, version: object, expected: str | None) -> None:
    with connections(monkeypatch, kept_open("200 OK", json.dumps({"version": version}).encode())) as made:
        assert OllamaIntegration(made.url).health_check() == Health(True, expected, None)
