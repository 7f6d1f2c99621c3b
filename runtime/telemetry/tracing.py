"""Traces: which requests are traced, what is noted of them, and the ring of those that have ended.

While a request runs, a few numbers are noted and nothing else; `spans` makes OpenTelemetry spans of them, later and on
another thread. No cost falls on a token, and the SDK is loaded when somebody asks for traces, not when serving begins.
"""

from __future__ import annotations

import importlib.util
import logging
import random
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import UsageError, printable
from ..engine.lifecycle import FINISHED, QUEUED, Observer, RequestEvent
from .trace_records import GenerationRecord, HttpRecord, Parent, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from .spans import SpanMaker

log = logging.getLogger(__name__)

SAMPLE_RATE: Final = 0.1  # of requests that are traced
MAX_TRACES: Final = 1000
CLOSE_SECONDS: Final = 5.0  # for the last export
# Source: W3C Trace Context, level 1: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which requests are traced: a part of them, and where `by_parent`, what the caller has decided for its own."""

    ratio: float
    by_parent: bool = True


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """Attributes:
    sampling: which requests are traced.
    max_traces: how many ended ones are kept; the oldest goes first.
    export: whether they also go to a collector.
    """

    sampling: Sampling = Sampling(SAMPLE_RATE)
    max_traces: int = MAX_TRACES
    export: bool = False


UNTRACED: Final = TraceOptions(Sampling(0.0, by_parent=False), 0)


def read_options(environ: Mapping[str, str], sample_rate: float, max_traces: int) -> TraceOptions:
    """What OpenTelemetry's standard variables say; where they say nothing, the arguments hold.

    Source: OpenTelemetry's specification of SDK environment variables, and of the OTLP exporter's.

    Raises:
        UsageError: export is asked for, and cannot be had.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return UNTRACED
    return TraceOptions(_read_sampling(environ, sample_rate), max_traces, _read_export(environ))


def _read_sampling(environ: Mapping[str, str], sample_rate: float) -> Sampling:
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if not name:
        return Sampling(sample_rate)
    by_parent, kind = name.startswith("parentbased_"), name.removeprefix("parentbased_")
    ratio = {"always_on": 1.0, "always_off": 0.0}.get(kind)
    if kind == "traceidratio":
        ratio = _read_ratio(environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1")
    if ratio is None:
        log.warning("OTEL_TRACES_SAMPLER: %s is not known here, and ignored", printable(name, 60))
        return Sampling(sample_rate)
    return Sampling(ratio, by_parent)


def _read_ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if 0.0 <= ratio <= 1.0:
        return ratio
    log.warning("OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1, found %s; 1 is used", printable(text, 60))
    return 1.0


def _read_export(environ: Mapping[str, str]) -> bool:
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoint = next(
        (n for n in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") if environ.get(n)), None
    )
    if exporter == "none" or not (exporter or endpoint):
        return False
    if exporter not in {"", "otlp"}:
        raise UsageError(f"OTEL_TRACES_EXPORTER: expected otlp or none, found {printable(exporter, 60)}")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environ.get(name, "")
        if protocol not in {"", "http/protobuf"}:
            raise UsageError(f"{name}: expected http/protobuf, found {printable(protocol, 60)}")
    try:
        found = importlib.util.find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        why = endpoint or "OTEL_TRACES_EXPORTER"
        raise UsageError(f"{why}: to export traces, install the exporter: pip install 'rocmforge[otel]'")
    return True


def read_traceparent(header: str | None) -> Parent | None:
    """Return what a `traceparent` header says, None where it is absent or wrong."""
    found = _TRACEPARENT.fullmatch(header.strip()) if header and len(header) <= 512 else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return Parent(trace_id, span_id, bool(int(found[4], 16) & 1)) if trace_id and span_id else None


CURRENT: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the HTTP request that this thread serves."""


class Tracer:
    """Traces of a server. Thread-safe."""

    def __init__(self, options: TraceOptions = TraceOptions()) -> None:  # noqa: B008 (frozen)
        self._options = options
        self._lock = threading.Lock()
        self._ended: deque[Trace] = deque(maxlen=options.max_traces)
        self._making = threading.Lock()
        self._maker: SpanMaker | None = None
        self._exports: SimpleQueue[Trace | None] = SimpleQueue()
        self._exporter: threading.Thread | None = None

    def begin(self, traceparent: str | None) -> Trace | None:
        """Decide whether an HTTP request that has just come is traced; None: it is not."""
        sampling = self._options.sampling
        parent = read_traceparent(traceparent)
        if sampling.by_parent and parent is not None:
            sampled = parent.sampled
        elif parent is not None:  # by its id, so that all servers of a trace decide alike
            sampled = parent.trace_id & (2**64 - 1) < round(sampling.ratio * 2**64)
        else:
            sampled = random.random() < sampling.ratio
        return Trace(parent, time.monotonic()) if sampled else None

    def end(self, trace: Trace, http: HttpRecord) -> None:
        """Its answer has been sent. What generated nothing is not kept."""
        trace.http, trace.ended_at = http, time.monotonic()
        if trace.generations:
            self._close_one(trace)

    def observer(self, model: str) -> Observer:
        """Who is to be told the events of one engine, which runs `model`."""
        live: dict[int, tuple[GenerationRecord, Trace]] = {}

        def observe(event: RequestEvent) -> None:
            if event.kind == QUEUED:  # on the thread that serves the HTTP request
                trace = CURRENT.get()
                if trace is not None:
                    record = GenerationRecord(model, event.request_id, event.tokens, event.at)
                    live[event.request_id] = record, trace
                    with self._lock:
                        trace.generations.append(record)
                        trace.open += 1
                return
            found = live.get(event.request_id)
            if found is not None:
                found[0].take(event)
                if event.kind == FINISHED:
                    del live[event.request_id]
                    self._close_one(found[1])

        return observe

    def _close_one(self, trace: Trace) -> None:
        with self._lock:
            trace.open -= 1
            if trace.open:
                return
            self._ended.append(trace)
            if self._options.export:
                self._exports.put(trace)
                if self._exporter is None:
                    self._exporter = threading.Thread(target=self._export, name="traces", daemon=True)
                    self._exporter.start()

    def ended(self, limit: int | None = None, clear: bool = False) -> list[tuple[ReadableSpan, ...]]:
        """Spans of the last `limit` traces that have ended, the oldest first; `clear`: forget these."""
        with self._lock:
            traces = list(self._ended)
            if limit is not None:
                traces = traces[len(traces) - min(limit, len(traces)) :]
            if clear:
                for _ in traces:
                    self._ended.pop()
        return [self._spans(trace) for trace in traces]

    def resource(self) -> Mapping[str, object]:
        """Attributes of this server as a source of traces."""
        with self._making:
            return self._make_maker().resource

    def _spans(self, trace: Trace) -> tuple[ReadableSpan, ...]:
        with self._making:
            if trace.spans is None:
                trace.spans = self._make_maker().make(trace)
            return trace.spans

    def _make_maker(self) -> SpanMaker:
        if self._maker is None:
            from .spans import SpanMaker  # noqa: PLC0415 - loads the SDK: a tenth of a second

            self._maker = SpanMaker(self._options.export)
        return self._maker

    def _export(self) -> None:
        """The exporting thread: spans are made here, and the SDK sends them in batches from a thread of its own."""
        while (trace := self._exports.get()) is not None:
            try:
                self._spans(trace)
            except Exception:  # one that cannot be made must not end the others
                log.exception("a trace could not be exported")
        with self._making:
            self._make_maker().close()

    def close(self) -> None:
        """Send what is left to the collector, if there is one."""
        if self._exporter is not None:
            self._exports.put(None)
            self._exporter.join(CLOSE_SECONDS)
