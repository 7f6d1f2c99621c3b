"""Connections of clients: how many, and how slow they may be."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import socket
import threading
import time
from collections import deque
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.channel import ClientDisconnected, HTTPChannel  # type: ignore[import-untyped]
from waitress.server import TcpWSGIServer  # type: ignore[import-untyped]
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask  # type: ignore[import-untyped]

from ....artifacts.errors import printable
from ..core.errors import RETRY_AFTER_SECONDS, ClientGoneError, Errors
from ..core.limits import HttpLimits
from ..core.streaming import SEND_EVENTS
from .origins import BOUND_TO
from .parser import Parser
from .stream_writer import StreamWriter

log = logging.getLogger(__name__)

# A client slower than this is dropped in the end, though it never stands still.
MIN_BYTES_PER_SECOND = 1024
ACCEPTS_PER_TURN = 64
# Once all connections are taken, one that has been idle for so long makes room for a new one.
EVICTABLE_SECONDS = 5.0
MAX_REFUSALS = 256
# The kernel's buffer of what a client has not read. Left to itself it grows to megabytes, for each connection; and
# whether a slow client reads at all would show only after most of that.
SEND_BUFFER_BYTES = 128 << 10
RECEIVE_BYTES = 64 << 10
REFUSAL_SECONDS = 2.0
PAUSE_SECONDS = 0.5
WARNING_SECONDS = 10.0
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


# Python's own `send` lets go of the interpreter's lock, and to take it back is worth more than what is sent here: each
# time a thread that waits for it is woken, mostly for nothing, and takes a processor from those that compute.
_send: Final = ctypes.PyDLL(None).send
_send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_send.restype = ctypes.c_ssize_t
# And its `recv`: the thread that reads the requests of many clients would wait for the lock after each.
_recv: Final = ctypes.PyDLL(None).recv
_recv.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_recv.restype = ctypes.c_ssize_t
_AT_ONCE: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers what waitress itself refuses (a malformed or oversized request) in our shape, not text/plain."""

    def execute(self) -> None:
        """Write status, header and body."""
        error = self.request.error
        message = f"{error.reason}: {printable(error.body)}"
        body = self.channel.server.errors.text(self.request.path, error.code, message).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Task(WSGITask):  # type: ignore[misc]
    """A request being answered. Its stream, if that is the answer, is sent by the server's stream writer."""

    def set_close_on_finish(self) -> None:
        """Close the connection after this, but not because the answer comes in chunks: they say where it ends."""
        if self.wrote_header or not self.chunked_response:
            super().set_close_on_finish()

    def get_environment(self) -> dict[str, Any]:
        """As WSGI has it, and where the server listens, and how to stream."""
        environ: dict[str, Any] = super().get_environment()
        environ[BOUND_TO] = self.channel.server.bound_to
        environ[SEND_EVENTS] = partial(self.channel.server.stream_writer.send, _Body(self))
        self.environ = None  # waitress keeps it here: a cycle now, that would outlive the request
        return environ


class _Body:
    """See `stream_writer.Connection`."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._channel = task.channel
        self._most_unread = task.channel.adj.outbuf_high_watermark

    @property
    def full(self) -> bool:
        return bool(self._channel.total_outbufs_len > self._most_unread)

    def write(self, data: bytes) -> None:
        task = self._task
        try:
            if task.chunked_response and task.wrote_header:  # as all are but the first: what waitress writes, sooner
                self._channel.write_soon(b"%X\r\n%b\r\n" % (len(data), data))
            else:
                task.write(data)
        except ClientDisconnected:
            raise ClientGoneError from None


class Channel(HTTPChannel):  # type: ignore[misc]
    """A client's connection."""

    task_class = Task
    error_task_class = JsonErrorTask
    parser_class = Parser

    def __init__(self, *args: Any, **extra: Any) -> None:
        """As waitress makes it."""
        self.began = time.monotonic()  # when the request that is arriving did, or the wait for one
        self._stalled: tuple[float, int] | None = None  # since when output waits, and how much of it left since
        super().__init__(*args, **extra)
        self._sending = threading.RLock()
        self.outbuf_lock = threading.Condition(self._sending)

    def recv(self, buffer_size: int) -> bytes:
        """What the client has sent; empty at its end. On the loop's thread alone."""
        room = self.server.room
        count = _recv(self.socket.fileno(), room, min(buffer_size, len(room)), socket.MSG_DONTWAIT)
        return ctypes.string_at(room, count) if count > 0 else bytes(super().recv(buffer_size))

    def received(self, data: bytes) -> None:
        """Take bytes of the client."""
        before = self.request
        super().received(data)
        if self.request is None or self.request is not before:
            self.began = time.monotonic()

    def write_soon(self, data: Any) -> int:
        """Send bytes; what cannot be sent at once will be soon. Most leave here, without waitress's buffer."""
        sent = 0
        if isinstance(data, bytes):
            with self._sending:
                if not self.total_outbufs_len and self.connected:
                    sent = _send(self.socket.fileno(), data, len(data), _AT_ONCE)
            if sent and sent == len(data):
                return sent
        # Where it is full, or broken, what is written next will tell.
        return max(sent, 0) + int(super().write_soon(data[sent:] if sent > 0 else data))

    def _flush_some(self, do_close: bool = True) -> bool:
        before = self.total_outbufs_len
        result = bool(super()._flush_some(do_close=do_close))
        if not self.total_outbufs_len:
            self._stalled = None
        elif self._stalled is None:
            self._stalled = (time.monotonic(), 0)
        else:
            since, sent = self._stalled
            self._stalled = (since, sent + before - self.total_outbufs_len)
        return result

    def idle(self) -> bool:
        """Whether nothing is under way, in either direction."""
        return not self.requests and self.request is None and not self.total_outbufs_len

    def overdue(self, now: float, limits: HttpLimits) -> HTTPStatus | None:
        """Return why the connection has to end now: 408 where a request takes too long to arrive, 200 otherwise."""
        if self.total_outbufs_len:
            self.began = now
            since, sent = self._stalled or (now, 0)
            return HTTPStatus.OK if now - since > limits.write_seconds + sent / MIN_BYTES_PER_SECOND else None
        if self.requests:
            self.began = now
            return None
        if self.request is None:
            return HTTPStatus.OK if now - self.began > limits.idle_seconds else None
        allowed = limits.body_seconds if self.request.headers_finished else limits.header_seconds
        return HTTPStatus.REQUEST_TIMEOUT if now - self.began > allowed else None


class Refusal(wasyncore.dispatcher):  # type: ignore[misc]
    """A connection that gets an error and nothing else.

    It is kept until the client has closed it, for a short while: closed with bytes unread, it would be reset, and the
    client might never see the error.
    """

    def __init__(self, sock: socket.socket, sockets: dict[int, Any], farewell: bytes) -> None:
        super().__init__(sock, map=sockets)
        self.connected = True
        self.deadline = time.monotonic() + REFUSAL_SECONDS
        with contextlib.suppress(OSError):
            sock.send(farewell)  # a new connection has room for it
            sock.shutdown(socket.SHUT_WR)

    def writable(self) -> bool:
        """It has said all it had to say."""
        return False

    def handle_read(self) -> None:
        """Let the client finish."""
        with contextlib.suppress(OSError):
            self.recv(1 << 16)

    def handle_close(self) -> None:
        """The client has closed."""
        self.close()


def _farewell(errors: Errors, status: HTTPStatus, message: str) -> bytes:
    body = errors.text("", status, message).encode()
    retry = f"Retry-After: {RETRY_AFTER_SECONDS}\r\n" if status == HTTPStatus.SERVICE_UNAVAILABLE else ""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{retry}Connection: close\r\n\r\n"
    ).encode() + body


class LastWaiterFirst(threading.Condition):
    """Wakes who began to wait last. In turn, each of a hundred threads would fill an allocator's cache of its own."""

    _waiters: deque[object]  # of the base class, which wakes the leftmost

    def notify(self, n: int = 1) -> None:
        """Wake the `n` that began to wait last."""
        self._waiters.rotate(n)
        super().notify(n)


class Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Threads that serve requests."""

    queue_logger = logging.getLogger("rocmforge.http.queue")

    def __init__(self, threads: int) -> None:
        self.queue_logger.setLevel(logging.ERROR)  # a line for each request of a flood would make it worse
        super().__init__()
        self.queue_cv = LastWaiterFirst(self.lock)
        self.set_thread_count(threads)


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections: all that it has room for, at once; the others get a 503."""

    channel_class = Channel

    def __init__(
        self,
        *args: Any,
        limits: HttpLimits,
        max_connections: int,
        urgent: Dispatcher,
        urgent_paths: frozenset[str],
        errors: Errors,
        stream_writer: StreamWriter,
        **extra: Any,
    ) -> None:
        """As waitress makes it, and: limits, how many connections to hold, threads for urgent paths, what is said of
        errors, what streams.
        """
        self.errors = errors
        self.stream_writer = stream_writer
        self.room = ctypes.create_string_buffer(RECEIVE_BYTES)  # for what a client sends, until it is taken
        self._limits = limits
        self._max_connections = max_connections
        self._urgent = urgent
        self._urgent_paths = urgent_paths
        self._spare = _open_spare()
        self._resume = 0.0
        self._warned = -WARNING_SECONDS
        super().__init__(*args, **extra)
        self.bound_to = str(self.socket.getsockname()[0])

    def add_task(self, channel: Channel) -> None:
        """Have a thread serve a channel's first request."""
        urgent = channel.requests[0].path in self._urgent_paths
        (self._urgent if urgent else self.task_dispatcher).add_task(channel)

    def set_socket_options(self, conn: socket.socket) -> None:
        """Set a new connection's."""
        super().set_socket_options(conn)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def readable(self) -> bool:
        """Whether to accept now."""
        return bool(self.accepting) and time.monotonic() >= self._resume

    def handle_accept(self) -> None:
        """Accept those who wait."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = self.socket.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    self._warn("cannot accept a connection: %s", os.strerror(error.errno or 0))
                elif self._refuse_with_spare(error):
                    continue
                return
            self._welcome(sock, address)

    def _welcome(self, sock: socket.socket, address: Any) -> None:
        if len(self.active_channels) >= self._max_connections and not self._evict():
            self._warn("all %d connections are taken; new ones are refused", self._max_connections)
            self._refuse(sock)
            return
        try:
            self.set_socket_options(sock)
            self.channel_class(self, sock, address, self.adj, map=self._map)
        except OSError:  # it has gone already
            sock.close()

    def _evict(self) -> bool:
        """Close the connection that has been idle for longest, if that is long."""
        idle = [channel for channel in self.active_channels.values() if channel.idle()]
        oldest = min(idle, key=lambda channel: channel.began, default=None)
        if oldest is None or time.monotonic() - oldest.began < EVICTABLE_SECONDS:
            return False
        oldest.handle_close()
        return True

    def _refuse(self, sock: socket.socket) -> None:
        if sum(isinstance(entry, Refusal) for entry in self._map.values()) < MAX_REFUSALS:
            sock.setblocking(False)
            farewell = _farewell(self.errors, HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
            Refusal(sock, self._map, farewell)
        else:
            sock.close()

    def _refuse_with_spare(self, error: OSError) -> bool:
        """Out of descriptors: answer one client by the descriptor kept for it; False: not even that was possible."""
        self._warn("out of file descriptors (%s); new connections are refused", os.strerror(error.errno or 0))
        if self._spare is not None:
            os.close(self._spare)
            try:
                sock, _ = self.socket.accept()
                with sock, contextlib.suppress(OSError):
                    sock.setblocking(False)
                    sock.send(_farewell(self.errors, HTTPStatus.SERVICE_UNAVAILABLE, "out of file descriptors"))
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(1 << 16)
            except OSError:
                pass
            self._spare = _open_spare()
            if self._spare is not None:
                return True
        else:
            self._spare = _open_spare()
        self._resume = time.monotonic() + PAUSE_SECONDS
        return False

    def _warn(self, message: str, *args: object) -> None:
        """Log, but not for each client of a flood."""
        if time.monotonic() - self._warned >= WARNING_SECONDS:
            self._warned = time.monotonic()
            log.warning(message, *args)

    def sweep(self) -> None:
        """Close connections that have taken too long. Called by the loop's thread every now and then."""
        now = time.monotonic()
        for channel in list(self.active_channels.values()):
            status = channel.overdue(now, self._limits)
            if status is None:
                continue
            if status is HTTPStatus.REQUEST_TIMEOUT:
                with contextlib.suppress(OSError):
                    channel.socket.send(_farewell(self.errors, status, "the request took too long to arrive"))
            channel.handle_close()

    def stop_accepting(self) -> None:
        """Close the listening socket; connections go on."""
        wasyncore.dispatcher.close(self)  # not this class's close: workers still need the trigger
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def close_overdue_refusals(sockets: dict[int, Any]) -> None:
    """Close the refused connections whose clients do not."""
    now = time.monotonic()
    for entry in list(sockets.values()):
        if isinstance(entry, Refusal) and now > entry.deadline:
            entry.close()


def _open_spare() -> int | None:
    """A descriptor to give up when there are no others."""
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
