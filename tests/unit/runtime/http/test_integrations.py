"""Other servers' models: asked of a scripted HTTP server."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

import falcon.testing
import pytest

from rocmforge.artifacts.errors import UsageError
from rocmforge.runtime.http.app import HttpApp, create_app
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.http.proxy import manager as integrations
from rocmforge.runtime.http.proxy.manager import (
    ASK_SECONDS,
    IDLE_SECONDS,
    KEEP_SECONDS,
    OLLAMA_URL,
    BaseIntegration,
    Forwarded,
    Health,
    IntegrationError,
    IntegrationManager,
    OllamaIntegration,
    OpenAIIntegration,
    parse_integration,
)
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer

TAGS = {"models": [{"name": "deepcoder:14b", "size": 8_400_000_000, "details": {"parameter_size": "14.8B"}}]}
EVENTS = b'data: {"a": 1}\n\ndata: [DONE]\n\n'


class Backend(BaseHTTPRequestHandler):
    """An Ollama and an OpenAI server in one; keeps what it was asked."""

    asked: ClassVar[list[tuple[str, Any, str | None]]]

    def do_GET(self) -> None:
        answers = {"/api/tags": TAGS, "/api/version": {"version": "0.11.5"}, "/v1/models": {"data": [{"id": "gpt"}]}}
        self._answer(200 if self.path in answers else 404, json.dumps(answers.get(self.path, {})).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body, self.headers["Authorization"]))
        if body.get("stream"):
            self._answer(200, EVENTS, "text/event-stream")
        else:
            self._answer(429 if body.get("busy") else 200, json.dumps({"here": body["model"]}).encode())

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Retry-After", "7")
        self.send_header("X-Secret", "kept")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[tuple[str, list[tuple[str, Any, str | None]]]]:
    class Handler(Backend):
        asked: ClassVar[list[tuple[str, Any, str | None]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Handler.asked
        server.shutdown()


def client_of(manager: IntegrationManager) -> falcon.testing.TestClient:
    service = Service(FakeEngine(), FakeTokenizer(), FakeTemplate(), MODEL)
    app = create_app(OneModel(service), Metrics(), HttpLimits(poll_seconds=0.02), integrations=manager)
    return falcon.testing.TestClient(app)


@pytest.fixture
def client(backend: tuple[str, Any]) -> falcon.testing.TestClient:
    manager = IntegrationManager()
    manager.add_integration("ollama", OllamaIntegration(backend[0]))
    manager.add_integration("other", OpenAIIntegration(backend[0] + "/v1", api_key="theirs"))
    manager.add_integration("gone", OllamaIntegration("http://127.0.0.1:9"))
    return client_of(manager)


def test_models_of_all_are_listed(client: falcon.testing.TestClient) -> None:
    data = {model["id"]: model for model in client.simulate_get("/v1/models").json["data"]}
    assert list(data) == ["org/tiny:q4", "deepcoder:14b", "gpt"]
    assert data["deepcoder:14b"]["owned_by"] == "ollama"
    assert data["deepcoder:14b"]["details"] == {"size": "8.4GB", "family": "unknown", "parameter_size": "14.8B"}
    assert client.simulate_get("/v1/models/deepcoder:14b").json == data["deepcoder:14b"]
    checked = client.simulate_post("/v1/models/check", json={"models": ["gpt", "org/tiny:q4", "none"]}).json["models"]
    assert [checked[name]["available"] for name in ("gpt", "org/tiny:q4", "none")] == [True, True, False]


def test_how_they_are(client: falcon.testing.TestClient) -> None:
    assert client.simulate_get("/v1/integrations").json == {
        "integrations": ["ollama", "other", "gone"],
        "available": ["ollama", "other"],
    }
    assert client.simulate_get("/v1/integrations/health").json == {
        "ollama": {"available": True, "version": "0.11.5", "status": "healthy"},
        "other": {"available": True, "version": None, "status": "healthy"},
        "gone": {"available": False, "version": None, "status": "unhealthy"},
    }


def test_requests_for_their_models_go_there(client: falcon.testing.TestClient, backend: tuple[str, Any]) -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "odd": [1]}
    headers = {"Authorization": "Bearer ours"}
    answer = client.simulate_post("/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.json, answer.headers.get("X-Secret")) == (200, {"here": "gpt"}, None)
    streamed = client.simulate_post("/v1/completions", json={"model": "deepcoder:14b", "stream": True})
    assert (streamed.content, streamed.headers["Content-Type"]) == (EVENTS, "text/event-stream")
    client.simulate_post("/api/chat", json={"model": "deepcoder:14b"})
    busy = client.simulate_post("/v1/completions", json={"model": "gpt", "busy": True})
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "7")
    assert [(path, key) for path, _, key in backend[1]] == [
        ("/v1/chat/completions", "Bearer theirs"),  # never the client's
        ("/v1/completions", None),
        ("/api/chat", None),
        ("/v1/completions", "Bearer theirs"),
    ]
    assert backend[1][0][1] == body


def test_our_own_are_answered_here(client: falcon.testing.TestClient, backend: tuple[str, Any]) -> None:
    for model in ("org/tiny:q4", "org/tiny:q4:latest", None):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        answer = client.simulate_post("/v1/chat/completions", json=body)
        assert answer.json["choices"][0]["message"]["content"] == " Paris, in France."
    assert client.simulate_post("/v1/completions", json={"model": "none", "prompt": "x"}).status_code == 404
    assert client.simulate_post("/v1/completions", body=b"nonsense").status_code == 400
    assert backend[1] == []


def test_one_that_goes_away(backend: tuple[str, Any]) -> None:
    manager = IntegrationManager()
    integration = OllamaIntegration(backend[0])
    manager.add_integration("ollama", integration)
    client = client_of(manager)
    assert len(client.simulate_get("/v1/models").json["data"]) == 2
    integration._parts = OllamaIntegration("http://127.0.0.1:9")._parts
    answer = client.simulate_post("/v1/completions", json={"model": "deepcoder:14b", "prompt": "x"})
    assert (answer.status_code, answer.json["error"]["type"]) == (502, "server_error")
    assert "Connection refused" in answer.json["error"]["message"]
    assert client.simulate_post("/v1/completions", json={"prompt": "x"}).status_code == 200
    paths = client.simulate_get("/openapi.json").json["paths"]
    told = {path for path, entry in paths.items() if "502" in entry.get("post", {"responses": ()})["responses"]}
    of_openai = {f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses")}
    assert told == of_openai | {f"/api/{name}" for name in ("chat", "generate", "embed", "embeddings", "show")}


def raw(status: str, kind: str | None, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *([f"Content-Type: {kind}"] if kind else []), *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]).encode() + body


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[falcon.testing.TestClient]:
    """A client of a server with an integration that answers every POST with these bytes."""

    class Handler(Backend):
        asked: ClassVar[list[tuple[str, Any, str | None]]] = []

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answer)
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        manager = IntegrationManager()
        manager.add_integration("ollama", OllamaIntegration(f"http://127.0.0.1:{server.server_port}"))
        yield client_of(manager)
        server.shutdown()


PAGE = b"<html><script>alert(1)</script></html>"
F106 = {
    "page": raw("200 OK", "text/html", PAGE),
    "page called JSON": raw("200 OK", "application/json", PAGE),
    "half a JSON": raw("200 OK", "application/json", b'{"a": 1'),
    "no type": raw("200 OK", None, b"{}"),
    "script": raw("200 OK", "text/javascript", b"{}"),
    "type and more": raw("200 OK", "text/html; x=application/json", b"{}"),
    "redirect": raw("307 Temporary Redirect", "application/json", b"{}", "Location: http://127.0.0.1:9/"),
    "not modified": raw("304 Not Modified", None, b""),
    "status 999": raw("999 What", "application/json", b"{}"),
    "status 600": raw("600 What", "application/json", b"{}"),
    "switching": raw("101 Switching Protocols", "application/json", b"{}"),
    "no content": raw("204 No Content", None, b""),
    "error page": raw("500 Internal Server Error", "text/html", PAGE),
    "error of events": raw("400 Bad Request", "text/event-stream", EVENTS),
    "compressed": raw("200 OK", "application/json", b"\x1f\x8b", "Content-Encoding: gzip"),
    "no HTTP": b"hello\r\n\r\n",
    "nothing": b"",
    "too many headers": raw("200 OK", "application/json", b"{}", *(["X: y"] * 200)),
}


@pytest.mark.parametrize("answer", F106.values(), ids=F106.keys())
def test_F106_what_is_neither_json_nor_events_is_a_502(answer: bytes) -> None:
    with answering(answer) as client:
        for path in ("/v1/chat/completions", "/api/chat"):
            relayed = client.simulate_post(path, json={"model": "deepcoder:14b"})
            assert (relayed.status_code, relayed.headers["Content-Type"]) == (502, "application/json"), path
            error = relayed.json["error"]
            assert isinstance(error, dict) == path.startswith("/v1")
            assert "script" not in relayed.text.replace("text/javascript", "")
            assert "Location" not in relayed.headers
        assert client.simulate_post("/v1/completions", json={"prompt": "x"}).status_code == 200
        assert isinstance(client.app, HttpApp)
        assert client.app.admission.active == 0


def test_F106_lines_of_json_are_for_ollamas_paths() -> None:
    with answering(raw("200 OK", "application/x-ndjson", b'{"done":true}\n')) as client:
        assert client.simulate_post("/api/chat", json={"model": "deepcoder:14b"}).text == '{"done":true}\n'
        assert client.simulate_post("/v1/completions", json={"model": "deepcoder:14b"}).status_code == 502


def test_F106_of_headers_only_what_is_ours_is_passed_on() -> None:
    mine = [
        "Set-Cookie: a=b",
        "Transfer-Encoding: identity",
        "X-Secret: y",
        "Access-Control-Allow-Origin: *",
        "Retry-After: x\ty",
    ]
    kept = raw("429 Slow", "Application/JSON; charset=latin-1", b'{"error": "slow"}', *mine)
    with answering(kept) as client:
        relayed = client.simulate_post("/v1/completions", json={"model": "deepcoder:14b"})
    assert (relayed.status_code, relayed.json) == (429, {"error": "slow"})
    assert relayed.headers["Content-Type"] == "application/json"
    assert {name.lower() for name in relayed.headers} == {
        "content-type",
        "content-length",
        "x-content-type-options",
        "x-request-id",
    }


def test_F106_a_stream_that_breaks_off_ends_with_an_error() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
    for path, kind in (("/v1/completions", b"text/event-stream"), ("/api/chat", b"application/x-ndjson")):
        with answering(head % kind + b"6\r\ndata: \r\n99\r\n{") as client:
            relayed = client.simulate_post(path, json={"model": "deepcoder:14b", "stream": True})
        last = relayed.text.splitlines()[-1 if path == "/api/chat" else -2]
        assert "broke off" in json.dumps(json.loads(last.removeprefix("data: "))["error"])


@pytest.mark.parametrize("text", ["", "x", "x=", "x=ftp://a", "x=http://", "a b=http://a", "other"])
def test_what_is_no_integration(text: str) -> None:
    with pytest.raises(UsageError, match="--integration"):
        parse_integration(text)


def test_kinds_and_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "10.0.0.1:11434")
    monkeypatch.setenv("ROCMFORGE_INTEGRATION_KEY_VLLM", "k")
    name, ollama = parse_integration("ollama")
    assert (name, ollama.url, type(ollama)) == ("ollama", "http://10.0.0.1:11434", OllamaIntegration)
    name, other = parse_integration("vllm=https://h/v1/")
    assert (name, other.url, type(other)) == ("vllm", "https://h/v1", OpenAIIntegration)


def test_the_speed_that_memory_allows(client: falcon.testing.TestClient) -> None:
    document = client.simulate_get("/v1/throughput", params={"bandwidth_gbps": 960}).json
    assert document["estimated_tokens_per_second"] == round(960e9 / document["bytes_per_token"], 2)
    for bad in ("x", "nan", "-1", "0"):
        assert client.simulate_get("/v1/throughput", params={"bandwidth_gbps": bad}).status_code == 400
    assert client.simulate_get("/v1/throughput", params={"model": "none"}).status_code == 404


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


def asked(path: str, host: str, *more: str, method: str = "GET") -> list[str]:
    """Lines of a request."""
    own = ["Accept: application/json, text/event-stream", "User-Agent: rocmforge", *more]
    return [f"{method} {path} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity", *own, "", ""]


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


class Counted(OpenAIIntegration):
    """Answers by itself, or fails."""

    def __init__(self, *models: str) -> None:
        super().__init__("http://h/v1")
        self.models, self.asked, self.broken = models, 0, False

    def get_models(self) -> list[dict[str, Any]]:
        self.asked += 1
        if self.broken:
            raise IntegrationError("gone")
        return [{"id": name} for name in self.models]

    def get_version(self) -> str | None:
        if self.broken:
            raise IntegrationError("gone")
        return "1"


def test_a_list_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(integrations, "time", SimpleNamespace(monotonic=lambda: now[0]))
    manager, first, second = IntegrationManager(), Counted("a", "b"), Counted("c")
    assert (manager.names(), manager.get_all_models(), manager.find("a")) == ([], [], None)
    manager.add_integration("first", first)
    manager.add_integration("second", second)
    with pytest.raises(UsageError, match=r"^--integration: there are two of the name first$"):
        manager.add_integration("first", second)
    assert manager.names() == ["first", "second"]
    assert manager.get_all_models() == [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    assert [manager.find(model) for model in ("b", "c", "d")] == [first, second, None]
    assert manager.health_check() == {"first": Health(True, "1"), "second": Health(True, "1")}
    assert (first.asked, second.asked) == (1, 1)
    first.broken = True
    now[0] = KEEP_SECONDS - 0.5
    assert (manager.find("b"), first.asked) == (first, 1)
    now[0] = KEEP_SECONDS
    assert (manager.find("b"), first.asked, second.asked) == (None, 2, 2)
    assert (manager.get_models_from("first"), first.asked) == ([], 2)  # not asked again for each request
    assert [record.message for record in caplog.records] == ["integration first: gone"]
    assert manager.health_check()["first"] == Health(False, None, "gone")
    first.broken = False
    now[0] = 2 * KEEP_SECONDS
    assert manager.find("b") is first


@pytest.mark.parametrize(
    "text, environ, kind, url, key",
    [
        ("ollama", {}, OllamaIntegration, OLLAMA_URL, None),
        ("ollama", {"OLLAMA_HOST": "http://h:1/"}, OllamaIntegration, "http://h:1", None),
        ("ollama=h2:5", {"OLLAMA_HOST": "h"}, OllamaIntegration, "http://h2:5", None),
        ("a=http://h/v1", {"ROCMFORGE_INTEGRATION_KEY_A": "k"}, OpenAIIntegration, "http://h/v1", "k"),
        ("a=http://h/v1x", {"ROCMFORGE_INTEGRATION_KEY_A": "k"}, OllamaIntegration, "http://h/v1x", "k"),
        ("a=http://h", {"ROCMFORGE_INTEGRATION_KEY_B": "k"}, OllamaIntegration, "http://h", None),
    ],
)
def test_what_an_argument_means(
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    environ: dict[str, str],
    kind: type[BaseIntegration],
    url: str,
    key: str | None,
) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    name, made = parse_integration(text)
    assert (name, type(made), made.url, made._api_key) == (text.partition("=")[0], kind, url, key)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("other", "--integration: expected ollama, or NAME=URL, found other"),
        ("a=", "--integration: expected ollama, or NAME=URL, found a="),
        ("a-b=http://h", "--integration: expected ollama, or NAME=URL, found a-b=http://h"),
        ("a=ftp://h", "--integration: expected an http or https URL, found ftp://h"),
        ("a=http:///x", "--integration: expected an http or https URL, found http:///x"),
    ],
)
def test_what_is_said_of_what_is_none(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_integration(text)
    assert str(caught.value) == problem
