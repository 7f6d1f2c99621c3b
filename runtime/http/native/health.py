"""`GET /health`, `/live` and `/ready`."""

from __future__ import annotations

from typing import Any, Literal

import falcon

from .... import __version__
from ...engine.generation import DeviceStats, DraftStats, EngineStats
from ..core.registry import total_stats
from ..core.resources import ReadResource, answer
from ..core.routes import Operation, Route
from .schema import HealthDocument, LiveDocument, ReadyDocument

SERVICE = "rocmforge"
MEBIBYTE = 1 << 20


class Health(ReadResource):
    """`GET /health`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer 200 in either case: the body says whether all is well, `/ready` by its status."""
        stats = total_stats(self.context.models)
        status: Literal["healthy", "unhealthy"] = "healthy" if stats.running else "unhealthy"
        answer(resp, HealthDocument(status=status, service=SERVICE, version=__version__, checks=_checks(stats)))


def _checks(stats: EngineStats) -> dict[str, object]:
    checks: dict[str, object] = {
        "engine": {"running": stats.running, "model_loaded": stats.running},
        "gpu": {"available": stats.device_available},
    }
    if stats.device_available:
        checks["gpu"] = {"available": True, "memory": _memory(stats), **_facts(stats)}
    if stats.problem is not None:
        checks["engine"] = {"running": False, "model_loaded": False, "error": stats.problem}
    if stats.running:
        checks["requests"] = {"active": stats.active, "queued": stats.queued}
        checks["cache"] = {
            "pages_used": stats.pages_used,
            "pages_total": stats.pages_total,
            "pages_free": stats.pages_total - stats.pages_used,
            "active_sequences": stats.active_sequences,
            **_slots(stats),
        }
    if stats.draft is not None:
        checks["draft"] = _draft(stats.draft)
    if stats.devices:
        checks["devices"] = [_device(one) for one in stats.devices]
    return checks


def _slots(stats: EngineStats) -> dict[str, int]:
    """Of recurrent state; not every model has some."""
    if not stats.state_slots_total:
        return {}
    used, total, cached = stats.state_slots_used, stats.state_slots_total, stats.state_slots_cached
    return {"state_slots_used": used, "state_slots_total": total, "state_slots_cached": cached}


def _draft(stats: DraftStats) -> dict[str, object]:
    """Of a draft model: without it, requests are served as well."""
    found: dict[str, object] = {
        "model": stats.model,
        "available": stats.problem is None,
        "proposed": stats.proposed,
        "accepted": stats.accepted,
    }
    return found if stats.problem is None else found | {"error": stats.problem}


def _facts(stats: EngineStats) -> dict[str, object]:
    """Of a GPU; the host has none."""
    if not stats.runtime:
        return {}
    facts = {"runtime": stats.runtime, "graphs": stats.graphs, "graph_mismatches": stats.graph_mismatches}
    return facts | ({"host_weight_bytes": stats.host_weight_bytes} if stats.host_weight_bytes else {})


def _device(one: DeviceStats) -> dict[str, object]:
    found: dict[str, object] = {"device": one.device, "running": one.running, "restarts": one.restarts}
    return found if one.problem is None else found | {"error": one.problem}


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


class Live(ReadResource):
    """`GET /live`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer 200 as long as there is an answer, while the server drains too: to start it anew would help nobody."""
        answer(resp, LiveDocument(live=True, service=SERVICE))


class Ready(ReadResource):
    """`GET /ready`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer 200 while requests are accepted, else 503."""
        stats = total_stats(self.context.models)
        if stats.running and not self.context.admission.closed:
            answer(resp, ReadyDocument(ready=True, service=SERVICE))
        else:
            resp.status = falcon.HTTP_503
            answer(resp, self.context.errors.document(req.path, 503, stats.problem or "Service Unavailable"))


ROUTES = [
    Route("/health", Health, get=Operation("How the server is.", None, HealthDocument), open=True, urgent=True),
    Route("/live", Live, get=Operation("Whether the server answers.", None, LiveDocument), open=True, urgent=True),
    Route(
        "/ready", Ready, get=Operation("Whether requests are accepted.", None, ReadyDocument), open=True, urgent=True
    ),
]
