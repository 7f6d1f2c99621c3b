"""Waiting for tokens on behalf of a client that may leave: for streams and for blocking calls."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator

import falcon

from ..generation import EngineApi, Generation, GenerationRequest, GenerationState, TokenEvent
from .admission import Admission, Slot
from .errors import ClientGoneError, error_of
from .limits import HttpLimits

log = logging.getLogger(__name__)

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


def dump(document: object) -> bytes:
    """JSON as UTF-8; a lone surrogate, which UTF-8 cannot say, becomes a question mark."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode("utf-8", "replace")


def sse(document: object) -> bytes:
    """One server-sent event, to be sent in one write."""
    return b"data: " + dump(document) + b"\n\n"


class Job:
    """A generation, the slot it occupies and the client that waits for it.

    Used by the one thread that serves the request. `close` must be called, and cancels what is unfinished.
    """

    def __init__(self, generation: Generation, slot: Slot, gone: Callable[[], bool], admission: Admission) -> None:
        self.generation = generation
        self._slot = slot
        self._gone = gone
        self._admission = admission
        self._finished = False

    def events(self, poll_seconds: float) -> Iterator[TokenEvent | None]:
        """Yield events, and None at least every `poll_seconds`.

        Raises:
            ClientGoneError: the client hung up.
        """
        for event in self.generation.events(timeout=poll_seconds):
            if event is not None and event.finished:
                self._finished = True
            elif self._gone():
                raise ClientGoneError
            elif self._admission.aborted:
                self.generation.cancel()
            yield event

    def close(self) -> None:
        """Cancel the generation unless it has finished, and give its slot back."""
        if not self._finished:
            self._finished = True
            self.generation.cancel()
        self._slot.release()


def start_job(
    req: falcon.Request, engine: EngineApi, admission: Admission, make: Callable[[], GenerationRequest]
) -> Job:
    """Take a slot, make the request (rendering and tokenizing, which take time), and submit it.

    Raises:
        RequestError: the request cannot be served.
        EngineBusyError: no slot, or no room in the engine's queue.
    """
    slot = admission.enter()
    try:
        generation = engine.submit(make())
    except BaseException:
        slot.release()
        raise
    gone: Callable[[], bool] = req.env.get("waitress.client_disconnected", _never)
    return Job(generation, slot, gone, admission)


def _never() -> bool:
    return False


def collect(job: Job, limits: HttpLimits) -> GenerationState:
    """Wait for the end of a generation.

    Raises:
        ClientGoneError: the client hung up, and the generation was cancelled.
    """
    try:
        for _ in job.events(limits.poll_seconds):
            pass
        return job.generation.state()
    finally:
        job.close()


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


def send_events(
    req: falcon.Request,
    resp: falcon.Response,
    job: Job,
    limits: HttpLimits,
    opening: list[bytes],
    encode: Callable[[TokenEvent], Iterable[bytes]],
) -> None:
    """Answer with server-sent events.

    Args:
        req: gives the path, for the shape of errors.
        resp: its stream is set.
        job: closed when the stream ends.
        limits: intervals.
        opening: events that come before the first token.
        encode: events of one token, or of the end.
    """
    resp.content_type = "text/event-stream; charset=utf-8"
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back
    resp.stream = EventStream(job, _chunks(req.path, job, limits, opening, encode))


def _chunks(
    path: str,
    job: Job,
    limits: HttpLimits,
    opening: list[bytes],
    encode: Callable[[TokenEvent], Iterable[bytes]],
) -> Iterator[bytes]:
    # The headers leave with the first chunk, and prefill may take long.
    yield PING
    yield from opening
    last = time.monotonic()
    try:
        for event in job.events(limits.poll_seconds):
            chunks = [] if event is None else list(encode(event))
            if not chunks and time.monotonic() - last >= limits.ping_seconds:
                chunks = [PING]
            for chunk in chunks:
                yield chunk
                last = time.monotonic()
    except ClientGoneError:
        return
    except Exception as error:
        log.exception("stream failed")
        yield sse(error_of(path, error)[1])
    finally:
        job.close()
