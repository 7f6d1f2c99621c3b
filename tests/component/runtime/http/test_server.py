"""Through a real server on the loopback: streams, disconnects, floods, and how it stops."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import requests

from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.runtime.http.app import HttpApp, HttpLimits
from rocmforge.runtime.http.transport.server import Server
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

Serve = Callable[[HttpApp], str]
FAST = HttpLimits(poll_seconds=0.02)


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.005)


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_the_openai_client(serve: Serve) -> None:
    client = client_of(serve(make_app(FakeEngine())))
    answer = client.chat.completions.create(model="org/tiny:q4", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == " Paris, in France."
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    completion = client.completions.create(model="org/tiny:q4", prompt="hi", max_tokens=2)
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == (" Paris,", "length")
    assert [m.id for m in client.models.list()] == ["org/tiny:q4"]
    assert client.models.retrieve("org/tiny:q4").owned_by == "rocmforge"


def test_the_openai_client_streams(serve: Serve) -> None:
    client = client_of(serve(make_app(FakeEngine(token_seconds=0.01))))
    chunks = list(
        client.chat.completions.create(
            model="org/tiny:q4",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == " Paris, in France."
    assert chunks[-1].usage is not None
    pieces = [c.choices[0].text for c in client.completions.create(model="org/tiny:q4", prompt="hi", stream=True)]
    assert "".join(pieces) == " Paris, in France."


def test_the_openai_client_reads_our_errors(serve: Serve) -> None:
    engine = FakeEngine(fail_after=1)
    client = client_of(serve(make_app(engine)))
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="org/tiny:q4", prompt="x" * 500)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIError, match="the device is lost"):
        list(client.completions.create(model="org/tiny:q4", prompt="x", stream=True))
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_the_documented_python_client(serve: Serve) -> None:
    """As in the API's documentation: every event whole, `finished` at the end."""
    url = serve(make_app(FakeEngine(token_seconds=0.01)))
    response = requests.post(f"{url}/generate/stream", json={"prompt": "x"}, stream=True, timeout=10)
    text = ""
    for line in response.iter_lines():
        if line.startswith(b"data: "):
            data = json.loads(line[6:])
            text += data["text"]
    assert data["finished"]
    assert text == " Paris, in France."


def test_a_connection_outlives_its_streams(serve: Serve) -> None:
    """Chunks say where a stream ends, so it is closed only for those that ask for that, or know no chunks."""
    host, port = urlsplit(serve(make_app(FakeEngine()))).netloc.split(":")
    body = {"prompt": "hi", "stream": True}
    with contextlib.closing(HTTPConnection(host, int(port), timeout=10)) as connection:
        for _ in range(3):
            connection.request("POST", "/v1/completions", json.dumps(body))
            answer = connection.getresponse()
            assert answer.read().endswith(b"data: [DONE]\n\n")
            assert answer.getheader("Transfer-Encoding") == "chunked"
            assert answer.getheader("Connection") is None
        kept = connection.sock
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "x" * 500}))
        assert connection.getresponse().read().startswith(b'{"error"')
        assert connection.sock is kept
        connection.request("POST", "/v1/completions", json.dumps(body), {"Connection": "close"})
        answer = connection.getresponse()
        assert answer.read().endswith(b"data: [DONE]\n\n")
        assert answer.getheader("Connection") == "close"
    head = f"POST /v1/completions HTTP/1.0\r\nContent-Length: {len(json.dumps(body))}\r\nConnection: keep-alive\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as old:
        old.sendall((head + json.dumps(body)).encode())
        assert b"".join(iter(lambda: old.recv(1 << 16), b"")).endswith(b"data: [DONE]\n\n")


def test_each_event_leaves_in_one_write(serve: Serve) -> None:
    url = serve(make_app(FakeEngine(token_seconds=0.05, reply=["é", "x", "y"])))
    with requests.post(f"{url}/generate/stream", json={"prompt": "x"}, stream=True, timeout=10) as response:
        chunks = list(response.raw.read_chunked())
    assert chunks[0] == b": ping\n\n"
    assert all(c.startswith(b"data: {") and c.endswith(b"}\n\n") for c in chunks[1:])
    assert len(chunks) == 4


def test_a_slow_prefill_is_bridged_by_pings(serve: Serve) -> None:
    limits = HttpLimits(ping_seconds=0.1, poll_seconds=0.02)
    url = serve(make_app(FakeEngine(prefill_seconds=0.55), limits))
    began = time.monotonic()
    with requests.post(f"{url}/generate/stream", json={"prompt": "x"}, stream=True, timeout=10) as response:
        assert time.monotonic() - began < 0.4, "the headers wait for the first token"
        text = response.text
    assert 4 <= text.count(": ping\n\n") <= 7
    assert text.count("data: ") == 5


def send(url: str, path: str, body: dict[str, object]) -> socket.socket:
    address = urlsplit(url)
    data = json.dumps(body).encode()
    sock = socket.create_connection((address.hostname, address.port), timeout=5)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    sock.sendall(head.encode() + data)
    return sock


BODY: dict[str, Any] = {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}
F55 = [
    ("prefill", "/generate", False),
    ("prefill", "/generate/stream", False),
    ("prefill", "/v1/completions", False),
    ("prefill", "/v1/chat/completions", False),
    ("prefill", "/v1/chat/completions", True),
    ("tokens", "/generate", False),
    ("tokens", "/generate/stream", False),
    ("tokens", "/v1/completions", True),
    ("tokens", "/v1/chat/completions", False),
]


@pytest.mark.parametrize("phase, path, stream", F55)
def test_F55_a_disconnect_cancels_the_generation(serve: Serve, phase: str, path: str, stream: bool) -> None:
    engine = FakeEngine(prefill_seconds=30) if phase == "prefill" else FakeEngine(token_seconds=0.01, reply=["x"] * 100)
    app = make_app(engine, HttpLimits())
    sock = send(serve(app), path, {**BODY, "stream": stream, "max_tokens": 100})
    wait_until(lambda: engine.generations and (phase == "prefill" or engine.last.state().tokens), 2)
    sock.close()
    closed = time.monotonic()
    wait_until(lambda: engine.last.cancelled_at is not None, 1)
    assert engine.last.cancelled_at is not None
    assert engine.last.cancelled_at - closed < 0.5
    wait_until(lambda: app.admission.active == 0, 1)


def test_F55_a_client_that_waits_is_not_cancelled(serve: Serve) -> None:
    engine = FakeEngine(token_seconds=0.05)
    url = serve(make_app(engine, FAST))
    assert requests.post(f"{url}/generate", json=BODY, timeout=5).json()["finish_reason"] == "eos"
    assert engine.last.cancelled_at is None


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_request_of_v1_is_an_error(serve: Serve, stream: bool) -> None:
    engine = FakeEngine(prefill_seconds=30)
    url = serve(make_app(engine, FAST))
    sock = send(url, "/v1/chat/completions", {**BODY, "stream": stream})
    wait_until(lambda: engine.generations, 2)
    cancelled = requests.post(f"{url}/cancel/1", timeout=5).json()
    assert (cancelled["finished"], cancelled["finish_reason"]) == (True, "cancelled")
    received = b""
    while b"request_cancelled" not in received:
        data = sock.recv(65536)
        assert data, received
        received += data
    sock.close()
    assert received.startswith(b"HTTP/1.1 200 " if stream else b"HTTP/1.1 400 ")
    assert b"[DONE]" not in received


def test_F56_a_flood_leaves_health_a_thread(serve: Serve) -> None:
    engine = FakeEngine(prefill_seconds=30)
    limits = HttpLimits(max_streams=4, spare_threads=2)
    url = serve(make_app(engine, limits))
    held = [send(url, "/generate/stream", BODY) for _ in range(4)]
    wait_until(lambda: len(engine.generations) == 4, 2)
    refused = [requests.post(f"{url}/generate", json=BODY, timeout=5) for _ in range(5)]
    assert {r.status_code for r in refused} == {503}
    assert {r.headers["Retry-After"] for r in refused} == {"1"}
    began = time.monotonic()
    assert requests.get(f"{url}/health", timeout=5).status_code == 200
    assert time.monotonic() - began < 0.2
    for sock in held:
        sock.close()
    engine.prefill_seconds = 0

    def served() -> bool:
        return requests.post(f"{url}/generate", json=BODY, timeout=5).status_code == 200

    wait_until(served, 2)


@pytest.mark.parametrize("size", [1_001, 3_000, 500_000])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_F47_an_oversized_body_is_a_413_in_our_shape(serve: Serve, path: str, size: int) -> None:
    url = serve(make_app(FakeEngine(), HttpLimits(max_body_bytes=1000)))
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=5) as sock:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
        sock.sendall(head.encode() + (b"x" * size if size < 4000 else b""))
        received = b""
        while data := sock.recv(65536):
            received += data
    head_text, _, body = received.partition(b"\r\n\r\n")
    assert head_text.startswith(b"HTTP/1.1 413 ")
    assert b"application/json" in head_text
    error = json.loads(body)["error"]
    assert isinstance(error, dict) == path.startswith("/v1")
    assert requests.post(f"{url}/generate", json=BODY, timeout=5).status_code == 200


def test_what_waitress_refuses_has_our_shape_too(serve: Serve) -> None:
    address = urlsplit(serve(make_app(FakeEngine())))
    with socket.create_connection((address.hostname, address.port), timeout=5) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n")
        received = b""
        while data := sock.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 400 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]


def test_F70_a_port_in_use_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RocmforgeError, match=rf"^cannot listen on 127.0.0.1:{port}: the address is in use$"):
            Server(make_app(FakeEngine()), "127.0.0.1", port)


def test_a_host_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(RocmforgeError, match=r"^cannot listen on nowhere.invalid:80"):
        Server(make_app(FakeEngine()), "nowhere.invalid", 80)


def stopped_server(app: HttpApp, drain_seconds: float) -> tuple[str, Server, threading.Thread]:
    server = Server(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(drain_seconds,), daemon=True)
    thread.start()
    return f"http://127.0.0.1:{server.address[1]}", server, thread


def test_F63_stopping_lets_a_stream_end(serve: Serve) -> None:
    engine = FakeEngine(token_seconds=0.1)
    url, server, thread = stopped_server(make_app(engine, FAST), 10)
    with requests.post(f"{url}/generate/stream", json=BODY, stream=True, timeout=5) as response:
        server.stop()
        wait_until(lambda: requests.get(f"{url}/ready", timeout=5).status_code == 503, 5)
        assert requests.get(f"{url}/live", timeout=5).json() == {"live": True, "service": "rocmforge"}
        refused = requests.post(f"{url}/generate", json=BODY, timeout=5)
        assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
        assert '"finish_reason":"eos"' in response.text
    thread.join(5)
    assert not thread.is_alive()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/live", timeout=1)


def test_stopping_cancels_what_takes_too_long() -> None:
    engine = FakeEngine(prefill_seconds=60)
    url, server, thread = stopped_server(make_app(engine, FAST), 0.2)
    with requests.post(f"{url}/generate/stream", json=BODY, stream=True, timeout=5) as response:
        server.stop()
        assert '"finish_reason":"cancelled"' in response.text
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_0(number: signal.Signals) -> None:
    script = """
        from rocmforge.tests.support.fake_engine import FakeEngine, make_app
        from rocmforge.runtime.http.transport.server import run_server
        run_server(make_app(FakeEngine()), "127.0.0.1", 0, on_ready=lambda *a: print(*a, flush=True))
    """
    code = textwrap.dedent(script)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        host, port = process.stdout.readline().split()
        assert requests.get(f"http://{host}:{port}/ready", timeout=5).status_code == 200
        process.send_signal(number)
        assert process.wait(10) == 0
