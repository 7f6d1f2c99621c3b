"""The server process: waitress, its limits, and how it stops."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.adjustments import Adjustments  # type: ignore[import-untyped]

from ....artifacts.errors import RocmforgeError, printable
from ..core.admission import Admission
from ..core.errors import Errors
from ..core.limits import HttpLimits
from ..core.routes import Paths
from .activation import notify, take_sockets
from .auth import Security
from .connections import Channel, Dispatcher, Listener, close_overdue_refusals
from .stream_writer import StreamWriter

log = logging.getLogger(__name__)

# A body a little too large is read whole, so that its sender stops writing and reads our 413; one beyond
# this many times the limit is cut off after the header, and may see a reset connection instead.
BODY_SLACK = 4
ABORT_SECONDS = 2.0
LOOP_SECONDS = 0.5
SWEEP_SECONDS = 0.25
# What one client may leave unread of a stream before the stream waits for it.
MAX_UNREAD_BYTES = 256 << 10
URGENT_THREADS = 2
# Descriptors for everything but connections: the bundle, the device, refusals.
RESERVED_DESCRIPTORS = 384


class Application(Protocol):
    """A WSGI application, with what its server must know to run and to stop it."""

    limits: HttpLimits
    security: Security
    admission: Admission
    paths: Paths
    errors: Errors

    def __call__(self, env: dict[str, Any], start_response: Any, /) -> Iterable[bytes]:
        """Answer a request."""


class Server:
    """A listening server. `address` is what it is bound to, the port chosen where 0 was asked."""

    def __init__(self, app: Application, host: str, port: int, sockets: Sequence[socket.socket] = ()) -> None:
        """Bind and listen; where sockets are given that listen already, on these.

        Raises:
            RocmforgeError: the address is in use, or not ours.
        """
        self._app = app
        self._sockets: dict[int, Any] = {}
        self._stopping = threading.Event()
        self._aborting = threading.Event()
        self._next_sweep = 0.0
        self._dispatcher = Dispatcher(app.limits.threads)
        self._urgent = Dispatcher(URGENT_THREADS)
        self._stream_writer = StreamWriter(app.limits.poll_seconds)
        try:
            self._listeners = self._listen(host, port, sockets)
        except (OSError, ValueError) as error:
            self._close()
            raise RocmforgeError(f"cannot listen on {printable(host)}:{port}: {_reason(error)}") from None
        first = self._listeners[0]
        self.address: tuple[str, int] = (str(first.effective_host), int(first.effective_port))

    def _listen(self, host: str, port: int, sockets: Sequence[socket.socket]) -> list[Listener]:
        limits, proxy = self._app.limits, self._app.security.trusted_proxy
        believed: dict[str, object] = {
            "trusted_proxy": proxy,
            "trusted_proxy_count": 1,
            "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"},
        }
        adjustments = Adjustments(
            host=host,
            port=port,
            threads=limits.threads,
            channel_request_lookahead=1,
            ident=None,
            max_request_header_size=limits.max_header_bytes,
            max_request_body_size=BODY_SLACK * limits.max_body_bytes + 1,
            outbuf_high_watermark=MAX_UNREAD_BYTES,
            log_socket_errors=False,
            **(believed if proxy else {}),
        )
        max_connections = _connections_possible(limits.max_connections)
        listeners: list[Listener] = []
        # Of each its address as `adjustments.listen` has them, and whether it is bound yet.
        places: list[tuple[Any, dict[str, Any]]] = [(address, {}) for address in adjustments.listen]
        if sockets:
            places = [((one.family, one.type, one.proto, one.getsockname()), {"_sock": one}) for one in sockets]
        for address, bound in places:
            listener = Listener(
                self._app,
                self._sockets,
                dispatcher=self._dispatcher,
                adj=adjustments,
                sockinfo=address,
                limits=limits,
                max_connections=max_connections,
                urgent=self._urgent,
                urgent_paths=self._app.paths.urgent,
                errors=self._app.errors,
                stream_writer=self._stream_writer,
                bind_socket=not bound,
                **bound,
            )
            listeners.append(listener)
        return listeners

    def _channels(self) -> list[Channel]:
        return [entry for entry in list(self._sockets.values()) if isinstance(entry, Channel)]

    def run(self, drain_seconds: float) -> None:
        """Serve until `stop`, then let requests in flight end, for `drain_seconds` at most.

        Meanwhile connections are accepted still: who asks is told that the server lives and is not ready.
        """
        self._stream_writer.start()
        while not self._stopping.is_set():
            self._turn()
        self._app.admission.close()
        self._drain(drain_seconds)
        for listener in self._listeners:
            listener.stop_accepting()
        self._app.admission.abort()
        self._drain(ABORT_SECONDS, abortable=False)
        for channel in self._channels():
            channel.handle_close()  # a thread that waits for its reader wakes up
        self._close()

    def _close(self) -> None:
        self._dispatcher.shutdown(timeout=1)
        self._urgent.shutdown(timeout=1)
        self._stream_writer.stop()
        wasyncore.close_all(self._sockets)

    def _drain(self, seconds: float, abortable: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while self._busy() and time.monotonic() < deadline and not (abortable and self._aborting.is_set()):
            self._turn(0.05)

    def _busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in self._channels())

    def _turn(self, seconds: float = LOOP_SECONDS) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._sockets, count=1)
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            for listener in self._listeners:
                listener.sweep()
            close_overdue_refusals(self._sockets)

    def stop(self) -> None:
        """Begin to stop; asked again, drop what is in flight. From any thread, or a signal handler."""
        if self._stopping.is_set():
            self._aborting.set()
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.pull_trigger()


def _connections_possible(wanted: int) -> int:
    """How many of the connections wanted the system's limit on open files leaves room for; raised where it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    possible = max(1, soft - RESERVED_DESCRIPTORS)
    log.warning("at most %d connections at once, for no more than %d files may be open (ulimit -n)", possible, soft)
    return possible


class _OneLine(logging.Filter):
    """What waitress logs may hold a client's path as it came: escaped, it cannot forge a line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let it pass, escaped."""
        record.msg, record.args = printable(record.getMessage(), 500), ()
        return True


logging.getLogger("waitress").addFilter(_OneLine())


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the address is in use"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return printable(error)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM, SIGINT and SIGHUP call `stop` for the while; a SIGHUP that is ignored, as by nohup, stays so."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    if previous[signal.SIGHUP] is signal.SIG_IGN:
        del previous[signal.SIGHUP]
    for number in previous:
        signal.signal(number, lambda *_: stop())
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_server(
    app: Application,
    host: str,
    port: int,
    on_ready: Callable[[str, int], None] | None = None,
    drain_seconds: float = 30.0,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then drain and return. Must run on the main thread.

    Sockets of a service manager (`activation`) take the place of host and port.

    Args:
        app: what to serve.
        host: address or name to bind.
        port: 0 lets the system choose.
        on_ready: called with the bound address once connections are accepted.
        drain_seconds: how long requests in flight may take to end; then, or at a second signal, they are
            cancelled.

    Raises:
        RocmforgeError: the address cannot be bound.
    """
    server = Server(app, host, port, take_sockets(os.environ))

    def stop() -> None:
        notify("STOPPING=1", os.environ)
        server.stop()

    with _signals(stop):
        if on_ready is not None:
            on_ready(*server.address)
        notify("READY=1", os.environ)
        server.run(drain_seconds)
