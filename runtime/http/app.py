"""The WSGI application: all APIs, and what stands before them."""

from __future__ import annotations

import falcon

from ..telemetry.metrics import Metrics
from ..telemetry.tracing import UNTRACED, Tracer
from .anthropic import routes as anthropic
from .core.admission import Admission
from .core.errors import Errors
from .core.limits import HttpLimits
from .core.openapi import OpenApi
from .core.registry import Models
from .core.resources import Context
from .core.routes import Api, Paths
from .llama_cpp import routes as llama_cpp
from .lm_studio import routes as lm_studio
from .native import routes as native
from .ollama import routes as ollama
from .openai import routes as openai
from .page import add_page
from .proxy import routes as proxy
from .proxy.integrations import Proxy
from .proxy.manager import IntegrationManager
from .transport.auth import Gate, Security
from .transport.observe import Observe
from .transport.origins import Origins

__all__ = ["HttpApp", "HttpLimits", "create_app"]

# In the order in which the OpenAPI document has them.
APIS: tuple[Api, ...] = (
    native.API,
    openai.API,
    llama_cpp.EMBEDDINGS,
    ollama.API,
    llama_cpp.API,
    lm_studio.API,
    openai.RESPONSES,
    anthropic.API,
    proxy.API,
)
ROUTES = tuple(route for api in APIS for route in api.routes)
ERRORS = Errors(api.errors for api in APIS if api.errors is not None)
PATHS = Paths(APIS)


class HttpApp(falcon.App[falcon.Request, falcon.Response]):
    """The application, with what its server must know to run and to stop it."""

    paths = PATHS
    errors = ERRORS

    def __init__(self, limits: HttpLimits, security: Security, watch: Observe) -> None:
        """An application without routes; see `create_app`."""
        origins = Origins(security.cors_origins, PATHS)
        super().__init__(middleware=[watch, origins, Gate(security, origins, PATHS)])
        self.limits = limits
        self.security = security
        self.admission = Admission(limits.max_streams, limits.max_prompt_tokens)


def create_app(
    models: Models,
    metrics: Metrics,
    limits: HttpLimits,
    security: Security | None = None,
    tracer: Tracer | None = None,
    integrations: IntegrationManager | None = None,
) -> HttpApp:
    """Return the application that serves `models`; without `security` to everybody, without `tracer` untraced."""
    tracer = tracer or Tracer(UNTRACED)
    app = HttpApp(limits, security or Security(), Observe(metrics, tracer))
    app.req_options.strip_url_path_trailing_slash = True
    ERRORS.install(app)
    integrations = integrations or IntegrationManager()
    if integrations.names():
        app.add_middleware(Proxy(integrations, models, limits, app.admission, ERRORS, PATHS.forwarded))
    context = Context(models, integrations, limits, app.admission, ERRORS, metrics, tracer)
    context.states[IntegrationManager] = integrations
    add_page(app)
    for route in ROUTES:
        resource = route.resource(context)
        for path in route.paths:
            app.add_route(path, resource)
    app.add_route("/openapi.json", OpenApi(context, ROUTES))
    return app
