"""`/v1/integrations`, and requests for models of other servers on their way to these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import falcon

from ..core.access import Scope
from ..core.admission import Admission, Slot
from ..core.body import read_json
from ..core.encoding import ndjson, sse
from ..core.errors import ClientGoneError, Errors
from ..core.job import gone_of
from ..core.limits import HttpLimits
from ..core.registry import Models
from ..core.resources import ReadResource, answer
from ..core.routes import Operation, Route
from .manager import LINES, Forwarded, IntegrationError, IntegrationManager, Watch
from .schema import IntegrationHealth, IntegrationList


def needed_scope(req: falcon.Request) -> Scope | None:
    """To look is for use."""
    if not (req.path + "/").startswith("/v1/integrations/"):
        return None
    return Scope.USE if req.method in {"GET", "HEAD"} else Scope.ADMIN


class Integrations(ReadResource):
    """`GET /v1/integrations`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with all, and with those that are available."""
        health = self.context.state(IntegrationManager).health_check()
        available = [name for name, one in health.items() if one.available]
        answer(resp, IntegrationList(integrations=list(health), available=available))


class IntegrationsHealth(ReadResource):
    """`GET /v1/integrations/health`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with how each is."""
        document = {
            name: IntegrationHealth(
                available=one.available,
                version=one.version,
                status="healthy" if one.available else "unhealthy",
            )
            for name, one in self.context.state(IntegrationManager).health_check().items()
        }
        answer(resp, document)


class Proxy:
    """Middleware: sends on what asks for a model that is not ours but of an integration."""

    def __init__(
        self,
        integrations: IntegrationManager,
        models: Models,
        limits: HttpLimits,
        admission: Admission,
        errors: Errors,
        forwarded: Mapping[str, str],
    ) -> None:
        """Of these integrations; for `forwarded` see `Paths`."""
        self._forwarded = forwarded
        self._errors = errors
        self._integrations = integrations
        self._own = {name for card in models.cards() for name in (card.name, f"{card.name}:latest", *card.aliases)}
        self._limits = limits
        self._admission = admission

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Answer in the place of the resource where the model is another server's.

        Raises:
            RequestError: the body is no JSON object.
            IntegrationError: the server cannot be reached, or its answer is not passed on.
            EngineBusyError: too many requests are being served.
            ClientGoneError: the client hung up, and so has been done with the server.
        """
        path = self._forwarded.get(req.path)
        if req.method != "POST" or path is None:
            return
        ollama = path.startswith("/api/")
        body = read_json(req, self._limits.max_body_bytes)
        model = body.get("model") or (body.get("name") if path == "/api/show" else None)  # as older clients say it
        if not isinstance(model, str) or model in self._own:
            return
        integration = self._integrations.find(model)
        if integration is None or (ollama and integration.prefix):
            return
        slot, gone = self._admission.enter(), gone_of(req)
        watch = Watch(lambda: gone() or self._admission.aborted, self._limits.poll_seconds)
        try:
            forwarded = integration.forward(path.removeprefix(integration.prefix), req.context.body, watch)
        except BaseException as error:
            watch.end()
            slot.release()
            if isinstance(error, IntegrationError) and gone():
                raise ClientGoneError from None
            raise
        relayed = _Body(forwarded, watch, slot, req.path, self._errors)
        resp.status = falcon.code_to_http_status(forwarded.status)
        resp.content_type = forwarded.media_type
        resp.set_header("X-Content-Type-Options", "nosniff")
        if forwarded.retry_after is not None:
            resp.set_header("Retry-After", forwarded.retry_after)
        if forwarded.body is None:
            resp.set_header("Cache-Control", "no-cache")
            resp.set_header("X-Accel-Buffering", "no")  # nginx would hold the events back
            resp.stream = relayed
        else:
            relayed.close()
            resp.data = forwarded.body
        resp.complete = True


class _Body:
    """The answer's bytes; whoever hangs up ends the generation at the other server too."""

    def __init__(self, forwarded: Forwarded, watch: Watch, slot: Slot, path: str, errors: Errors) -> None:
        self._errors = errors
        self._forwarded = forwarded
        self._watch = watch
        self._slot = slot
        self._path = path
        self._chunks = self._relay()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)

    def _relay(self) -> Iterator[bytes]:
        try:
            yield from self._forwarded.chunks()
        except IntegrationError as error:  # after what may be half a line
            document = self._errors.of(self._path, error)[1]
            yield b"\n" + ndjson(document) if self._forwarded.media_type == LINES else b"\n\n" + sse(document)

    def close(self) -> None:
        """Called by the server, whatever happened."""
        self._watch.end()
        self._forwarded.close()
        self._slot.release()


ROUTES = [
    Route(
        "/v1/integrations",
        Integrations,
        get=Operation("Other servers whose models are offered.", None, IntegrationList),
    ),
    Route(
        "/v1/integrations/health",
        IntegrationsHealth,
        get=Operation("How these servers are.", None, dict[str, IntegrationHealth]),
    ),
]
