"""The server's limits and ends, without a process of its own."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.runtime.http.app import HttpLimits
from rocmforge.runtime.http.transport import server as server_module
from rocmforge.runtime.http.transport.auth import Security
from rocmforge.runtime.http.transport.server import RESERVED_DESCRIPTORS, Server, run_server
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

INFINITY = -1
WANTED = 1000
NEEDED = WANTED + RESERVED_DESCRIPTORS


@pytest.mark.parametrize(
    "soft, hard, raised, possible",
    [
        (INFINITY, INFINITY, None, WANTED),
        (NEEDED, NEEDED, None, WANTED),
        (100, INFINITY, NEEDED, WANTED),
        (100, NEEDED + 5, NEEDED, WANTED),
        (NEEDED - 1, NEEDED, NEEDED, WANTED),
        (100, NEEDED - 1, NEEDED - 1, WANTED - 1),
        (100, RESERVED_DESCRIPTORS + 7, RESERVED_DESCRIPTORS + 7, 7),
        (100, 200, 200, 1),
    ],
)
def test_as_many_connections_as_files_may_be_open(
    soft: int,
    hard: int,
    raised: int | None,
    possible: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The limit is raised as far as that is needed, and where it cannot be, fewer are held, and the log says so."""
    set_to: list[Any] = []
    fake = SimpleNamespace(
        RLIM_INFINITY=INFINITY,
        RLIMIT_NOFILE="files",
        getrlimit=lambda kind: (soft, hard) if kind == "files" else None,
        setrlimit=lambda *asked: set_to.append(asked),
    )
    monkeypatch.setattr(server_module, "resource", fake)
    with caplog.at_level(logging.WARNING):
        server = Server(make_app(FakeEngine(), HttpLimits(max_connections=WANTED)), "127.0.0.1", 0)
    server._close()
    assert set_to == ([] if raised is None else [("files", (raised, hard))])
    (listener,) = server._listeners
    assert listener._max_connections == possible
    few = f"at most {possible} connections at once, for no more than {raised} files may be open (ulimit -n)"
    assert caplog.messages == ([] if possible == WANTED else [few])


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(errno.EADDRINUSE, "x"), "the address is in use"),
        (OSError(errno.EACCES, "x"), "Permission denied"),
        (socket.gaierror(-2, "Name or service not known"), "[Errno -2] Name or service not known"),
        (OSError("odd\n"), "odd\\n"),
        (ValueError("no such\n host"), "no such\\n host"),
    ],
)
def test_why_it_cannot_listen(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise error

    threads = threading.active_count()
    monkeypatch.setattr(Server, "_listen", refuse)
    with pytest.raises(RocmforgeError) as caught:
        Server(make_app(FakeEngine()), "a\nb", 80)
    assert str(caught.value) == f"cannot listen on a\\nb:80: {reason}"
    assert threading.active_count() <= threads  # none is left behind


@pytest.mark.parametrize("ignored", [False, True])
def test_signals_stop_it_and_are_as_before_afterwards(ignored: bool) -> None:
    """A SIGHUP that is ignored, as by nohup, stays so."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        expected = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            seen: list[Any] = []

            def ready(host: str, port: int, number: signal.Signals = number, seen: list[Any] = seen) -> None:
                seen.append((host, port > 0))
                if ignored and number == signal.SIGHUP:
                    seen.append(signal.getsignal(number))
                    signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(number)

            run_server(make_app(FakeEngine()), "127.0.0.1", 0, ready, 0.1)
            assert seen[0] == ("127.0.0.1", True)
            assert seen[1:] == ([signal.SIG_IGN] if ignored and number == signal.SIGHUP else [])
            assert {each: signal.getsignal(each) for each in numbers} == expected
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("proxy", [None, "10.0.0.1"])
def test_what_waitress_is_told(proxy: str | None) -> None:
    """Of a proxy that is trusted, the last hop alone and no header but two are believed."""
    server = Server(make_app(FakeEngine(), security=Security(trusted_proxy=proxy)), "127.0.0.1", 0)
    server._close()
    told = server._listeners[0].adj
    assert told.trusted_proxy == proxy
    if proxy is not None:
        assert told.trusted_proxy_count == 1
        assert told.trusted_proxy_headers == {"x-forwarded-for", "x-forwarded-proto"}
    assert (told.ident, told.channel_request_lookahead) == (None, 1)
    assert told.max_request_body_size == server_module.BODY_SLACK * (4 << 20) + 1
    assert told.max_request_header_size == 32 << 10
    assert told.outbuf_high_watermark == server_module.MAX_UNREAD_BYTES
    assert (told.log_socket_errors, told.threads) == (False, HttpLimits().threads)


def test_what_is_unread_when_it_stops_still_arrives() -> None:
    """More than the system's buffers hold: the loop has to go on while the answer drains."""
    text = "x" * (4 << 20)
    server = Server(make_app(FakeEngine(reply=[text])), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(20,), daemon=True)
    thread.start()
    with socket.create_connection(server.address, timeout=20) as client:
        body = b'{"prompt": "x"}'
        head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        client.sendall(head % len(body) + body)
        first = client.recv(10)  # it is being answered
        server.stop()
        received = [first]
        while chunk := client.recv(1 << 20):
            received.append(chunk)
    thread.join(10)
    assert not thread.is_alive()
    assert sum(map(len, received)) > len(text)
