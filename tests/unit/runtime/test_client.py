"""The client of the native API, against a server that answers as a test wants."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rocmforge.artifacts.errors import RocmforgeError, UsageError
from rocmforge.runtime import client as client_module
from rocmforge.runtime.client import Client

SEEN = ("Content-Type", "Accept", "Authorization")


class Server:
    """Answers each request with `status` and `body`; keeps what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b"{}", dict[str, str]()
        self.asked: list[tuple[str, str, object, dict[str, str | None]]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or -1)
                data = json.loads(self.rfile.read(length)) if length >= 0 else None
                owner.asked.append((self.command, self.path, data, {name: self.headers[name] for name in SEEN}))
                self.send_response(owner.status, "Odd")
                for name, value in owner.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(owner.body)

            do_GET = do_POST = _answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("ROCMFORGE_API_KEY", raising=False)
    made = Server()
    yield made
    made.close()


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(RocmforgeError) as caught:
        act()
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_each_call_is_one_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(server.url + "//")
    server.body = b'{"models": [{"id": "a"}], "x": 1}'
    answer = json.loads(server.body)
    assert client.generate({"prompt": "é"}) == answer
    assert client.status(7) == client.cancel(8) == answer
    assert client.models() == [{"id": "a"}]
    plain = {"Content-Type": "application/json", "Accept": "*/*", "Authorization": None}
    assert server.asked == [
        ("POST", "/generate", {"prompt": "é"}, plain),
        ("GET", "/status/7", None, plain),
        ("POST", "/cancel/8", {}, plain),
        ("GET", "/models", None, plain),
    ]
    monkeypatch.setenv("ROCMFORGE_API_KEY", " secret ")
    Client(server.url).status(9)
    assert server.asked[-1] == ("GET", "/status/9", None, {**plain, "Authorization": "Bearer secret"})


def test_the_key_is_shown_to_no_other_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Server()
    monkeypatch.setenv("ROCMFORGE_API_KEY", "secret")
    server.status, server.headers = 302, {"Location": f"{other.url}/models"}
    other.body = b'{"models": []}'
    assert Client(server.url).models() == []
    assert [seen["Authorization"] for *_, seen in (*server.asked, *other.asked)] == ["Bearer secret", None]
    other.close()


@pytest.mark.parametrize(
    "url", ["", "ftp://a", "http:", "http://", "localhost:8080", "https:/a", "a\nb", "http://[::1", "http://a:b"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match=r"^--url: expected a URL as http://127.0.0.1:8080, found ") as caught:
        Client(url)
    assert str(caught.value).isprintable()
    Client("https://a")


def test_a_stream_ends_with_what_is_finished(server: Server) -> None:
    events = [{"text": "a"}, {"text": "b", "finished": False}, {"finished": True}, {"text": "after"}]
    server.body = b": ping\n\n" + b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    assert list(Client(server.url).generate_stream({"prompt": "x"})) == events[:3]
    assert server.asked[-1][:3] == ("POST", "/generate/stream", {"prompt": "x"})
    server.body = b'data: {"text": "a"}\n'
    stream = Client(server.url).generate_stream({})
    assert next(stream) == {"text": "a"}
    assert refused(lambda: next(stream)) == f"{server.url}: the stream ended before the generation did"
    server.body, server.headers = b'data: {"text": "a"}\n', {"Content-Length": "100"}
    assert refused(lambda: list(Client(server.url).generate_stream({}))).startswith(f"{server.url}: ")


def test_answers_that_are_none(server: Server) -> None:
    client = Client(server.url)
    for body, found in (
        (b"<html>" + b"x" * 99, "<html>" + "x" * 54),
        (b"[1]", "[1]"),
        (b"\xff", "\\ufffd"),
        (b"[" * 100_000, "[" * 50),
    ):
        server.body = body
        message = refused(lambda: client.status(1))
        assert message.startswith(f"{server.url}: expected JSON, found ")
        assert found in message or body == b"\xff"
        assert "x" * 55 not in message
    server.body = b'{"models": {}}'
    assert refused(client.models) == f"{server.url}/models: expected a list of models: not a rocmforge server?"
    server.body, server.headers = b"{}", {"Content-Length": "100"}
    assert refused(lambda: client.status(1)).endswith("; is `rfc serve` running there?")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no\\nsuch"}}', "404: no\\nsuch"),
        (b'{"error": "gone"}', "404: gone"),
        (b'{"error": {"message": ""}}', "404: Odd"),
        (b"{}", "404: Odd"),
        (b"[]", "404: Odd"),
        (b"nonsense", "404: Odd"),
        (b"[" * 100_000, "404: Odd"),
        (b'{"error": "' + b"x" * 1000 + b'"}', "404: " + "x" * 495 + "…"),
    ],
)
def test_what_a_server_refuses_with(server: Server, body: bytes, said: str) -> None:
    server.status, server.body = 404, body
    assert refused(lambda: Client(server.url).status(5)) == f"{server.url}/status/5: {said}"


def test_no_server() -> None:
    gone = Server()
    gone.close()
    message = refused(lambda: Client(gone.url).status(5))
    assert message == f"{gone.url}: [Errno 111] Connection refused; is `rfc serve` running there?"


def test_a_server_that_says_nothing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def urlopen(request: object, timeout: float) -> None:
        seen.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    message = refused(lambda: Client(server.url, 2.5).status(5))
    assert message == f"{server.url}: timed out; is `rfc serve` running there?"
    refused(lambda: Client(server.url).status(5))
    assert seen == [2.5, client_module.TIMEOUT_SECONDS]
