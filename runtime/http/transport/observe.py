"""What is seen of the HTTP layer: request ids, the access log, counts and traces."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Iterator
from typing import Protocol, cast

import falcon

from ....artifacts.errors import printable
from ...telemetry.logs import REQUEST_ID
from ...telemetry.metrics import METHODS, OTHER, Metrics
from ...telemetry.trace_records import HttpRecord, Trace
from ...telemetry.tracing import CURRENT, Tracer

log = logging.getLogger("rocmforge.access")

# What others may call a request: long enough for all that is in use, and nothing that could break a line or a log.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id_of(req: falcon.Request) -> str:
    """The client's `X-Request-Id` where it is sane, else a new one, which is no secret."""
    given = req.get_header("X-Request-Id")
    return given if given and _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


class _Observation:
    """One HTTP request, from its header to the last byte of its answer; on the one thread that serves it."""

    def __init__(self, req: falcon.Request, metrics: Metrics, tracer: Tracer) -> None:
        self.request_id = request_id_of(req)
        self._began = time.monotonic()
        self._metrics = metrics
        self._tracer = tracer
        self._trace: Trace | None = tracer.begin(req.get_header("traceparent"))
        self._method = req.method
        self._path = printable(req.path)
        self._route: str | None = None
        self._status = 0
        REQUEST_ID.set(self.request_id)
        CURRENT.set(self._trace)

    def answered(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Its answer is made, if not yet sent."""
        self._route, self._status = req.uri_template, resp.status_code

    def end(self) -> None:
        """Its answer has been sent, or nobody is there to take it."""
        milliseconds = round(1e3 * (time.monotonic() - self._began), 1)
        method = self._method if self._method in METHODS else printable(self._method, 20)
        self._metrics.http_answered(self._method, self._route, self._status)
        fields = {"method": method, "path": self._path, "status": self._status, "milliseconds": milliseconds}
        log.info("%s %s %d %.1f ms", *fields.values(), extra={"fields": fields})
        if self._trace is not None:
            http = HttpRecord(method, self._route or OTHER, self._path, self._status, self.request_id)
            self._tracer.end(self._trace, http)
        REQUEST_ID.set(None)
        CURRENT.set(None)


class _Stream(Protocol):
    """A streamed body: of tokens, or of what another server answers."""

    def __next__(self) -> bytes:
        """The next bytes."""

    def close(self) -> None:
        """It ends."""


class _ObservedStream:
    """A streamed body that tells when it was closed, whether it was sent to its end or not."""

    def __init__(self, stream: _Stream, observation: _Observation) -> None:
        self._stream = stream
        self._observation: _Observation | None = observation

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._stream)

    def close(self) -> None:
        """Close it. Called by the server, whatever happened."""
        try:
            self._stream.close()
        finally:
            observation, self._observation = self._observation, None
            if observation is not None:
                observation.end()


class Observe:
    """Middleware, the outermost: what the others refuse is seen too."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self._metrics = metrics
        self._tracer = tracer

    def process_request(self, req: falcon.Request, _: falcon.Response) -> None:
        """Begin to watch a request."""
        req.context.observation = _Observation(req, self._metrics, self._tracer)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Name the request in its answer; of a stream, watch on."""
        observation = getattr(req.context, "observation", None)
        if observation is None:  # refused by Falcon itself, before any middleware
            observation = _Observation(req, self._metrics, self._tracer)
        resp.set_header("X-Request-Id", observation.request_id)
        observation.answered(req, resp)
        if resp.stream is not None:  # never of HEAD: only POST has streams
            resp.stream = _ObservedStream(cast(_Stream, resp.stream), observation)
        else:
            observation.end()
