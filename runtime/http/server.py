"""The server process: waitress, its limits, and how it stops."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.server import BaseWSGIServer, create_server  # type: ignore[import-untyped]
from waitress.task import ErrorTask  # type: ignore[import-untyped]

from ...artifacts.errors import RocmforgeError, printable
from .app import HttpApp
from .errors import error_text

log = logging.getLogger(__name__)

# A body a little too large is read whole, so that its sender stops writing and reads our 413; one beyond
# this many times the limit is cut off after the header, and may see a reset connection instead.
BODY_SLACK = 4
ABORT_SECONDS = 2.0
LOOP_SECONDS = 0.5


class JsonErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers what waitress itself refuses (a malformed or oversized request) in our shape, not text/plain."""

    def execute(self) -> None:
        """Write status, header and body."""
        error = self.request.error
        path = getattr(self.request, "path", "") or ""
        body = error_text(path, error.code, f"{error.reason}: {printable(error.body)}").encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Channel(HTTPChannel):  # type: ignore[misc]
    """A client's connection."""

    error_task_class = JsonErrorTask


class Server:
    """A listening server. `address` is what it is bound to, the port chosen where 0 was asked."""

    def __init__(self, app: HttpApp, host: str, port: int) -> None:
        """Bind and listen.

        Raises:
            RocmforgeError: the address is in use, or not ours.
        """
        self._app = app
        self._sockets: dict[int, Any] = {}
        self._stopping = threading.Event()
        self._aborting = threading.Event()
        try:
            self._server = create_server(
                app,
                map=self._sockets,
                host=host,
                port=port,
                threads=app.limits.threads,
                connection_limit=1000,
                channel_request_lookahead=1,
                asyncore_use_poll=True,
                ident=None,
                max_request_body_size=BODY_SLACK * app.limits.max_body_bytes + 1,
            )
        except (OSError, ValueError) as error:
            raise RocmforgeError(f"cannot listen on {printable(host)}:{port}: {_reason(error)}") from None
        for listener in self._listeners():
            listener.channel_class = Channel
        first = self._listeners()[0]
        self.address: tuple[str, int] = (str(first.effective_host), int(first.effective_port))

    def _listeners(self) -> list[Any]:
        return [entry for entry in self._sockets.values() if isinstance(entry, BaseWSGIServer)]

    def _channels(self) -> list[Any]:
        return [entry for entry in list(self._sockets.values()) if isinstance(entry, HTTPChannel)]

    def run(self, drain_seconds: float) -> None:
        """Serve until `stop`, then let requests in flight end, for `drain_seconds` at most."""
        while not self._stopping.is_set():
            self._turn()
        self._app.admission.close()
        listeners = self._listeners()
        for listener in listeners:
            wasyncore.dispatcher.close(listener)  # not its own close: workers still need the trigger
        self._drain(drain_seconds)
        self._app.admission.abort()
        self._drain(ABORT_SECONDS, abortable=False)
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._sockets)

    def _drain(self, seconds: float, abortable: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while self._busy() and time.monotonic() < deadline and not (abortable and self._aborting.is_set()):
            self._turn(0.05)

    def _busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in self._channels())

    def _turn(self, seconds: float = LOOP_SECONDS) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._sockets, count=1)

    def stop(self) -> None:
        """Begin to stop; asked again, drop what is in flight. From any thread, or a signal handler."""
        if self._stopping.is_set():
            self._aborting.set()
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        for listener in self._listeners():
            with contextlib.suppress(OSError):
                listener.pull_trigger()


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "the address is in use"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return printable(error)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM and SIGINT call `stop` for the while."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, lambda *_: stop())
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_server(
    app: HttpApp,
    host: str,
    port: int,
    on_ready: Callable[[str, int], None] | None = None,
    drain_seconds: float = 30.0,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. Must run on the main thread.

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
    server = Server(app, host, port)
    with _signals(server.stop):
        if on_ready is not None:
            on_ready(*server.address)
        server.run(drain_seconds)
