"""The WSGI application: routes, errors, what stands before them."""

from __future__ import annotations

import falcon

from ..telemetry.metrics import Metrics
from ..telemetry.tracing import UNTRACED, Tracer
from .anthropic import messages as anthropic
from .core import embeddings, errors
from .core.admission import Admission
from .core.limits import HttpLimits
from .core.openapi import OpenApi, Route
from .core.registry import Models
from .core.resources import Context
from .llama_cpp import completion as llama_cpp_completion
from .llama_cpp import properties as llama_cpp
from .lm_studio import models as lm_studio
from .native import generate as native
from .native import observe
from .ollama import generate as ollama
from .ollama import models as ollama_models
from .openai import chat_completions, completions, responses
from .openai import models as models_of
from .page import add_page
from .proxy import integrations as integrations_of
from .proxy.integrations import PROXIED, PROXIED_OLLAMA, Proxy
from .proxy.manager import IntegrationManager
from .transport.auth import Gate, Security
from .transport.origins import Origins

__all__ = ["HttpApp", "HttpLimits", "create_app"]

ROUTES: tuple[Route, ...] = (
    *native.ROUTES,
    *observe.ROUTES,
    *models_of.ROUTES,
    *completions.ROUTES,
    *chat_completions.ROUTES,
    *embeddings.ROUTES,
    *ollama.ROUTES,
    *ollama_models.ROUTES,
    *llama_cpp.ROUTES,
    *llama_cpp_completion.ROUTES,
    *lm_studio.ROUTES,
    *responses.ROUTES,
    *anthropic.ROUTES,
    *integrations_of.ROUTES,
)


ALIASES = {alias: route.path for route in ROUTES for alias in route.aliases}


class HttpApp(falcon.App[falcon.Request, falcon.Response]):
    """The application, with what its server must know to run and to stop it."""

    def __init__(self, limits: HttpLimits, security: Security, watch: observe.Observe) -> None:
        """An application without routes; see `create_app`."""
        origins = Origins(security.cors_origins)
        super().__init__(middleware=[watch, origins, Gate(security, origins)])
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
    app = HttpApp(limits, security or Security(), observe.Observe(metrics, tracer))
    app.req_options.strip_url_path_trailing_slash = True
    errors.install(app)
    integrations = integrations or IntegrationManager()
    if integrations.names():
        app.add_middleware(Proxy(integrations, models, limits, app.admission, ALIASES))
    context = Context(models, limits, app.admission, metrics, tracer, integrations)
    add_page(app)
    for route in ROUTES:
        resource = route.resource(context)
        for path in (route.path, *route.aliases):
            app.add_route(path, resource)
    app.add_route("/openapi.json", OpenApi(context, ROUTES, PROXIED | PROXIED_OLLAMA))
    return app
