"""Connections that are too many, too slow, or ambiguous: through a real server on the loopback."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from rocmforge.runtime.http.app import HttpApp, HttpLimits
from rocmforge.runtime.http.core.job import Job
from rocmforge.runtime.http.transport import connections
from rocmforge.runtime.http.transport.connections import Channel, Task
from rocmforge.runtime.http.transport.server import MAX_UNREAD_BYTES, Server
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

BODY = {"prompt": "x"}
PATIENCE = 20.0  # only ends what hangs

Start = Callable[[HttpApp], Server]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server; at the end all are stopped."""
    running: list[tuple[Server, threading.Thread]] = []

    def run(app: HttpApp) -> Server:
        server = Server(app, "127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=(0.1,), daemon=True)
        thread.start()
        running.append((server, thread))
        return server

    yield run
    for server, thread in running:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


def url_of(server: Server, path: str = "") -> str:
    return f"http://127.0.0.1:{server.address[1]}{path}"


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.address, timeout=PATIENCE)


def read_all(sock: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def exchange(server: Server, data: bytes) -> bytes:
    with connect(server) as sock:
        sock.sendall(data)
        return read_all(sock)


def assert_good(server: Server) -> None:
    assert requests.post(url_of(server, "/generate"), json=BODY, timeout=PATIENCE).status_code == 200


def error_in(answer: bytes, status: int) -> object:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] %d " % status, head), answer
    assert b"application/json" in head
    return json.loads(body)["error"]


GET = b"GET /status/1 HTTP/1.1\r\n"
POST = b"POST /generate HTTP/1.1\r\n"
SMUGGLED = b'POST /generate HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 14\r\n\r\n{"prompt":"x"}'
F52 = {
    "two Hosts": GET + b"Host: a\r\nHost: b\r\n\r\n",
    "two equal Hosts": GET + b"Host: a\r\nhost: a\r\n\r\n",
    "no Host": GET + b"\r\n",
    "two lengths": POST + b"Host: [::1]\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "length and encoding": POST + b"Host: [::1]\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two encodings": POST + b"Host: [::1]\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding in HTTP 1.0": b"POST /generate HTTP/1.0\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": POST + b"Host: [::1]\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded line": POST + b"Host: [::1]\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n",
    "two keys": GET + b"Host: [::1]\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
    "unknown version": b"GET / HTTP/3.7\r\nHost: [::1]\r\n\r\n",
    "negative length": POST + b"Host: [::1]\r\nContent-Length: -2\r\n\r\n",
    "length of 5000 digits": POST + b"Host: [::1]\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "half an address": b"GET http://[ HTTP/1.1\r\nHost: [::1]\r\n\r\n",
    "bare newline": GET + b"Host: [::1]\r\nX: a\nY: b\r\n\r\n",
    "NUL in a name": GET + b"Host: [::1]\r\nX\0: a\r\n\r\n",
}


@pytest.mark.parametrize("data", F52.values(), ids=F52.keys())
def test_F52_an_ambiguous_request_is_refused_and_nothing_after_it_is_read(start: Start, data: bytes) -> None:
    engine = FakeEngine()
    server = start(make_app(engine))
    answer = exchange(server, data + SMUGGLED)
    assert error_in(answer, 400)
    assert len(re.findall(rb"HTTP/1\.[01] \d{3} ", answer)) == 1
    assert not engine.generations
    assert_good(server)


def test_F52_an_encoding_that_is_not_known(start: Start) -> None:
    server = start(make_app(FakeEngine()))
    assert error_in(exchange(server, POST + b"Host: [::1]\r\nTransfer-Encoding: gzip\r\n\r\n"), 501)


def test_a_chunked_body_is_read(start: Start) -> None:
    server = start(make_app(FakeEngine()))
    body = (piece for piece in (b'{"prompt"', b': "x"}'))
    answer = requests.post(url_of(server, "/generate"), data=body, timeout=PATIENCE)
    assert answer.json()["finish_reason"] == "eos"


@pytest.mark.parametrize("path", ["/generate", "/v1/completions?x=1", "/api/chat"])
def test_a_header_too_large_is_a_431_in_the_shape_of_its_path(start: Start, path: str) -> None:
    server = start(make_app(FakeEngine(), HttpLimits(max_header_bytes=2000)))
    head = f"POST {path} HTTP/1.1\r\nHost: [::1]\r\nX: {'y' * 3000}\r\n\r\n".encode()
    error = error_in(exchange(server, head), 431)
    assert isinstance(error, dict) == path.startswith("/v1")
    assert_good(server)


SLOW = HttpLimits(header_seconds=0.3, body_seconds=0.6, idle_seconds=0.9, poll_seconds=0.02)
F53 = {
    "header": (b"", "the header alone is sent slowly", 0.3),
    "body": (POST + b"Host: [::1]\r\nContent-Length: 100000\r\n\r\n", "the length promises more", 0.6),
    "chunked body": (
        POST + b"Host: [::1]\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\n",
        "the chunk promises more",
        0.6,
    ),
}


@pytest.mark.parametrize("opening, _why, least", F53.values(), ids=F53.keys())
def test_F53_a_byte_at_a_time_is_closed_at_a_deadline(start: Start, opening: bytes, _why: str, least: float) -> None:
    server = start(make_app(FakeEngine(), SLOW))
    with connect(server) as sock:
        began = time.monotonic()
        sock.sendall(opening)
        closed = b""
        sock.settimeout(0.01)
        while time.monotonic() - began < PATIENCE:
            try:
                sock.sendall(b"G")
                closed = sock.recv(65536)
                break
            except TimeoutError:
                continue
            except OSError:  # closed between two bytes
                break
        assert least <= time.monotonic() - began < PATIENCE
        # The answer is lost where a byte crossed it.
        assert closed == b"" or error_in(closed, 408)
    assert_good(server)


def test_F53_a_silent_sender_reads_why(start: Start) -> None:
    server = start(make_app(FakeEngine(), SLOW))
    assert error_in(exchange(server, POST + b"Host: [::1]\r\nContent-Length: 10\r\n\r\n{"), 408)


def test_F53_deadlines_spare_requests_that_are_served(start: Start) -> None:
    """A generation may take longer than a request may take to arrive; and the deadline begins anew after it."""
    server = start(make_app(FakeEngine(prefill_seconds=1.2), SLOW))
    with connect(server) as sock:
        sock.sendall(SMUGGLED)
        for _ in range(2):
            sock.sendall(SMUGGLED)
            answer = sock.recv(65536)
            while not answer.endswith(b"}"):  # header and body are two writes
                more = sock.recv(65536)
                assert more, answer
                answer += more
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_idle_connection_is_closed(start: Start) -> None:
    server = start(make_app(FakeEngine(), SLOW))
    with connect(server) as sock:
        assert read_all(sock) == b""


def channels(server: Server) -> list[Channel]:
    return server._channels()


def slow_reader(server: Server) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
    sock.settimeout(PATIENCE)
    sock.connect(server.address)
    body = json.dumps({**BODY, "max_tokens": 10_000}).encode()
    head = b"POST /generate/stream HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    sock.sendall(head + body)
    return sock


# 4 MB: more than the buffers of both kernels (a quarter of 1 MB) and our own.
PIECE = "x" * 16_000
LONG = [PIECE] * 250


def test_F54_a_reader_that_stops_takes_bounded_memory_and_is_dropped(start: Start) -> None:
    engine = FakeEngine(reply=LONG, max_context=20_000)
    app = make_app(engine, HttpLimits(write_seconds=0.5, poll_seconds=0.02))
    server = start(app)
    with slow_reader(server):
        most = 0
        deadline = time.monotonic() + PATIENCE
        while app.admission.active or not engine.generations:
            most = max([most, *(channel.total_outbufs_len for channel in channels(server))])
            assert time.monotonic() < deadline, "never dropped"
            time.sleep(0.002)
    # The bound, and one event, which is whole in the buffer (a piece, its names and quotes: under 1 KB more).
    assert MAX_UNREAD_BYTES < most <= MAX_UNREAD_BYTES + len(PIECE) + 1024
    assert engine.last.state().finished
    assert not channels(server)
    assert_good(server)


def test_F54_a_reader_that_is_merely_slow_gets_all(start: Start) -> None:
    server = start(make_app(FakeEngine(reply=LONG, max_context=20_000), HttpLimits(write_seconds=0.5)))
    received = bytearray()
    with slow_reader(server) as sock:
        # 4 MB in pieces of 64 KB at most, with a pause after each: more than a second, and 0.5 s are allowed in all.
        while data := sock.recv(64 << 10):
            received += data
            time.sleep(0.02)
    assert received.count(b'"text":"xxx') == len(LONG)
    assert received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
def test_an_answered_request_leaves_nothing(start: Start, path: str) -> None:
    engine = FakeEngine()
    app = make_app(engine)
    server = start(app)
    gc.collect()
    gc.disable()  # nor anything that only the collector would find
    try:
        for _ in range(3):
            requests.post(url_of(server, path), json=BODY, timeout=PATIENCE).raise_for_status()
        deadline = time.monotonic() + PATIENCE
        while [left for left in gc.get_objects() if isinstance(left, Task | Job)]:
            assert time.monotonic() < deadline, "a task or a job is still there"
            time.sleep(0.01)
    finally:
        gc.enable()
    assert len(engine.generations) == 3  # which an engine remembers


def test_F56_connections_past_the_limit_get_a_503(start: Start) -> None:
    server = start(make_app(FakeEngine(), HttpLimits(max_connections=4)))
    session = requests.Session()
    assert session.get(url_of(server, "/health"), timeout=PATIENCE).status_code == 200
    with contextlib.ExitStack() as held:
        others = [held.enter_context(connect(server)) for _ in range(3)]
        while len(channels(server)) < 4:
            time.sleep(0.005)
        for _ in range(3):
            answer = exchange(server, GET + b"Host: [::1]\r\n\r\n")
            assert error_in(answer, 503) == "too many connections"
            assert b"Retry-After: 1\r\n" in answer
        assert session.get(url_of(server, "/health"), timeout=PATIENCE).status_code == 200
        others[0].close()
        while len(channels(server)) == 4:
            time.sleep(0.005)
        assert_good(server)


def test_F56_a_refused_client_may_write_for_a_while(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection closed with bytes unread is reset, and its client might never see why it was refused."""
    monkeypatch.setattr(connections, "REFUSAL_SECONDS", 1.0)
    server = start(make_app(FakeEngine(), HttpLimits(max_connections=1)))
    with connect(server) as held:
        held.sendall(b"GET /")
        while not any(channel.request for channel in channels(server)):
            time.sleep(0.005)
        with connect(server) as refused:
            assert error_in(read_all(refused), 503) == "too many connections"
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):  # a client that never closes is left after all
                while time.monotonic() - began < PATIENCE:
                    refused.send(b"x")
                    time.sleep(0.02)
            assert 0.9 <= time.monotonic() - began < PATIENCE


def test_F56_who_is_idle_makes_room(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "EVICTABLE_SECONDS", 0.1)
    engine = FakeEngine(prefill_seconds=60)
    server = start(make_app(engine, HttpLimits(max_connections=3)))
    with connect(server) as busy, connect(server) as idle, connect(server) as partial:
        busy.sendall(SMUGGLED)
        partial.sendall(b"GET /")
        while not engine.generations or not any(channel.request for channel in channels(server)):
            time.sleep(0.005)
        time.sleep(0.2)
        assert requests.get(url_of(server, "/health"), timeout=PATIENCE).status_code == 200
        assert read_all(idle) == b""
        assert engine.last.cancelled_at is None


def test_F56_health_waits_for_no_thread(start: Start) -> None:
    engine = FakeEngine(prefill_seconds=60)
    server = start(make_app(engine, HttpLimits(max_streams=1, spare_threads=0)))
    with connect(server) as sock, connect(server) as waiting:
        sock.sendall(SMUGGLED)
        waiting.sendall(GET + b"Host: [::1]\r\n\r\n")
        while not engine.generations:
            time.sleep(0.005)
        for path in ("/health", "/ready", "/metrics"):
            assert requests.get(url_of(server, path), timeout=PATIENCE).status_code == 200
        waiting.setblocking(False)
        with pytest.raises(BlockingIOError):
            waiting.recv(1)


def test_F56_many_connections_at_once(start: Start) -> None:
    """Each is answered: as many as there is room for are served, the others are told when to come again."""
    engine = FakeEngine(prefill_seconds=60)
    app = make_app(engine, HttpLimits(max_streams=4, spare_threads=4))
    server = start(app)
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(connect(server)) for _ in range(300)]
        for sock in socks:
            sock.sendall(SMUGGLED)
        answers: list[bytes] = []
        while len(answers) < 296:
            for sock in list(socks):
                sock.settimeout(0.001)
                with contextlib.suppress(TimeoutError):
                    answers.append(sock.recv(65536))
                    socks.remove(sock)
        assert all(b" 503 " in answer and b"Retry-After: 1\r\n" in answer for answer in answers)
        while len(engine.generations) < 4:  # the last may hold its slot and not have come to the engine
            time.sleep(0.005)
        assert len(engine.generations) == 4
        for generation in engine.generations:
            generation.cancel()
        for sock in socks:
            sock.settimeout(PATIENCE)
            assert b"200 OK" in sock.recv(65536)


def test_F57_what_waitress_logs_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger("waitress").info("Client disconnected while serving %s", "/x\r\nforged \x1b[31m")
    assert [record.getMessage() for record in caplog.records] == [
        "Client disconnected while serving /x\\r\\nforged \\x1b[31m"
    ]


EXHAUSTED = """
    import os, resource, threading
    from rocmforge.tests.support.fake_engine import FakeEngine, make_app
    from rocmforge.runtime.http.transport.server import Server
    server = Server(make_app(FakeEngine()), "127.0.0.1", 0)
    threading.Thread(target=server.run, args=(0,), daemon=True).start()
    used = max(map(int, os.listdir("/proc/self/fd"))) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, used + 10))
    print(server.address[1], flush=True)
    input()
"""


def test_F70_descriptors_exhausted() -> None:
    """Some connections are served, the others are refused at once; the loop does not spin; then all is well again."""
    command = [sys.executable, "-c", textwrap.dedent(EXHAUSTED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        with contextlib.ExitStack() as held:
            socks = [held.enter_context(socket.create_connection(address, timeout=PATIENCE)) for _ in range(40)]
            for sock in socks:
                sock.sendall(GET + b"Host: [::1]\r\n\r\n")
            statuses = []
            for sock in socks:
                try:
                    statuses.append(sock.recv(65536)[9:12])
                except ConnectionResetError:  # refused, and closed before it had sent its request
                    statuses.append(b"503")
            assert set(statuses) == {b"404", b"503"}
            assert statuses.count(b"404") >= 8
            before = _cpu_seconds(process.pid)
            time.sleep(1.0)
            assert _cpu_seconds(process.pid) - before < 0.5
        # The server frees the descriptors of those who left when it comes to read that they did.
        deadline = time.monotonic() + PATIENCE
        while requests.get(f"http://127.0.0.1:{address[1]}/health", timeout=PATIENCE).status_code != 200:
            assert time.monotonic() < deadline
        process.kill()


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
