"""What all resources share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import falcon

from ...telemetry.metrics import Metrics
from ...telemetry.tracing import Tracer
from ..openai.response_store import ResponseStore
from ..proxy.manager import IntegrationManager
from .admission import Admission
from .limits import HttpLimits
from .registry import Models
from .streaming import dump


@dataclass(frozen=True, slots=True)
class Context:
    """What a resource works with."""

    models: Models
    limits: HttpLimits
    admission: Admission
    metrics: Metrics
    tracer: Tracer
    integrations: IntegrationManager = field(default_factory=IntegrationManager)
    responses: ResponseStore = field(default_factory=ResponseStore)


class Resource:
    """A resource that has the context at hand."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.limits = context.limits


class ReadResource(Resource):
    """A resource to GET: HEAD answers the same without the body."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer."""
        raise NotImplementedError

    def on_head(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer as `on_get` does; Falcon drops the body."""
        self.on_get(req, resp, **params)


def answer(resp: falcon.Response, document: object) -> None:
    """Set a JSON body."""
    resp.content_type = falcon.MEDIA_JSON
    resp.data = dump(document)
