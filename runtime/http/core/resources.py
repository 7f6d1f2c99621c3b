"""What all resources share."""

from __future__ import annotations

from dataclasses import field
from typing import Any, TypeVar

import falcon

from ....artifacts.dataclass import dataclass
from ...telemetry.metrics import Metrics
from ...telemetry.tracing import Tracer
from . import body
from .admission import Admission
from .encoding import dump
from .errors import Errors
from .limits import HttpLimits
from .registry import Models, RemoteModels

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """What a resource works with."""

    models: Models
    remote_models: RemoteModels
    limits: HttpLimits
    admission: Admission
    errors: Errors
    metrics: Metrics
    tracer: Tracer
    states: dict[Any, Any] = field(default_factory=dict)

    def state(self, kind: type[T]) -> T:
        """The one object of a kind in which an API keeps what it has to; made where there is none."""
        if kind not in self.states:
            self.states[kind] = kind()
        found: T = self.states[kind]
        return found


class Resource:
    """A resource that has the context at hand."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.limits = context.limits

    def read(self, req: falcon.Request, kind: type[T]) -> T:
        """The body as a struct of the schema; see `body.read`."""
        return body.read(req, kind, self.limits.max_body_bytes)


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
