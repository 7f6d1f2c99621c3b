"""ROCmForge's own API, as its documentation 0.1.0 has it: paths, fields, defaults, error shape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import falcon

from ... import __version__
from ...artifacts.errors import printable
from ..generation import FINISH_FAILED, EngineStats, Generation, GenerationRequest, GenerationState, TokenEvent
from ..metrics import CONTENT_TYPE
from .body import read_json
from .errors import GenerationFailedError, NotFoundError, error_document
from .parameters import GenerateCall, read_generate
from .resources import ReadResource, Resource, answer
from .streaming import Job, collect, send_events, sse, start_job

SERVICE = "rocmforge"
DEFAULT_MAX_TOKENS = 100
MEBIBYTE = 1 << 20
CANCEL_POLL_SECONDS = 0.005


class _GenerateResource(Resource):
    """What the two generation endpoints share."""

    def start(self, req: falcon.Request) -> Job:
        """Check all that can be checked, and submit."""
        call = read_generate(read_json(req, self.limits.max_body_bytes), self.service.engine.vocab_size)
        return start_job(req, self.service.engine, self.context.admission, lambda: self._request(call))

    def _request(self, call: GenerateCall) -> GenerationRequest:
        return self.service.request(self.service.prompt_ids(call.prompt), call.conditions, DEFAULT_MAX_TOKENS)


class Generate(_GenerateResource):
    """`POST /generate`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer when the generation has ended."""
        state = collect(self.start(req), self.limits)
        if state.finish_reason == FINISH_FAILED:
            raise GenerationFailedError(state.error or "generation failed")
        answer(resp, _state_document(state))


class GenerateStream(_GenerateResource):
    """`POST /generate/stream`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with an event a token, and no closing `[DONE]`."""
        job = self.start(req)
        request_id = job.generation.request_id

        def encode(event: TokenEvent) -> Iterator[bytes]:
            document: dict[str, object] = {
                "request_id": request_id,
                "token": event.token,
                "text": event.text,
                "finished": event.finished,
                "finish_reason": event.finish_reason,
            }
            if event.error is not None:
                document["error"] = event.error
            yield sse(document)

        send_events(req, resp, job, self.limits, [], encode)


class Status(ReadResource):
    """`GET /status/{request_id}`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with what has been generated up to now."""
        answer(resp, _state_document(_find(self, params["request_id"]).state()))


class Cancel(Resource):
    """`POST /cancel/{request_id}`."""

    def on_post(self, _: falcon.Request, resp: falcon.Response, request_id: str) -> None:
        """Ask for the end and wait for it; the body, if any, is not read."""
        generation = _find(self, request_id)
        generation.cancel()
        deadline = time.monotonic() + self.limits.cancel_seconds
        while not (state := generation.state()).finished and time.monotonic() < deadline:
            time.sleep(CANCEL_POLL_SECONDS)
        answer(resp, _state_document(state))


def _find(resource: Resource, request_id: str) -> Generation:
    # 18 digits stay below 2^63 and below Python's limit on the digits of an integer.
    numeric = request_id.isascii() and request_id.isdigit() and len(request_id) <= 18
    found = resource.service.engine.find(int(request_id)) if numeric else None
    if found is None:
        raise NotFoundError(f"request {printable(request_id, 60)} not found")
    return found


def _state_document(state: GenerationState) -> dict[str, object]:
    return {
        "request_id": state.request_id,
        "text": state.text,
        "tokens": list(state.tokens),
        "finished": state.finished,
        "finish_reason": state.finish_reason,
    }


class Health(ReadResource):
    """`GET /health`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer 200 in either case: the body says whether all is well, `/ready` by its status."""
        stats = self.service.engine.stats()
        answer(
            resp,
            {
                "status": "healthy" if stats.running else "unhealthy",
                "service": SERVICE,
                "version": __version__,
                "checks": _checks(stats),
            },
        )


def _checks(stats: EngineStats) -> dict[str, object]:
    checks: dict[str, object] = {
        "engine": {"running": stats.running, "model_loaded": stats.running},
        "gpu": {"available": stats.device_available},
    }
    if stats.device_available:
        checks["gpu"] = {"available": True, "memory": _memory(stats)}
    if stats.running:
        checks["requests"] = {"active": stats.active, "queued": stats.queued}
        checks["cache"] = {
            "pages_used": stats.pages_used,
            "pages_total": stats.pages_total,
            "pages_free": stats.pages_total - stats.pages_used,
            "active_sequences": stats.active_sequences,
        }
    return checks


def _memory(stats: EngineStats) -> dict[str, int]:
    free_mb, total_mb = stats.memory_free_bytes // MEBIBYTE, stats.memory_total_bytes // MEBIBYTE
    used_mb = total_mb - free_mb
    return {
        "free_bytes": stats.memory_free_bytes,
        "total_bytes": stats.memory_total_bytes,
        "free_mb": free_mb,
        "total_mb": total_mb,
        "used_mb": used_mb,
        "utilization_percent": 100 * used_mb // total_mb if total_mb else 0,
    }


class Ready(ReadResource):
    """`GET /ready`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer 200 while requests are accepted, else 503."""
        if self.service.engine.stats().running and not self.context.admission.closed:
            answer(resp, {"ready": True, "service": SERVICE})
        else:
            resp.status = falcon.HTTP_503
            answer(resp, error_document(req.path, 503, "Service Unavailable"))


class MetricsText(ReadResource):
    """`GET /metrics`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer in the Prometheus text format."""
        resp.content_type = CONTENT_TYPE
        resp.data = self.service.metrics.render(self.service.engine.stats())


class Index(ReadResource):
    """`GET /`: what this is, for a person or a client that looks whether somebody is there."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with name, version and model."""
        answer(resp, {"service": SERVICE, "version": __version__, "model": self.service.model.name})
