"""A listener driven by hand, at a time of our own: who is accepted, refused, put out and waited for."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.runtime.http.app import HttpLimits
from rocmforge.runtime.http.transport import connections
from rocmforge.runtime.http.transport.connections import Channel, Listener, Refusal, close_overdue_refusals
from rocmforge.runtime.http.transport.server import Server
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

LIMITS = HttpLimits(max_connections=2, header_seconds=3, body_seconds=7, idle_seconds=11, write_seconds=13)


class Clock:
    """In the place of `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(connections, "time", made)
    return made


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    """Bound, and not running: nothing happens but what a test does."""
    made = Server(make_app(FakeEngine(), LIMITS), "127.0.0.1", 0)
    yield made
    made._close()


@pytest.fixture
def listener(server: Server) -> Listener:
    (one,) = server._listeners
    return one


def connect(listener: Listener) -> socket.socket:
    """A client that has been looked at."""
    sock = socket.create_connection(listener.socket.getsockname(), timeout=5)
    accept(listener)
    return sock


def accept(listener: Listener) -> None:
    # The loopback may take a moment to hand a connection over.
    before = len(listener._map)
    for _ in range(1000):
        listener.handle_accept()
        if len(listener._map) != before:
            return
        time.sleep(0.001)


def end_of(sock: socket.socket, listener: Listener) -> bytes:
    """What a client reads first, while the listener accepts whoever is there."""
    sock.setblocking(False)
    for _ in range(1000):
        listener.handle_accept()
        with contextlib.suppress(BlockingIOError):
            return sock.recv(1 << 16)
        time.sleep(0.001)
    raise TimeoutError


def channels(listener: Listener) -> list[Channel]:
    return sorted(listener.active_channels.values(), key=lambda channel: channel.began)


def read_all(sock: socket.socket) -> bytes:
    chunks = []
    while chunk := sock.recv(1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def head(status: int, phrase: str, body: str, retry: str = "") -> bytes:
    text = f'{{"error": "{body}", "status": "error"}}'
    lines = [f"HTTP/1.1 {status} {phrase}", "Content-Type: application/json", f"Content-Length: {len(text)}"]
    return "\r\n".join([*lines, *filter(None, [retry]), "Connection: close", "", text]).encode()


BUSY = head(503, "Service Unavailable", "too many connections", "Retry-After: 1")


def test_who_has_been_idle_for_longest_makes_room(listener: Listener, clock: Clock) -> None:
    clients = []
    for _ in range(2):
        clients.append(connect(listener))
        clock.now += 1
    old, young = channels(listener)
    clock.now = old.began + connections.EVICTABLE_SECONDS - 0.5
    clients.append(connect(listener))
    assert channels(listener) == [old, young]
    assert read_all(clients[-1]) == BUSY
    clock.now = old.began + connections.EVICTABLE_SECONDS
    clients.append(socket.create_connection(listener.socket.getsockname(), timeout=5))
    assert end_of(clients[0], listener) == b""
    assert channels(listener)[0] is young
    assert len(channels(listener)) == 2


def test_who_is_served_is_not_put_out(listener: Listener, clock: Clock) -> None:
    clients = [connect(listener) for _ in range(2)]
    for channel in channels(listener):
        channel.requests.append(SimpleNamespace(path="/"))
    clock.now += 10 * connections.EVICTABLE_SECONDS
    clients.append(connect(listener))
    assert read_all(clients[-1]) == BUSY
    assert len(channels(listener)) == 2
    for channel in channels(listener):
        channel.requests.clear()


def test_the_refused_are_kept_for_a_while_and_only_so_many(
    listener: Listener, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "MAX_REFUSALS", 2)
    clients = [connect(listener) for _ in range(4)]
    refusals = [entry for entry in listener._map.values() if isinstance(entry, Refusal)]
    assert len(refusals) == 2
    assert not refusals[0].writable()
    last = socket.create_connection(listener.socket.getsockname(), timeout=5)
    assert end_of(last, listener) == b""  # no more than a closed connection
    assert caplog.messages == ["all 2 connections are taken; new ones are refused"]  # once, and not for each of a flood
    clock.now = refusals[0].deadline
    close_overdue_refusals(listener._map)
    assert all(refusal in listener._map.values() for refusal in refusals)
    clock.now += 0.001
    close_overdue_refusals(listener._map)
    assert not any(isinstance(entry, Refusal) for entry in listener._map.values())
    assert len(channels(listener)) == 2
    assert [read_all(client) for client in clients[2:]] == [BUSY, BUSY]


@pytest.mark.parametrize(
    "state, seconds, status",
    [
        ("idle", 11, HTTPStatus.OK),
        ("header", 3, HTTPStatus.REQUEST_TIMEOUT),
        ("body", 7, HTTPStatus.REQUEST_TIMEOUT),
        ("unread", 13, HTTPStatus.OK),
        ("served", None, None),
    ],
)
def test_each_state_has_a_deadline_of_its_own(
    state: str, seconds: float | None, status: HTTPStatus | None, listener: Listener, clock: Clock
) -> None:
    client = connect(listener)
    (channel,) = channels(listener)
    if state in ("header", "body"):
        channel.received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n")
        if state == "body":
            channel.received(b"\r\n1234")
    elif state == "unread":
        channel.total_outbufs_len, channel._stalled = 1, (clock.now, 0)
    elif state == "served":
        channel.requests.append(SimpleNamespace(path="/"))
    if seconds is None:
        assert channel.overdue(clock.now + 1e6, LIMITS) is None
        assert channel.began == clock.now + 1e6  # the wait for the next request begins when this one ends
    else:
        assert channel.overdue(clock.now + seconds, LIMITS) is None
        assert channel.overdue(clock.now + seconds + 0.001, LIMITS) is status
    if state == "unread":  # each byte that leaves is a little time more
        channel._stalled = (clock.now, 2 * connections.MIN_BYTES_PER_SECOND)
        assert channel.overdue(clock.now + 15, LIMITS) is None
        assert channel.overdue(clock.now + 15.001, LIMITS) is HTTPStatus.OK
        channel._stalled = None
        assert channel.overdue(clock.now + 1e6, LIMITS) is None
    channel.total_outbufs_len = 0
    channel.requests.clear()
    client.close()


def test_a_sender_that_is_too_slow_is_told(listener: Listener, clock: Clock) -> None:
    slow, idle = connect(listener), connect(listener)
    (first,) = (channel for channel in channels(listener) if channel.addr == slow.getsockname())
    first.received(b"GET / HT")
    clock.now += 3.5
    listener.sweep()
    assert read_all(slow) == head(408, "Request Timeout", "the request took too long to arrive")
    assert len(channels(listener)) == 1
    clock.now += 8
    listener.sweep()
    assert read_all(idle) == b""
    assert channels(listener) == []


class Exhausted:
    """A listening socket of a process that has no descriptor left, but for what was kept for this."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)

    def accept(self) -> Any:
        result = self.results.pop(0)
        if isinstance(result, OSError):
            raise result
        return result, ("127.0.0.1", 1)


@pytest.fixture
def exhausted(listener: Listener) -> Iterator[Listener]:
    """The listener, whose socket is set by the test; put back in the end."""
    kept = listener.socket
    yield listener
    listener.socket = kept


FULL = OSError(errno.EMFILE, "full")


def test_out_of_descriptors_one_client_is_told(exhausted: Listener, caplog: pytest.LogCaptureFixture) -> None:
    theirs, ours = socket.socketpair()
    exhausted.socket = Exhausted(FULL, ours, BlockingIOError())
    with caplog.at_level(logging.WARNING):
        exhausted.handle_accept()
    assert read_all(theirs) == head(503, "Service Unavailable", "out of file descriptors", "Retry-After: 1")
    assert ours.fileno() == -1
    assert caplog.messages == ["out of file descriptors (Too many open files); new connections are refused"]
    assert exhausted._spare is not None  # another is kept
    assert os.fstat(exhausted._spare)
    assert exhausted.readable()
    assert exhausted.socket.results == []


def test_where_not_even_that_is_possible_it_pauses(
    exhausted: Listener, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(connections, "_open_spare", lambda: None)
        exhausted.socket = Exhausted(FULL, FULL)
        exhausted.handle_accept()
    assert exhausted._spare is None
    assert not exhausted.readable()
    clock.now += connections.PAUSE_SECONDS
    assert exhausted.readable()
    exhausted.socket = Exhausted(FULL)
    exhausted.handle_accept()  # nothing to give up: one is kept again, and it pauses
    assert exhausted._spare is not None
    assert not exhausted.readable()
    clock.now += connections.WARNING_SECONDS - connections.PAUSE_SECONDS
    exhausted.socket = Exhausted(OSError(errno.EPERM, "no"))
    exhausted.handle_accept()
    assert len(caplog.messages) == 2  # the second time was too soon
    assert caplog.messages[1] == "cannot accept a connection: Operation not permitted"


def test_a_listener_that_stops_keeps_no_descriptor(listener: Listener) -> None:
    spare = listener._spare
    assert spare is not None
    listener.stop_accepting()
    assert listener._spare is None
    assert listener.socket is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(spare)


def test_what_has_gone_already_is_closed(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_sock: socket.socket) -> None:
        raise OSError(errno.EINVAL, "gone")

    monkeypatch.setattr(listener, "set_socket_options", gone)
    client = socket.create_connection(listener.socket.getsockname(), timeout=5)
    assert end_of(client, listener) == b""
    assert channels(listener) == []


def test_what_asks_how_the_server_is_waits_for_no_generation(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, list[str]] = {"urgent": [], "other": []}
    for kind, name in (("urgent", "_urgent"), ("other", "task_dispatcher")):
        queue = SimpleNamespace(add_task=lambda channel, kind=kind: taken[kind].append(channel.requests[0].path))
        monkeypatch.setattr(listener, name, queue)
    paths = ["/health", "/ready", "/v1/health", "/metrics", "/generate", "/v1/models", "/healthy"]
    for path in paths:
        channel: Any = SimpleNamespace(requests=[SimpleNamespace(path=path), SimpleNamespace(path="/x")])
        listener.add_task(channel)
    assert taken == {"urgent": paths[:4], "other": paths[4:]}
