"""The WSGI application: routes, errors, the access log."""

from __future__ import annotations

import logging
import time

import falcon

from ...artifacts.errors import printable
from . import errors
from .admission import Admission
from .auth import Gate, Security, cors_middleware
from .limits import HttpLimits
from .models import Model, ModelList, NativeModels
from .native import Cancel, Generate, GenerateStream, Health, MetricsText, Ready, Status
from .openai import ChatCompletions, Completions
from .page import add_page
from .resources import Context
from .service import Service

__all__ = ["HttpApp", "HttpLimits", "create_app"]

log = logging.getLogger("rocmforge.access")


class AccessLog:
    """One line a request, when its answer (of a stream: its header) is made."""

    def process_request(self, req: falcon.Request, _: falcon.Response) -> None:
        """Note when it came."""
        req.context.began = time.monotonic()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Log it; what the client wrote is escaped, so that it cannot forge a line."""
        elapsed = 1e3 * (time.monotonic() - req.context.began)
        log.info("%s %s %d %.1f ms", printable(req.method, 20), printable(req.path), resp.status_code, elapsed)


class HttpApp(falcon.App[falcon.Request, falcon.Response]):
    """The application, with what its server must know to run and to stop it."""

    def __init__(self, limits: HttpLimits, security: Security) -> None:
        """An application without routes; see `create_app`."""
        super().__init__(middleware=[AccessLog(), cors_middleware(security), Gate(security)])
        self.limits = limits
        self.security = security
        self.admission = Admission(limits.max_streams)


def create_app(service: Service, limits: HttpLimits, security: Security | None = None) -> HttpApp:
    """Return the application that serves `service`; without `security` to everybody."""
    app = HttpApp(limits, security or Security())
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    context = Context(service, limits, app.admission)
    add_page(app)
    app.add_route("/generate", Generate(context))
    app.add_route("/generate/stream", GenerateStream(context))
    app.add_route("/status/{request_id}", Status(context))
    app.add_route("/cancel/{request_id}", Cancel(context))
    app.add_route("/models", NativeModels(context))
    app.add_route("/health", Health(context))
    app.add_route("/ready", Ready(context))
    app.add_route("/metrics", MetricsText(context))
    app.add_route("/v1/completions", Completions(context))
    app.add_route("/v1/chat/completions", ChatCompletions(context))
    app.add_route("/v1/models", ModelList(context))
    app.add_route("/v1/models/{model_id:path}", Model(context))
    return app
