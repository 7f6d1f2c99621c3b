"""Other servers' models: asked of a scripted HTTP server."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import falcon.testing
import pytest

from rocmforge.artifacts.errors import UsageError
from rocmforge.runtime.http.app import HttpApp, create_app
from rocmforge.runtime.http.integrations import PROXIED, PROXIED_OLLAMA
from rocmforge.runtime.http.limits import HttpLimits
from rocmforge.runtime.http.registry import OneModel
from rocmforge.runtime.http.service import Service
from rocmforge.runtime.integrations import (
    IntegrationManager,
    OllamaIntegration,
    OpenAIIntegration,
    parse_integration,
)
from rocmforge.runtime.metrics import Metrics

from .http.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer

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
    assert told == PROXIED | PROXIED_OLLAMA


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
