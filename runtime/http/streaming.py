"""Waiting for tokens on behalf of a client that may leave: for streams and for blocking calls."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import falcon
import msgspec

from ...artifacts.errors import RocmforgeError
from ..generation import Generation, GenerationRequest, TokenEvent, events_of
from .admission import Admission, Slot
from .errors import ClientGoneError, error_of
from .limits import HttpLimits
from .registry import Lease

log = logging.getLogger(__name__)

PING = b": ping\n\n"
DONE_DATA = "[DONE]"
DONE = f"data: {DONE_DATA}\n\n".encode()
SSE = "text/event-stream; charset=utf-8"
NDJSON = "application/x-ndjson"

_encoder = msgspec.json.Encoder()


def dump(document: object) -> bytes:
    """JSON as UTF-8, of structs too; a lone surrogate, which UTF-8 cannot say, becomes a question mark."""
    try:
        return _encoder.encode(document)
    except (UnicodeEncodeError, TypeError):  # a surrogate, or a value that only has a text
        plain = msgspec.to_builtins(document, enc_hook=str)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace")


def sse(document: object) -> bytes:
    """One server-sent event, to be sent in one write."""
    return b"data: " + dump(document) + b"\n\n"


def named_sse(event: str, document: object) -> bytes:
    """One server-sent event with a name, as OpenAI's responses and Anthropic's messages have them."""
    return b"event: " + event.encode() + b"\ndata: " + dump(document) + b"\n\n"


def ndjson(document: object) -> bytes:
    """One line of a stream of JSON lines."""
    return dump(document) + b"\n"


class Job:
    """Generations, the slot and the model that they occupy, and the client that waits for them.

    Used by the one thread that serves the request. `close` must be called, and cancels what is unfinished.
    """

    def __init__(
        self,
        generations: Sequence[Generation],
        slot: Slot,
        lease: Lease,
        gone: Callable[[], bool],
        admission: Admission,
    ) -> None:
        self.generations = generations
        self.lease = lease
        self._slot = slot
        self._gone = gone
        self._admission = admission
        self._unfinished = len(generations)
        self._closed = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; one that has several outputs counts once."""
        return self.generations[0].state().prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Of the first prompt, that lay in the prefix cache."""
        return self.generations[0].state().cached_tokens

    def events(self, poll_seconds: float) -> Iterator[TokenEvent | None]:
        """Yield events of all generations until the last has finished, and None at least every `poll_seconds`.

        Raises:
            ClientGoneError: the client hung up.
        """
        for event in events_of(self.generations, timeout=poll_seconds):
            if event is not None and event.finished:
                self._unfinished -= 1
            elif self._gone():
                raise ClientGoneError
            elif self._admission.aborted:
                self._cancel()
            yield event

    def _cancel(self) -> None:
        for generation in self.generations:
            generation.cancel()

    def close(self) -> None:
        """Cancel the generations unless they have finished, and give slot and model back."""
        if not self._closed:
            self._closed = True
            if self._unfinished:
                self._cancel()
            self._slot.release()
            self.lease.release()


def start_job(
    req: falcon.Request,
    lease: Lease,
    admission: Admission,
    make: Callable[[], Sequence[GenerationRequest]],
) -> Job:
    """Take a slot, make the requests (rendering and tokenizing, which take time), and submit them.

    The lease is given back where this fails, else by the job.

    Raises:
        RequestError: the request cannot be served.
        EngineBusyError: no slot, or no room in the engine's queue.
    """
    try:
        slot = admission.enter()
    except BaseException:
        lease.release()
        raise
    try:
        requests = [dataclasses.replace(request, client=client_of(req)) for request in make()]
        admission.check(requests)
        generations = lease.service.engine.submit_all(requests)
    except BaseException:
        slot.release()
        lease.release()
        raise
    return Job(generations, slot, lease, gone_of(req), admission)


def client_of(req: falcon.Request) -> str:
    """Who asks, as `auth.Gate` has noted it: the key's name or the address; "" without a gate."""
    return str(getattr(req.context, "client", ""))


def gone_of(req: falcon.Request) -> Callable[[], bool]:
    """What says whether the client has hung up."""
    gone: Callable[[], bool] = req.env.get("waitress.client_disconnected", _never)
    return gone


def _never() -> bool:
    return False


def collect(job: Job, limits: HttpLimits) -> list[TokenEvent]:
    """Wait for the end of all generations; returns their events.

    Raises:
        ClientGoneError: the client hung up, and the generations were cancelled.
    """
    try:
        return [event for event in job.events(limits.poll_seconds) if event is not None]
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


def send_stream(req: falcon.Request, resp: falcon.Response, job: Job, limits: HttpLimits, encoder: Encoder) -> None:
    """Answer with a stream. The job is closed when it ends."""
    resp.content_type = encoder.media_type
    resp.set_header("Cache-Control", "no-cache")
    resp.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back
    resp.stream = EventStream(job, _chunks(req.path, job, limits, encoder))


def _chunks(path: str, job: Job, limits: HttpLimits, encoder: Encoder) -> Iterator[bytes]:
    try:
        # The headers leave with the first chunk, and prefill may take long.
        if encoder.ping:
            yield encoder.ping
        yield from encoder.opening()
        last = time.monotonic()
        for event in job.events(limits.poll_seconds):
            chunk = b"" if event is None else b"".join(encoder.encode(event))
            if not chunk and time.monotonic() - last >= limits.ping_seconds:
                chunk = encoder.ping
            if chunk:
                yield chunk
                last = time.monotonic()
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
