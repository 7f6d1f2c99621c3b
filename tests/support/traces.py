"""Requests that are traced, and the spans that come of them."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from typing import Any

import falcon.testing
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.trace.v1.trace_pb2 import Span, TracesData

from rocmforge.runtime.engine.lifecycle import (
    ADMITTED,
    FINISHED,
    FIRST_TOKEN,
    PREEMPTED,
    PREFILLED,
    PREFIX_HIT,
    QUEUED,
    RequestEvent,
)
from rocmforge.runtime.http.app import HttpLimits, create_app
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.telemetry.trace_records import HttpRecord
from rocmforge.runtime.telemetry.tracing import CURRENT, Sampling, TraceOptions, Tracer
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeGeneration, FakeTemplate, FakeTokenizer

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
ALL = TraceOptions(Sampling(1.0))
HTTP = HttpRecord("POST", "/generate", "/generate", 200, "abc")


def trace_once(tracer: Tracer, request_id: int = 1, reason: str = "length", status: int = 200) -> None:
    """A request as the server and an engine tell it: queued at 10 s, ended at 14 s after having been preempted."""
    trace = tracer.begin(None)
    assert trace is not None
    observe = tracer.observer("tiny")
    token = CURRENT.set(trace)
    observe(RequestEvent(QUEUED, request_id, 10.0, 20))
    CURRENT.reset(token)
    observe(RequestEvent(ADMITTED, request_id, 11.0))
    observe(RequestEvent(PREFIX_HIT, request_id, 11.0, 16))
    observe(RequestEvent(PREFILLED, request_id, 12.0, 20))
    observe(RequestEvent(FIRST_TOKEN, request_id, 12.0))
    observe(RequestEvent(PREEMPTED, request_id, 12.5, 22))
    observe(RequestEvent(ADMITTED, request_id, 13.0))
    observe(RequestEvent(FINISHED, request_id, 14.0, 5, reason))
    tracer.end(trace, HttpRecord("POST", "/generate", "/generate", status, "abc"))


def decode(document: Mapping[str, Any]) -> TracesData:
    """Read OTLP JSON with the standard's own messages.

    Protobuf's JSON has bytes in base64, OTLP's has ids in hex: they are turned here, and nothing else.
    """

    def turned(value: Any) -> Any:
        if isinstance(value, list):
            return [turned(one) for one in value]
        if isinstance(value, dict):
            return {
                key: base64.b64encode(binascii.unhexlify(one)).decode() if key in ids else turned(one)
                for key, one in value.items()
            }
        return value

    ids = {"traceId", "spanId", "parentSpanId"}
    found: TracesData = json_format.ParseDict(turned(document), TracesData())  # refuses unknown fields
    return found


def attributes(span: Span) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in span.attributes}


class TracedEngine(FakeEngine):
    """A scripted engine that tells an observer, as the real one does."""

    observer: Any = None

    def submit_all(self, requests: Any) -> list[FakeGeneration]:
        generations = super().submit_all(requests)
        for one in generations:
            self.observer(RequestEvent(QUEUED, one.request_id, time.monotonic(), 3))
            self.observer(RequestEvent(ADMITTED, one.request_id, time.monotonic()))
            self.observer(RequestEvent(FIRST_TOKEN, one.request_id, time.monotonic()))
            self.observer(RequestEvent(FINISHED, one.request_id, time.monotonic(), 5, "length"))
        return generations


def client_of(options: TraceOptions) -> falcon.testing.TestClient:
    tracer, engine = Tracer(options), TracedEngine()
    engine.observer = tracer.observer("tiny")
    service = Service(engine, FakeTokenizer(), FakeTemplate(), MODEL)
    app = create_app(OneModel(service), Metrics(), HttpLimits(poll_seconds=0.02), tracer=tracer)
    return falcon.testing.TestClient(app)


def spans_of(client: falcon.testing.TestClient, query: str = "") -> list[Span]:
    document = client.simulate_get(f"/traces?format=otlp{query}").json
    [resource] = decode(document).resource_spans
    [scope] = resource.scope_spans
    return list(scope.spans)


def roots(client: falcon.testing.TestClient, query: str = "") -> list[str]:
    return [str(attributes(span)["url.path"]) for span in spans_of(client, query) if span.name.startswith("POST ")]


def of_generation(request_id: int, given: int, made: int, reason: str, hits: int, preempted: int) -> list[Any]:
    return [
        {"key": "request_id", "value": {"intValue": str(request_id)}},
        {"key": "token_count", "value": {"intValue": str(made)}},
        {"key": "gen_ai.request.model", "value": {"stringValue": "tiny"}},
        {"key": "gen_ai.usage.input_tokens", "value": {"intValue": str(given)}},
        {"key": "gen_ai.usage.output_tokens", "value": {"intValue": str(made)}},
        {"key": "gen_ai.response.finish_reasons", "value": {"arrayValue": {"values": [{"stringValue": reason}]}}},
        {"key": "rocmforge.prefix_hit_tokens", "value": {"intValue": str(hits)}},
        {"key": "rocmforge.preemptions", "value": {"intValue": str(preempted)}},
    ]
