"""Spans of ended traces, by OpenTelemetry's SDK, and their JSON. It loads the SDK: import it when it is needed."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from ... import __version__
from ..engine.generation import FINISH_CANCELLED, FINISH_FAILED
from .trace_records import GenerationRecord, HttpRecord, Trace

SCOPE: Final = "rocmforge.engine"
SERVICE: Final = "rocmforge"


class SpanMaker:
    """Makes spans. Not thread-safe."""

    def __init__(self, export: bool) -> None:
        """Args: whether to send what is made to a collector, as OTEL_EXPORTER_OTLP_* say."""
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own = {SERVICE_VERSION: __version__} if named else {SERVICE_NAME: SERVICE, SERVICE_VERSION: __version__}
        resource = Resource.create(own)
        found = resource.attributes
        self.resource: Mapping[str, object] = {SERVICE_NAME: found[SERVICE_NAME], **found}  # the name first
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        if export:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra

            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SCOPE, __version__)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def make(self, trace: Trace) -> tuple[ReadableSpan, ...]:
        """Spans of a trace that has ended: the HTTP request, then each generation, followed by its phases."""
        epoch = time.time_ns() - time.monotonic_ns()

        def nanoseconds(at: float) -> int:
            return epoch + round(at * 1e9)

        spans: list[Span] = []

        def span(
            name: str,
            parent: Context | None,
            times: tuple[float, float],
            attributes: Mapping[str, str | int | Sequence[str]] | None = None,
            kind: SpanKind = SpanKind.INTERNAL,
            status: Status | None = None,
        ) -> Context:
            made = self._tracer.start_span(
                name, parent or Context(), kind, attributes, start_time=nanoseconds(times[0])
            )
            assert isinstance(made, Span)  # the sampler says yes
            if status is not None:
                made.set_status(status)
            made.end(nanoseconds(times[1]))
            spans.append(made)
            return api.set_span_in_context(made, Context())

        http = trace.http
        assert http is not None  # it has ended
        failed = Status(StatusCode.ERROR) if http.status >= 500 else None
        root = span(
            f"{http.method} {http.route}",
            _remote(trace),
            (trace.began_at, trace.ended_at),
            _of_http(http),
            SpanKind.SERVER,
            failed,
        )
        for record in trace.generations:
            end = record.finished_at
            whole = span(
                "inference_request", root, (record.queued_at, end), _of(record), SpanKind.SERVER, _status(record)
            )
            admitted, first = record.admitted_at, record.first_token_at
            span("queue", whole, (record.queued_at, end if admitted is None else admitted))
            if admitted is not None:
                span("prefill", whole, (admitted, end if first is None else first))
            if first is not None:
                span("decode", whole, (first, end))
        return tuple(spans)


def _remote(trace: Trace) -> Context | None:
    parent = trace.parent
    if parent is None:
        return None
    flags = TraceFlags(TraceFlags.SAMPLED)
    remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
    return api.set_span_in_context(api.NonRecordingSpan(remote), Context())


def _of_http(http: HttpRecord) -> dict[str, str | int | Sequence[str]]:
    """Source: OpenTelemetry's semantic conventions for HTTP spans."""
    return {
        "http.request.method": http.method,
        "http.route": http.route,
        "url.path": http.path,
        "http.response.status_code": http.status,
        "http.request.header.x-request-id": [http.request_id],
    }


def _of(record: GenerationRecord) -> dict[str, str | int | Sequence[str]]:
    """The seed's two names, then those of OpenTelemetry's conventions for generative AI, then our own."""
    return {
        "request_id": record.request_id,
        "token_count": record.output_tokens,
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.response.finish_reasons": [record.reason or FINISH_FAILED],
        "rocmforge.prefix_hit_tokens": record.prefix_hit_tokens,
        "rocmforge.preemptions": record.preemptions,
    }


def _status(record: GenerationRecord) -> Status | None:
    if (record.reason or FINISH_FAILED) == FINISH_FAILED:
        return Status(StatusCode.ERROR)
    return None if record.reason == FINISH_CANCELLED else Status(StatusCode.OK)


def otlp_document(resource: Mapping[str, object], traces: Iterable[Iterable[ReadableSpan]]) -> dict[str, object]:
    """OTLP JSON: ids in hex, 64-bit numbers as text. Source: OTLP specification 1.x, "JSON Protobuf Encoding"."""
    spans = [_otlp_span(span) for trace in traces for span in trace]
    scope_spans = [{"scope": {"name": SCOPE, "version": __version__}, "spans": spans}]
    return {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": scope_spans}]}


def seed_document(resource: Mapping[str, object], traces: Iterable[Iterable[ReadableSpan]]) -> dict[str, object]:
    """The shape of ROCmForge's documentation 0.1.0: snake case, ids in base64, times as numbers."""
    spans = [_seed_span(span) for trace in traces for span in trace]
    scope_spans = [{"scope": {"name": SCOPE}, "spans": spans}]
    return {"resource_spans": [{"resource": {"attributes": _attributes(resource)}, "scope_spans": scope_spans}]}


def _otlp_span(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context()
    assert context is not None
    document: dict[str, object] = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "name": span.name,
        "kind": span.kind.value + 1,  # OTLP counts from 1, the API from 0
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": span.status.status_code.value},
    }
    if span.parent is not None:
        document["parentSpanId"] = f"{span.parent.span_id:016x}"
    return document


def _seed_span(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context()
    assert context is not None
    return {
        "trace_id": _base64(context.trace_id, 16),
        "span_id": _base64(context.span_id, 8),
        "parent_span_id": "" if span.parent is None else _base64(span.parent.span_id, 8),
        "name": span.name,
        "kind": span.kind.value + 1,
        "start_time_unix_nano": span.start_time,
        "end_time_unix_nano": span.end_time,
        "attributes": _attributes(span.attributes or {}),
        "status": {"status": span.status.status_code.value},
    }


def _base64(number: int, n_bytes: int) -> str:
    return base64.b64encode(number.to_bytes(n_bytes, "big")).decode("ascii")


def _attributes(attributes: Mapping[str, object]) -> list[dict[str, object]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: object) -> dict[str, object]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    return {"stringValue": str(value)}
