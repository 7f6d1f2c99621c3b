"""Traces: which requests, which spans, the ring; their JSON is read by the `opentelemetry-proto` package."""

from __future__ import annotations

import base64
import binascii
import contextvars
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import falcon.testing
import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData

from rocmforge import __version__
from rocmforge.artifacts.errors import UsageError
from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
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
from rocmforge.runtime.telemetry import spans, tracing
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.telemetry.spans import SpanMaker, otlp_document, seed_document
from rocmforge.runtime.telemetry.trace_records import GenerationRecord, HttpRecord, Parent, Trace
from rocmforge.runtime.telemetry.tracing import CURRENT, Sampling, TraceOptions, Tracer, read_options, read_traceparent
from rocmforge.tests.support.engine_harness import ScriptedProgram, serving
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeGeneration, FakeTemplate, FakeTokenizer

SECONDS = 60.0
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


@pytest.fixture
def client() -> falcon.testing.TestClient:
    """Of a server that traces everything."""
    return client_of(ALL)


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


class Collector:
    """Instead of the exporter: what reaches a collector."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.closed = 0

    def export(self, batch: Any) -> int:
        self.names += [span.name for span in batch]
        return 0

    def shutdown(self) -> None:
        self.closed += 1


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    module = ModuleType("trace_exporter")
    made = Collector()
    monkeypatch.setattr(module, "OTLPSpanExporter", lambda: made, raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", module)
    return made


def test_what_has_ended_is_exported_and_the_rest_when_the_tracer_is_closed(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = Tracer(TraceOptions(Sampling(1.0), export=True))
    trace_once(tracer)
    [exporter] = [thread for thread in threading.enumerate() if thread.name == "traces"]
    assert exporter.daemon  # a collector that hangs keeps no server from ending
    trace_once(tracer, 2, status=None)  # type: ignore[arg-type]  # one that cannot be made
    trace_once(tracer, 3)
    tracer.close()
    assert not exporter.is_alive()
    one = ["POST /generate", "inference_request", "queue", "prefill", "decode"]
    assert (collector.names, collector.closed) == (one * 2, 1)
    assert [record.message for record in caplog.records] == ["a trace could not be exported"]


def test_nothing_is_exported_unless_it_is_asked_for(collector: Collector) -> None:
    tracer = Tracer(ALL)
    trace_once(tracer)
    assert len(tracer.ended()) == 1
    assert "traces" not in {thread.name for thread in threading.enumerate()}
    tracer.close()
    assert (collector.names, collector.closed) == ([], 0)


def test_times_are_those_of_the_clock() -> None:
    tracer = Tracer(ALL)
    before = time.time_ns()
    trace_once(tracer)
    [[http, *_]] = tracer.ended()
    # The clock may be set while this runs, by less than a second.
    assert before - 10**9 <= (http.start_time or 0) <= (http.end_time or 0) <= time.time_ns() + 10**9


@pytest.mark.parametrize(
    "reason, status, of_generation, of_http", [("stop", 200, 1, 0), ("cancelled", 499, 0, 0), ("failed", 500, 2, 2)]
)
def test_status(reason: str, status: int, of_generation: int, of_http: int) -> None:
    tracer = Tracer(ALL)
    trace_once(tracer, reason=reason, status=status)
    [[http, whole, *_]] = tracer.ended()
    assert (whole.status.status_code.value, http.status.status_code.value) == (of_generation, of_http)


def test_a_request_that_ends_in_the_queue_has_no_other_phase() -> None:
    tracer = Tracer(ALL)
    trace = tracer.begin(None)
    assert trace is not None
    observe = tracer.observer("tiny")
    token = CURRENT.set(trace)
    observe(RequestEvent(QUEUED, 1, 10.0, 20))
    CURRENT.reset(token)
    tracer.end(trace, HTTP)
    assert tracer.ended() == []  # not yet: the engine has still to drop it
    observe(RequestEvent(FINISHED, 1, 12.0, 0, "cancelled"))
    [spans] = tracer.ended()
    assert [span.name for span in spans] == ["POST /generate", "inference_request", "queue"]


def test_the_shape_of_the_documentation(client: falcon.testing.TestClient) -> None:
    client.simulate_post("/generate", json={"prompt": "abc"})
    [resource] = client.simulate_get("/traces").json["resource_spans"]
    assert resource["resource"]["attributes"][0] == {"key": "service.name", "value": {"stringValue": "rocmforge"}}
    [scope] = resource["scope_spans"]
    assert scope["scope"] == {"name": "rocmforge.engine"}
    [span] = [span for span in scope["spans"] if span["name"] == "inference_request"]
    assert {key: type(value) for key, value in span.items()} == {
        "trace_id": str,
        "span_id": str,
        "parent_span_id": str,
        "name": str,
        "kind": int,
        "start_time_unix_nano": int,
        "end_time_unix_nano": int,
        "attributes": list,
        "status": dict,
    }
    assert [len(base64.b64decode(span[key])) for key in ("trace_id", "span_id", "parent_span_id")] == [16, 8, 8]
    assert (span["kind"], span["status"]) == (2, {"status": 1})
    assert span["attributes"][:2] == [
        {"key": "request_id", "value": {"intValue": "1"}},
        {"key": "token_count", "value": {"intValue": "5"}},
    ]


def test_limit_takes_the_last_and_clear_forgets_what_was_returned(client: falcon.testing.TestClient) -> None:
    for path in ("/generate", "/generate/stream", "/v1/completions"):
        client.simulate_post(path, json={"prompt": "abc"})
    everything = ["/generate", "/generate/stream", "/v1/completions"]
    assert roots(client) == everything
    assert roots(client, "&limit=2") == everything[1:]
    assert roots(client, "&limit=0") == []
    assert roots(client, "&limit=99") == everything
    client.simulate_head("/traces?clear=true")
    assert roots(client, "&limit=1&clear=true") == everything[2:]
    assert roots(client, "&clear=true") == everything[:2]
    assert roots(client) == []


@pytest.mark.parametrize(
    "query, parameter",
    [
        ("limit=x", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=%D9%A1", "limit"),
        ("clear=maybe", "clear"),
        ("format=xml", "format"),
    ],
)
def test_F46_a_wrong_parameter_is_named(client: falcon.testing.TestClient, query: str, parameter: str) -> None:
    result = client.simulate_get(f"/traces?{query}")
    assert (result.status_code, result.json["status"]) == (400, "error")
    assert result.json["error"].startswith(f"{parameter}: expected ")


def test_the_ring_is_bounded_and_forgets_the_oldest() -> None:
    tracer = Tracer(TraceOptions(Sampling(1.0), max_traces=3))
    for request_id in range(10):
        trace_once(tracer, request_id)
    assert [(whole.attributes or {})["request_id"] for _, whole, *_ in tracer.ended()] == [7, 8, 9]


def test_only_requests_that_generate_are_kept(client: falcon.testing.TestClient) -> None:
    client.simulate_get("/health")
    client.simulate_post("/generate", json={"prompt": 5})
    assert spans_of(client) == []


def test_the_part_that_is_traced_is_the_rate() -> None:
    """Of 4,000 requests at 0.1: 400, standard deviation 19; six of them to either side happen once in 10^8 runs."""
    tracer = Tracer(TraceOptions(Sampling(0.1)))
    traced = sum(tracer.begin(None) is not None for _ in range(4000))
    assert 286 < traced < 514


@pytest.mark.parametrize("rate, expected", [(0.0, 0), (1.0, 3)])
def test_rates_of_none_and_all(rate: float, expected: int) -> None:
    client = client_of(TraceOptions(Sampling(rate)))
    for _ in range(3):
        client.simulate_post("/generate", json={"prompt": "abc"})
    assert len(roots(client)) == expected


@pytest.mark.parametrize(
    "sampling, flags, traced",
    [
        (Sampling(0.0), "01", True),
        (Sampling(1.0), "00", False),
        (Sampling(0.0, by_parent=False), "01", False),
        (Sampling(1.0, by_parent=False), "00", True),
        # By the lower half of the id, 8448eb211c80319c: 0.5167 of all.
        (Sampling(0.51, by_parent=False), "01", False),
        (Sampling(0.52, by_parent=False), "00", True),
    ],
)
def test_the_callers_decision(sampling: Sampling, flags: str, traced: bool) -> None:
    header = f"00-{TRACE_ID}-{PARENT_ID}-{flags}"
    assert (Tracer(TraceOptions(sampling)).begin(header) is not None) == traced


@pytest.mark.parametrize("low, traced", [(2**63 - 1, True), (2**63, False)])
def test_the_first_half_of_all_ids_is_a_half(low: int, traced: bool) -> None:
    tracer = Tracer(TraceOptions(Sampling(0.5, by_parent=False)))
    assert (tracer.begin(f"00-{TRACE_ID[:16]}{low:016x}-{PARENT_ID}-01") is not None) == traced


def test_nothing_is_traced_at_a_rate_of_0_whatever_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.0)
    assert Tracer(TraceOptions(Sampling(0.0))).begin(None) is None
    assert Tracer(tracing.UNTRACED).begin(f"00-{TRACE_ID}-{PARENT_ID}-01") is None


def test_the_sdk_decides_alike() -> None:
    from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased  # noqa: PLC0415

    for ratio in (0.0, 0.51, 0.52, 1.0):
        decision = TraceIdRatioBased(ratio).should_sample(None, int(TRACE_ID, 16), "x").decision
        ours = Tracer(TraceOptions(Sampling(ratio, by_parent=False))).begin(f"00-{TRACE_ID}-{PARENT_ID}-01")
        assert (ours is not None) == (decision is Decision.RECORD_AND_SAMPLE)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        f"00-{TRACE_ID}-{PARENT_ID}",
        f"00-{TRACE_ID}-{PARENT_ID}-01-more",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"01-{TRACE_ID}-{PARENT_ID}-01-" + "x" * 1000,
    ],
)
def test_a_wrong_traceparent_is_ignored(header: str) -> None:
    assert read_traceparent(header) is None


def test_a_traceparent_is_read_up_to_512_characters_and_without_the_space_around_it() -> None:
    beginning = f"01-{TRACE_ID}-{PARENT_ID}-00-"
    expected = Parent(int(TRACE_ID, 16), int(PARENT_ID, 16), sampled=False)
    assert read_traceparent(beginning.ljust(512, "x")) == expected
    assert read_traceparent(beginning.ljust(513, "x")) is None
    assert read_traceparent(f" 00-{TRACE_ID}-{PARENT_ID}-02\t") == expected
    assert read_traceparent(f"00-{TRACE_ID}-{PARENT_ID}-fe") == expected
    assert read_traceparent(None) is None


def test_a_traceparent_of_a_later_version_is_read() -> None:
    parent = read_traceparent(f"01-{TRACE_ID}-{PARENT_ID}-03-more")
    assert parent is not None
    assert (f"{parent.trace_id:032x}", f"{parent.span_id:016x}", parent.sampled) == (TRACE_ID, PARENT_ID, True)


@pytest.mark.parametrize(
    "environ, sampling",
    [
        ({}, Sampling(0.3)),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampling(0.0, False)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, Sampling(1.0)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, Sampling(0.25)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "-0.5"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "much"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": " 0 "}, Sampling(0.0, False)),
        ({"OTEL_TRACES_SAMPLER": " Always_On "}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": " "}, Sampling(0.3)),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_SAMPLER": "always_on"}, Sampling(1.0, False)),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, Sampling(0.3)),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_SAMPLER": "always_on"}, Sampling(0.0, False)),
    ],
)
def test_standard_variables_of_sampling(environ: dict[str, str], sampling: Sampling) -> None:
    assert read_options(environ, 0.3, 10).sampling == sampling


@pytest.mark.parametrize(
    "environ, export",
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": " OTLP ", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True),
        ({"OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
    ],
)
def test_standard_variables_of_export(environ: dict[str, str], export: bool) -> None:
    assert read_options(environ, 0.1, 10).export == export


@pytest.mark.parametrize(
    "environ, message",
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: expected otlp or none, found zipkin"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: expected http/protobuf, found grpc",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: expected http/protobuf, found http/json",
        ),
    ],
)
def test_an_export_that_cannot_be_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_options(environ, 0.1, 10)
    assert str(refused.value) == message


@pytest.mark.parametrize("name", ["opentelemetry.exporter.otlp.proto.none", "no_such_package.at.all"])
@pytest.mark.parametrize(
    "environ, why",
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://y"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER"),
    ],
)
def test_a_missing_exporter_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, name: str, environ: dict[str, str], why: str
) -> None:
    monkeypatch.setattr(tracing, "_EXPORTER", name)
    with pytest.raises(UsageError) as refused:
        read_options(environ, 0.1, 10)
    assert str(refused.value) == f"{why}: to export traces, install the exporter: pip install 'rocmforge[otel]'"


@pytest.mark.parametrize("ratio", ["0", "1", "1.0"])
def test_a_ratio_from_0_to_1_is_no_reason_for_a_warning(ratio: str, caplog: pytest.LogCaptureFixture) -> None:
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}
    assert read_options(environ, 0.3, 10) == TraceOptions(Sampling(float(ratio)), 10, False)
    assert caplog.text == ""


@pytest.fixture
def traced_engine() -> Iterator[tuple[Engine, Tracer, Counter[str]]]:
    """A real engine over a scripted program, and the calls of its observer."""
    tracer, calls = Tracer(ALL), Counter[str]()
    observe = tracer.observer("tiny")

    def counted(event: RequestEvent) -> None:
        calls[event.kind] += 1
        observe(event)

    with serving(ScriptedProgram(), observer=counted) as engine:
        yield engine, tracer, calls


def test_a_real_engine_is_traced_at_no_cost_for_a_token(
    traced_engine: tuple[Engine, Tracer, Counter[str]],
) -> None:
    engine, tracer, calls = traced_engine
    trace = tracer.begin(None)
    assert trace is not None
    token = CURRENT.set(trace)
    generations = engine.submit_all([GenerationRequest((3, 4, 5), tokens, SamplingParams()) for tokens in (2, 200)])
    CURRENT.reset(token)
    tracer.end(trace, HTTP)
    deadline = time.monotonic() + SECONDS
    while not tracer.ended() and time.monotonic() < deadline:
        time.sleep(0.01)
    [spans] = tracer.ended()
    counts = {(s.attributes or {})["request_id"]: (s.attributes or {})["token_count"] for s in spans[1::4]}
    assert counts == {generations[0].request_id: 2, generations[1].request_id: 200}
    assert calls == {QUEUED: 2, ADMITTED: 2, PREFILLED: 2, FIRST_TOKEN: 2, FINISHED: 2}


def test_an_engine_is_not_traced_outside_of_a_request(
    traced_engine: tuple[Engine, Tracer, Counter[str]], caplog: pytest.LogCaptureFixture
) -> None:
    engine, tracer, _ = traced_engine
    request = GenerationRequest((3, 4, 5), 2, SamplingParams())
    fresh = contextvars.Context()  # where no request has ever been, too
    for generation in (engine.submit(request), fresh.run(engine.submit, request)):
        for event in generation.events(SECONDS):
            assert event is not None
    assert tracer.ended() == []
    assert caplog.text == ""


def test_importing_the_server_does_not_load_the_sdk() -> None:
    code = "import sys, rocmforge.cli, rocmforge.runtime.serve; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
