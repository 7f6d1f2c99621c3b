"""Streamed answers: how an API makes bytes of tokens, and what is sent beside them."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator

import falcon
import msgspec

from ....artifacts.errors import RocmforgeError
from ...engine.generation import TokenEvent
from ..transport.stream_writer import SEND_EVENTS, SendEvents
from .errors import ClientGoneError, error_of
from .job import Job
from .limits import HttpLimits

log = logging.getLogger(__name__)

PING = b": ping\n\n"
DONE_DATA = "[DONE]"
DONE = f"data: {DONE_DATA}\n\n".encode()
SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"

_encoder = msgspec.json.Encoder()
_LINE_ENDS = re.compile(rb"\xc2\x85|\xe2\x80[\xa8\xa9]")  # U+0085, U+2028 and U+2029 as UTF-8


def dump(document: object) -> bytes:
    """JSON as UTF-8, of structs too; a lone surrogate, which UTF-8 cannot say, becomes a question mark."""
    try:
        return _encoder.encode(document)
    except (UnicodeEncodeError, TypeError):  # a surrogate, or a value that only has a text
        plain = msgspec.to_builtins(document, enc_hook=str)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace")


def _one_line(document: object) -> bytes:
    """JSON that nobody takes for two lines: many a client cuts its lines where Unicode ends one."""
    data = dump(document)
    return data if data.isascii() else _LINE_ENDS.sub(_escaped, data)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())


def sse(document: object) -> bytes:
    """One server-sent event, to be sent in one write."""
    return b"data: " + _one_line(document) + b"\n\n"


def named_sse(event: str, document: object) -> bytes:
    """One server-sent event with a name, as OpenAI's responses and Anthropic's messages have them."""
    return b"event: " + event.encode() + b"\ndata: " + _one_line(document) + b"\n\n"


def ndjson(document: object) -> bytes:
    """One line of a stream of JSON lines."""
    return _one_line(document) + b"\n"


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


class Encoder:
    """Tokens to the bytes of one streamed answer, as an API has them."""

    media_type: str = SSE
    ping: bytes = PING
    """What says that the stream lives, in between; empty where the format has nothing for it."""

    def opening(self) -> Iterable[bytes]:
        """What comes before the first token."""
        return ()

    def encode(self, event: TokenEvent) -> Iterable[bytes]:
        """What one event comes to."""
        raise NotImplementedError

    def closing(self) -> Iterable[bytes]:
        """What comes after the last event of the last generation."""
        return ()

    def failure(self, path: str, error: BaseException) -> bytes:
        """What says that it went wrong midway; the stream ends with it."""
        return sse(error_of(path, error)[1])


class _Chunks:
    """The bytes of a stream's events as they are to be sent, and between them what says that it lives."""

    def __init__(self, encoder: Encoder, ping_seconds: float) -> None:
        self._encoder = encoder
        self._ping_seconds = ping_seconds
        self._last = time.monotonic()

    def __call__(self, event: TokenEvent | None) -> bytes:
        """Of the next event, or of None having come for a while; may be empty."""
        chunk = b"" if event is None else b"".join(self._encoder.encode(event))
        now = time.monotonic()
        if not chunk and now - self._last >= self._ping_seconds:
            chunk = self._encoder.ping
        if chunk:
            self._last = now
        return chunk


def send_stream(req: falcon.Request, resp: falcon.Response, job: Job, limits: HttpLimits, encoder: Encoder) -> None:
    """Answer with a stream. The job is closed when it ends."""
    resp.content_type = encoder.media_type
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back
    send_events: SendEvents | None = req.env.get(SEND_EVENTS)
    resp.stream = EventStream(job, _body(req.path, job, limits, encoder, send_events))


def _body(path: str, job: Job, limits: HttpLimits, encoder: Encoder, send_events: SendEvents | None) -> Iterator[bytes]:
    """What this thread sends of a stream; the server's `send_events` sends the tokens, where it has that."""
    chunks = _Chunks(encoder, limits.ping_seconds)
    try:
        # The headers leave with the first chunk, and prefill may take long.
        if encoder.ping:
            yield encoder.ping
        yield from encoder.opening()
        if send_events is not None:
            send_events(job, chunks)
        else:
            yield from filter(None, map(chunks, job.events(limits.poll_seconds)))
        yield from encoder.closing()
    except ClientGoneError:
        return
    except RocmforgeError as error:
        yield encoder.failure(path, error)
    except Exception as error:
        log.exception("stream failed")
        yield encoder.failure(path, error)
    finally:
        job.close()
