"""`GET /metrics` and `/traces`."""

from __future__ import annotations

from typing import Any, Final

import falcon

from ....artifacts.errors import RequestError, printable
from ...telemetry.metrics import CONTENT_TYPE
from ..core.access import Scope
from ..core.registry import total_stats
from ..core.resources import ReadResource, answer
from ..core.routes import Operation, Route

MAX_LIMIT: Final = 10**9


def needed_scope(req: falcon.Request) -> Scope | None:
    """Scopes of metrics and traces."""
    if req.path == "/metrics":
        return Scope.METRICS
    if req.path == "/traces":
        clears = any(value.lower() not in {"false", "0"} for value in req.get_param_as_list("clear") or ())
        return Scope.METRICS if req.method in {"GET", "HEAD"} and not clears else Scope.ADMIN
    return None


class MetricsText(ReadResource):
    """`GET /metrics`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer in the Prometheus text format."""
        resp.content_type = CONTENT_TYPE
        resp.data = self.context.metrics.render(total_stats(self.context.models))


class Traces(ReadResource):
    """`GET /traces`: the traces that have ended."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer in the documented shape, or by `?format=otlp` as OTLP JSON; `clear` forgets what it answers."""
        limit = _whole_number(req, "limit")
        as_otlp = _one_of(req, "format", ("native", "otlp")) == "otlp"
        clear = _one_of(req, "clear", ("false", "true", "0", "1")) in {"true", "1"}
        from ...telemetry.spans import otlp_document, seed_document  # noqa: PLC0415 - loads the SDK: a tenth of a second

        tracer = self.context.tracer
        traces = tracer.ended(limit, clear and req.method == "GET")
        answer(resp, (otlp_document if as_otlp else seed_document)(tracer.resource(), traces))


def _whole_number(req: falcon.Request, name: str) -> int | None:
    text = req.get_param(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise RequestError(name, f"expected a whole number from 0 to {MAX_LIMIT - 1}, found {printable(text, 40)}")
    return int(text)


def _one_of(req: falcon.Request, name: str, known: tuple[str, ...]) -> str:
    text = req.get_param(name)
    if text is not None and text not in known:
        raise RequestError(name, f"expected one of {', '.join(known)}, found {printable(text, 40)}")
    return text or known[0]


_LIMIT: dict[str, object] = {"type": "integer", "minimum": 0, "maximum": MAX_LIMIT - 1}
ROUTES = [
    Route(
        "/metrics",
        MetricsText,
        get=Operation("Counters in Prometheus' text format.", media_type="text/plain"),
        urgent=True,
        private=True,
    ),
    Route(
        "/traces",
        Traces,
        get=Operation(
            "Traces of requests that have ended.",
            None,
            dict[str, Any],
            query=(
                ("limit", _LIMIT),
                ("clear", {"type": "boolean"}),
                ("format", {"type": "string", "enum": ["native", "otlp"]}),
            ),
            errors=(400,),
        ),
        private=True,
    ),
]
