"""ROCmForge's own API, as its documentation 0.1.0 has it: paths, fields, defaults, error shape."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import falcon

from ....artifacts.errors import printable
from ...engine.generation import (
    FINISH_FAILED,
    Generation,
    GenerationRequest,
    GenerationState,
    SamplingParams,
    TokenEvent,
)
from ..core.access import may_see
from ..core.errors import NotFoundError, generation_error
from ..core.generation_params import read_params
from ..core.job import Job, collect, look_of, start_job
from ..core.resources import ReadResource, Resource, answer
from ..core.routes import Operation, Route
from ..core.schema import UNSET
from ..core.service import Service
from ..core.streaming import Encoder, send_stream
from ..core.text_apis import Look
from .schema import Generated, GenerateRequest, TokenDocument

DEFAULT_MAX_TOKENS = 100
CANCEL_POLL_SECONDS = 0.005


_DEFAULTS = SamplingParams(top_k=50, top_p=0.9)


class _GenerateResource(Resource):
    """What the two generation endpoints share."""

    def start(self, req: falcon.Request) -> Job:
        """Check all that can be checked, and submit."""
        body = self.read(req, GenerateRequest)
        models = self.context.models
        name = None if body.adapter is None else f"{models.card(None).name}:{body.adapter}"
        with models.lease(name) as lease:
            service = lease.service
            return start_job(req, lease.keep(), self.context.admission, lambda: _requests(service, body, look_of(req)))


def _requests(service: Service, body: GenerateRequest, look: Look) -> list[GenerationRequest]:
    params = read_params(body, body.max_tokens, service.engine.vocab_size, _DEFAULTS)
    return [service.request(service.prompt_ids(body.prompt, look, body.parse_special), params, DEFAULT_MAX_TOKENS)]


class Generate(_GenerateResource):
    """`POST /generate`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer when the generation has ended."""
        job = self.start(req)
        collect(job, self.limits)
        state = job.generations[0].state()
        if state.finish_reason == FINISH_FAILED:
            raise generation_error(state.error)
        answer(resp, _state_document(state))


class GenerateStream(_GenerateResource):
    """`POST /generate/stream`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with an event a token, and no closing `[DONE]`."""
        job = self.start(req)
        send_stream(req, resp, job, self.context, _TokenEncoder(job.generations[0].request_id))


class _TokenEncoder(Encoder[TokenDocument]):
    def __init__(self, request_id: int) -> None:
        self._request_id = request_id

    def encode(self, event: TokenEvent) -> Iterator[TokenDocument]:
        yield TokenDocument(
            request_id=self._request_id,
            token=event.token,
            text=event.text,
            finished=event.finished,
            finish_reason=event.finish_reason,
            error=UNSET if event.error is None else str(event.error),
        )


class Status(ReadResource):
    """`GET /status/{request_id}`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with what has been generated up to now."""
        answer(resp, _state_document(_find(self, req, params["request_id"]).state()))


class Cancel(Resource):
    """`POST /cancel/{request_id}`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response, request_id: str) -> None:
        """Ask for the end and wait for it; the body, if any, is not read."""
        generation = _find(self, req, request_id)
        generation.cancel()
        deadline = time.monotonic() + self.limits.cancel_seconds
        while not (state := generation.state()).finished and time.monotonic() < deadline:
            time.sleep(CANCEL_POLL_SECONDS)
        answer(resp, _state_document(state))


def _find(resource: Resource, req: falcon.Request, request_id: str) -> Generation:
    """A generation of the client's. Of those of others it is not even told that they are there."""
    # 18 digits stay below 2^63 and below Python's limit on the digits of an integer.
    numeric = request_id.isascii() and request_id.isdigit() and len(request_id) <= 18
    for service in resource.context.models.loaded() if numeric else ():
        found = service.engine.find(int(request_id))
        if found is not None and may_see(req, found.client):
            return found
    raise NotFoundError(f"request {printable(request_id, 60)} not found")


def _state_document(state: GenerationState) -> Generated:
    return Generated(
        request_id=state.request_id,
        text=state.text,
        tokens=list(state.tokens),
        finished=state.finished,
        finish_reason=state.finish_reason,
    )


_ID = (("type", "integer"), ("minimum", 0))
ROUTES = [
    Route("/generate", Generate, post=Operation("Continue a prompt.", GenerateRequest, Generated)),
    Route(
        "/generate/stream",
        GenerateStream,
        post=Operation("Continue a prompt, token by token.", GenerateRequest, None, TokenDocument),
    ),
    Route(
        "/status/{request_id}",
        Status,
        get=Operation("How far a generation is.", None, Generated),
        path_schema=_ID,
        private=True,
    ),
    Route(
        "/cancel/{request_id}",
        Cancel,
        post=Operation("End a generation.", None, Generated),
        path_schema=_ID,
        private=True,
    ),
]
