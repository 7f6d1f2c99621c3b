"""One thread that encodes and sends the tokens of all streams.

A thread for each stream would have to be woken for each of its tokens, and wait for the interpreter's lock: at 64
streams that took more of the processor than encoding and sending did. Where tokens come by a thread that has time for
it, as those of an engine that has a process of its own do, that one encodes and sends them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Protocol

from ...engine.generation import TokenEvent
from ..core.errors import ClientGoneError
from ..core.job import Job
from ..core.streaming import Encode


class Connection(Protocol):
    """Where the bytes of an answer go."""

    @property
    def full(self) -> bool:
        """Whether its client reads too slowly: `write` would wait for it."""

    def write(self, data: bytes) -> None:
        """Send bytes of the body, or keep them until they can be sent.

        Raises:
            ClientGoneError: the client hung up.
        """


class StreamWriter:
    """The thread, and the streams that it sends."""

    def __init__(self, poll_seconds: float) -> None:
        """Look every `poll_seconds` whether the clients of silent streams are still there."""
        self._poll_seconds = poll_seconds
        self._events: queue.SimpleQueue[tuple[_Stream, TokenEvent] | None] = queue.SimpleQueue()  # None: look again
        self._streams: set[_Stream] = set()
        self._lock = threading.Lock()  # of the set
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="stream writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, whatever is still to be sent."""
        self._stopped = True
        self._events.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def send(self, connection: Connection, job: Job, encode: Encode) -> None:
        """Send all events of a job; returns after the last.

        Raises:
            ClientGoneError: the client hung up.
            Exception: whatever `encode` raised.
        """
        stream = _Stream(job, encode, connection)
        self._watch(stream)
        inbox = job.generations[0].inbox
        inbox.hand_on((lambda event: self._events.put((stream, event))) if inbox.hurried else stream.take)
        if self._stopped:  # too late for the thread to see it
            stream.end(ClientGoneError())
        stream.wait()

    def _watch(self, stream: _Stream) -> None:
        """Look after this one too. The thread is woken where it has no others, and so sleeps until it is."""
        with self._lock:
            sleeps = not self._streams
            self._streams.add(stream)
        if sleeps:
            self._events.put(None)

    def _run(self) -> None:
        next_look = 0.0
        while self._next(max(0.0, next_look - time.monotonic()) if self._streams else None):
            if time.monotonic() >= next_look:
                self._look()
                next_look = time.monotonic() + self._poll_seconds
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.end(ClientGoneError())

    def _next(self, timeout: float | None) -> bool:
        """Handle what comes within `timeout` seconds, and keep nothing of it; False: it is time to stop."""
        try:
            item = self._events.get(timeout=timeout)
        except queue.Empty:
            return True
        if item is None:
            return not self._stopped
        stream, event = item
        stream.take(event)
        return True

    def _look(self) -> None:
        with self._lock:
            self._streams = {stream for stream in self._streams if not stream.ended}
            streams = list(self._streams)
        for stream in streams:
            stream.look()


class _Stream:
    """An answer under way. Its methods never wait for the client, but for `wait`, and are of any thread."""

    def __init__(self, job: Job, encode: Encode, connection: Connection) -> None:
        self._job = job
        self._encode = encode
        self._connection = connection
        self._held: deque[TokenEvent | None] = deque()  # until the client has read more; None: nothing came for a while
        self._wrote = False  # since the last look
        self.ended = False  # whether nothing more will be sent
        self._lock = threading.RLock()  # of what is sent, and in which order; a cancel while looking may put an event
        self._ended = threading.Event()
        self._error: Exception | None = None

    def wait(self) -> None:
        """Wait for the end. Raises what brought it about, if it was not the last event."""
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def end(self, error: Exception | None = None) -> None:
        """Send nothing more."""
        if not self.ended:
            self._error, self.ended = error, True
            self._ended.set()

    def take(self, event: TokenEvent) -> None:
        """An event has come."""
        with self._lock:
            if self.ended:
                return
            if self._held or self._connection.full:
                self._held.append(event)
                return
            try:
                self._send(event)
            except Exception as error:  # of this stream: the others go on
                self.end(error)

    def look(self) -> None:
        """Go on if the client has read; end if it has left, which a stream that wrote has been told."""
        with self._lock:
            wrote, self._wrote = self._wrote, False
            if self.ended or (wrote and not self._held and not self._job.aborted):
                return
            if not self._held:
                self._held.append(None)
            try:
                self._job.look()
            except ClientGoneError as error:
                self.end(error)
            else:
                self._go_on()

    def _go_on(self) -> None:
        try:
            while self._held and not self._connection.full:
                self._send(self._held.popleft())
        except Exception as error:
            self.end(error)

    def _send(self, event: TokenEvent | None) -> None:
        if event is not None and event.finished:
            self._job.took(event)
        chunk = self._encode(event)
        if chunk:
            self._wrote = True
            self._connection.write(chunk)
        if self._job.ended:
            self.end()
