"""F106: a server behind this one that answers a page, a redirect or nonsense."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any, ClassVar

import falcon.testing
import pytest

from rocmforge.runtime.http.app import HttpApp
from rocmforge.runtime.http.proxy.manager import IntegrationManager, OllamaIntegration
from rocmforge.tests.support.backends import EVENTS, Backend, client_of


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
