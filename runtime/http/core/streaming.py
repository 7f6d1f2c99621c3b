"""Streamed answers: how an API makes bytes of tokens, and what is sent beside them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import falcon

from ....artifacts.errors import RocmforgeError
from ...engine.generation import TokenEvent
from .encoding import sse
from .errors import ClientGoneError
from .job import Job, collect
from .resources import Context, answer

log = logging.getLogger(__name__)

Part = TypeVar("Part")

PING = b": ping\n\n"
DONE_DATA = "[DONE]"
DONE = f"data: {DONE_DATA}\n\n".encode()
SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"


# Makes the bytes to be sent of an event; of None, those that say that the stream lives. They may be none.
Encode = Callable[[TokenEvent | None], bytes]
# Sends all events of a job to its client, without a thread for each.
SendEvents = Callable[[Job, Encode], None]
# Key of the WSGI environment, under which a server that has it gives an answer its `SendEvents`.
SEND_EVENTS = "rocmforge.send_events"


class EventStream:
    """The body of a streamed response.

    An object rather than a generator: WSGI calls `close` even where it never asked for a first chunk, and a
    generator that was not started runs no `finally`.
    """

    def __init__(self, job: Job, chunks: Iterable[bytes]) -> None:
        self._job = job
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def close(self) -> None:
        """End the generation if it goes on. Called by the server, whatever happened."""
        self._job.close()


class Encoder(Generic[Part]):
    """Tokens to the parts of an answer, as an API has them: a stream writes each, a whole answer folds them."""

    media_type: str = SSE
    ping: bytes = PING
    """What says that the stream lives, in between; empty where the format has nothing for it."""

    def arrived(self, event: TokenEvent) -> None:
        """An event has come; it is encoded at once, or when all have come."""

    def opening(self) -> Iterable[Part]:
        """What comes before the first token."""
        return ()

    def encode(self, event: TokenEvent) -> Iterable[Part]:
        """What one event comes to."""
        raise NotImplementedError

    def write(self, part: Part) -> bytes:
        """A part, in a stream."""
        return sse(part)

    def chunk(self, event: TokenEvent) -> bytes:
        """All that a stream says of one event; may be empty. An API that knows a shorter way to it may go that."""
        return b"".join(map(self.write, self.encode(event)))

    def closing(self) -> Iterable[bytes]:
        """What comes after the last part of a stream."""
        return ()

    def fold(self, parts: Sequence[Part]) -> object:
        """The document of a whole answer; the parts of one output are in a row."""
        raise NotImplementedError

    def failure(self, document: dict[str, object]) -> bytes:
        """What says that it went wrong midway, by the document of the error; the stream ends with it."""
        return sse(document)


class _Chunks:
    """The bytes of a stream's events as they are to be sent, and between them what says that it lives."""

    def __init__(self, job: Job, encoder: Encoder[Any], ping_seconds: float) -> None:
        self._job = job
        self._encoder = encoder
        self._ping_seconds = ping_seconds
        self._last = time.monotonic()

    def __call__(self, event: TokenEvent | None) -> bytes:
        """Of the next event, which its job counts as read, or of None having come for a while; may be empty."""
        chunk = b""
        if event is not None:
            self._encoder.arrived(event)
            chunk = self._encoder.chunk(event)
            if event.finished and self._job.ended:  # what ends the stream leaves with its last event
                chunk += b"".join(self._encoder.closing())
        now = time.monotonic()
        if not chunk and now - self._last >= self._ping_seconds:
            chunk = self._encoder.ping
        if chunk:
            self._last = now
        return chunk


def respond(
    req: falcon.Request, resp: falcon.Response, job: Job, context: Context, encoder: Encoder[Any], stream: bool
) -> None:
    """Answer, as a stream or at once. The job is closed when the answer has ended."""
    if stream:
        send_stream(req, resp, job, context, encoder)
    else:
        answer(resp, _whole(job, context, encoder))


def _whole(job: Job, context: Context, encoder: Encoder[Any]) -> object:
    """All that a job comes to. Where several outputs fail, the error is that of the first of them."""
    events = collect(job, context.limits, encoder.arrived)
    events.sort(key=lambda event: event.index)
    return encoder.fold([*encoder.opening(), *(part for event in events for part in encoder.encode(event))])


def send_stream(req: falcon.Request, resp: falcon.Response, job: Job, context: Context, encoder: Encoder[Any]) -> None:
    """Answer with a stream. The job is closed when it ends."""
    resp.content_type = encoder.media_type
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back
    send_events: SendEvents | None = req.env.get(SEND_EVENTS)
    resp.stream = EventStream(job, _body(req.path, job, context, encoder, send_events))


def _body(
    path: str, job: Job, context: Context, encoder: Encoder[Any], send_events: SendEvents | None
) -> Iterator[bytes]:
    """What this thread sends of a stream; the server's `send_events` sends the tokens, where it has that."""
    limits, errors = context.limits, context.errors
    chunks = _Chunks(job, encoder, limits.ping_seconds)
    try:
        # The headers leave with the first chunk, and prefill may take long.
        if encoder.ping:
            yield encoder.ping
        yield from map(encoder.write, encoder.opening())
        if send_events is not None:
            send_events(job, chunks)
        else:
            yield from filter(None, map(chunks, job.events(limits.poll_seconds)))
    except ClientGoneError:
        return
    except RocmforgeError as error:
        yield encoder.failure(errors.of(path, error)[1])
    except Exception as error:
        log.exception("stream failed")
        yield encoder.failure(errors.of(path, error)[1])
    finally:
        job.close()
