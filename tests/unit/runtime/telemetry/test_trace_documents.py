"""The documents of traces, whole, and as a standard decoder reads them."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import falcon.testing
import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from rocmforge import __version__
from rocmforge.runtime.engine.lifecycle import FINISHED, PREFIX_HIT, QUEUED, RequestEvent
from rocmforge.runtime.telemetry import spans
from rocmforge.runtime.telemetry.spans import SpanMaker, otlp_document, seed_document
from rocmforge.runtime.telemetry.trace_records import GenerationRecord, HttpRecord, Parent, Trace
from rocmforge.runtime.telemetry.tracing import CURRENT, Tracer
from rocmforge.tests.support.traces import (
    ALL,
    HTTP,
    PARENT_ID,
    TRACE_ID,
    attributes,
    client_of,
    decode,
    of_generation,
    trace_once,
)


@pytest.fixture
def client() -> falcon.testing.TestClient:
    """Of a server that traces everything."""
    return client_of(ALL)


def test_a_standard_decoder_reads_the_otlp_form(client: falcon.testing.TestClient) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "X-Request-Id": "mine"}
    client.simulate_post("/generate", json={"prompt": "abc"}, headers=headers)
    [resource] = decode(client.simulate_get("/traces?format=otlp").json).resource_spans
    assert {one.key: one.value.string_value for one in resource.resource.attributes}["service.name"] == "rocmforge"
    [scope] = resource.scope_spans
    assert scope.scope.name == "rocmforge.engine"
    by_name = {span.name: span for span in scope.spans}
    assert list(by_name) == ["POST /generate", "inference_request", "queue", "prefill", "decode"]
    assert {span.trace_id.hex() for span in scope.spans} == {TRACE_ID}
    http, whole = by_name["POST /generate"], by_name["inference_request"]
    assert http.parent_span_id.hex() == PARENT_ID
    assert whole.parent_span_id == http.span_id
    assert {by_name[name].parent_span_id for name in ("queue", "prefill", "decode")} == {whole.span_id}
    assert (http.kind, whole.kind, by_name["queue"].kind) == (
        Span.SPAN_KIND_SERVER,
        Span.SPAN_KIND_SERVER,
        Span.SPAN_KIND_INTERNAL,
    )
    assert whole.status.code == Status.STATUS_CODE_OK
    assert attributes(http)["http.response.status_code"] == 200
    assert attributes(whole)["request_id"] == 1
    assert len({span.span_id for span in scope.spans}) == 5


def test_the_spans_say_when_and_how_much() -> None:
    tracer = Tracer(ALL)
    trace_once(tracer)
    [[http, whole, queue, prefill, decode_span]] = tracer.ended()
    begin = whole.start_time
    assert begin is not None
    spans = (whole, queue, prefill, decode_span)
    times = [((span.start_time or 0) - begin, (span.end_time or 0) - begin) for span in spans]
    assert times == [(0, 4 * 10**9), (0, 10**9), (10**9, 2 * 10**9), (2 * 10**9, 4 * 10**9)]
    assert dict(whole.attributes or {}) == {
        "request_id": 1,
        "token_count": 5,
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.finish_reasons": ("length",),
        "rocmforge.prefix_hit_tokens": 16,
        "rocmforge.preemptions": 1,
    }
    assert http.parent is None


def test_what_is_told_of_a_request_that_has_ended_changes_nothing() -> None:
    tracer = Tracer(ALL)
    trace = tracer.begin(None)
    assert trace is not None
    observe = tracer.observer("tiny")
    token = CURRENT.set(trace)
    observe(RequestEvent(QUEUED, 1, 10.0, 20))
    CURRENT.reset(token)
    observe(RequestEvent(PREFIX_HIT, 1, 11.0, 16))
    observe(RequestEvent(PREFIX_HIT, 1, 11.5, 2))
    observe(RequestEvent(FINISHED, 1, 14.0, 5, "length"))
    observe(RequestEvent(PREFIX_HIT, 1, 14.5, 100))
    observe(RequestEvent(FINISHED, 1, 15.0, 6, "stop"))
    assert tracer.ended() == []  # its answer has still to be sent
    tracer.end(trace, HTTP)
    [first], [again] = tracer.ended(), tracer.ended()
    assert first == again  # made once: the same ids each time
    found = {name: (first[1].attributes or {})[name] for name in ("token_count", "rocmforge.prefix_hit_tokens")}
    assert found == {"token_count": 5, "rocmforge.prefix_hit_tokens": 18}


def ended_trace() -> Trace:
    """Of a caller; a generation that came to its end, and one whose engine never said why it ended."""
    parent = Parent(int(TRACE_ID, 16), int(PARENT_ID, 16), sampled=True)
    whole = GenerationRecord("tiny", 7, 20, 10.5, 11.0, 12.0, 14.0, 5, 16, 1, "length")
    lost = GenerationRecord("tiny", 8, 3, 10.5, finished_at=13.0)
    return Trace(parent, 10.0, 15.0, HttpRecord("POST", "/r/{x}", "/r/1", 503, "abc"), [whole, lost])


OF_HTTP = [
    {"key": "http.request.method", "value": {"stringValue": "POST"}},
    {"key": "http.route", "value": {"stringValue": "/r/{x}"}},
    {"key": "url.path", "value": {"stringValue": "/r/1"}},
    {"key": "http.response.status_code", "value": {"intValue": "503"}},
    {"key": "http.request.header.x-request-id", "value": {"arrayValue": {"values": [{"stringValue": "abc"}]}}},
]

# Name, index of the parent (-1: the caller's), kind, from and to in seconds, attributes, status.
SPANS: list[tuple[str, int, int, float, float, list[Any], int]] = [
    ("POST /r/{x}", -1, 2, 10.0, 15.0, OF_HTTP, 2),
    ("inference_request", 0, 2, 10.5, 14.0, of_generation(7, 20, 5, "length", 16, 1), 1),
    ("queue", 1, 1, 10.5, 11.0, [], 0),
    ("prefill", 1, 1, 11.0, 12.0, [], 0),
    ("decode", 1, 1, 12.0, 14.0, [], 0),
    ("inference_request", 0, 2, 10.5, 13.0, of_generation(8, 3, 0, "failed", 0, 0), 2),
    ("queue", 5, 1, 10.5, 13.0, [], 0),
]


def test_both_documents_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time_ns=lambda: 1_700_000_000_000_000_000, monotonic_ns=lambda: 20_000_000_000)
    monkeypatch.setattr(spans, "time", clock)
    made = SpanMaker(export=False).make(ended_trace())
    ids = [context.span_id for span in made if (context := span.get_span_context()) is not None]
    parents = [int(PARENT_ID, 16) if one[1] < 0 else ids[one[1]] for one in SPANS]
    assert made[0].parent is not None
    assert (made[0].parent.is_remote, made[0].parent.trace_flags) == (True, 1)

    def at(seconds: float) -> int:
        return 1_700_000_000_000_000_000 + round((seconds - 20) * 1e9)

    def base64_of(number: int, n_bytes: int) -> str:
        return base64.b64encode(number.to_bytes(n_bytes, "big")).decode()

    resource = [{"key": "service.name", "value": {"stringValue": "x"}}, {"key": "n", "value": {"intValue": "3"}}]
    otlp = [
        {
            "traceId": TRACE_ID,
            "spanId": f"{span_id:016x}",
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(at(begin)),
            "endTimeUnixNano": str(at(end)),
            "attributes": attributes,
            "status": {"code": status},
            "parentSpanId": f"{parent:016x}",
        }
        for span_id, parent, (name, _, kind, begin, end, attributes, status) in zip(ids, parents, SPANS, strict=True)
    ]
    scope = {"scope": {"name": "rocmforge.engine", "version": __version__}, "spans": otlp}
    document = otlp_document({"service.name": "x", "n": 3}, [made])
    assert document == {"resourceSpans": [{"resource": {"attributes": resource}, "scopeSpans": [scope]}]}
    seed = [
        {
            "trace_id": base64_of(int(TRACE_ID, 16), 16),
            "span_id": base64_of(span_id, 8),
            "parent_span_id": base64_of(parent, 8),
            "name": name,
            "kind": kind,
            "start_time_unix_nano": at(begin),
            "end_time_unix_nano": at(end),
            "attributes": attributes,
            "status": {"status": status},
        }
        for span_id, parent, (name, _, kind, begin, end, attributes, status) in zip(ids, parents, SPANS, strict=True)
    ]
    scope = {"scope": {"name": "rocmforge.engine"}, "spans": seed}
    document = seed_document({"service.name": "x", "n": 3}, [made])
    assert document == {"resource_spans": [{"resource": {"attributes": resource}, "scope_spans": [scope]}]}


def test_a_trace_without_a_caller_has_no_parent_in_either_document() -> None:
    trace = ended_trace()
    trace.parent = None
    made = SpanMaker(export=False).make(trace)
    otlp, seed = otlp_document({}, [made[:1]]), seed_document({}, [made[:1]])
    assert "parentSpanId" not in json_format.MessageToDict(decode(otlp).resource_spans[0].scope_spans[0].spans[0])
    assert "'parent_span_id': ''" in str(seed)
    assert len({context.trace_id for span in made if (context := span.get_span_context()) is not None}) == 1


@pytest.mark.parametrize(
    "environ, name",
    [
        ({}, "rocmforge"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "deployment=lab"}, "rocmforge"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "deployment=lab,service.name=theirs"}, "theirs"),
        ({"OTEL_SERVICE_NAME": "theirs", "OTEL_RESOURCE_ATTRIBUTES": "deployment=lab"}, "theirs"),
    ],
)
def test_who_a_trace_is_from(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], name: str) -> None:
    for variable in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    registered: list[object] = []
    monkeypatch.setattr("atexit.register", registered.append)
    resource = Tracer(ALL).resource()
    assert next(iter(resource.items())) == ("service.name", name)
    assert resource["service.version"] == __version__
    assert resource.get("deployment") == ("lab" if "OTEL_RESOURCE_ATTRIBUTES" in environ else None)
    assert registered == []  # how a server ends is its own affair
