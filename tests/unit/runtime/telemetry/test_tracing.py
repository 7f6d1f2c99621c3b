"""Traces: which requests, which spans, the ring; their JSON is read by the `opentelemetry-proto` package."""

from __future__ import annotations

import base64
import contextvars
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import falcon.testing
import pytest

from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.lifecycle import (
    ADMITTED,
    FINISHED,
    FIRST_TOKEN,
    PREFILLED,
    QUEUED,
    RequestEvent,
)
from rocmforge.runtime.telemetry.tracing import CURRENT, Sampling, TraceOptions, Tracer
from rocmforge.tests.support.engine_harness import ScriptedProgram, serving
from rocmforge.tests.support.traces import (
    ALL,
    HTTP,
    client_of,
    roots,
    spans_of,
    trace_once,
)

SECONDS = 60.0


@pytest.fixture
def client() -> falcon.testing.TestClient:
    """Of a server that traces everything."""
    return client_of(ALL)


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


@pytest.mark.slow
def test_importing_the_server_does_not_load_the_sdk() -> None:
    code = "import sys, rocmforge.cli, rocmforge.runtime.serve; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
