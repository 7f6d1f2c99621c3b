"""The WSGI application: routes, errors, the access log."""

from __future__ import annotations

import logging
import time

import falcon

from ...artifacts.errors import printable
from ..metrics import Metrics
from . import chat_completions, completions, errors, native, responses
from . import models as models_of
from .admission import Admission
from .auth import Gate, Security, cors_middleware
from .limits import HttpLimits
from .openapi import OpenApi, Route
from .page import add_page
from .registry import Models
from .resources import Context

__all__ = ["HttpApp", "HttpLimits", "create_app"]

ROUTES: tuple[Route, ...] = (
    *native.ROUTES,
    *models_of.ROUTES,
    *completions.ROUTES,
    *chat_completions.ROUTES,
    *responses.ROUTES,
)

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
        self.admission = Admission(limits.max_streams, limits.max_prompt_tokens)


def create_app(models: Models, metrics: Metrics, limits: HttpLimits, security: Security | None = None) -> HttpApp:
    """Return the application that serves `models`; without `security` to everybody."""
    app = HttpApp(limits, security or Security())
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    context = Context(models, limits, app.admission, metrics)
    add_page(app)
    for route in ROUTES:
        app.add_route(route.path, route.resource(context))
    app.add_route("/openapi.json", OpenApi(context, ROUTES))
    return app
