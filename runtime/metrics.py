"""The counters, histograms and gauges of `/metrics`, in the Prometheus text format."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from .generation import FINISH_CANCELLED, FINISH_FAILED, EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # seconds


class Metrics:
    """What the engine counts. Thread-safe; no metric has labels, so their number never grows."""

    def __init__(self) -> None:
        """Start all counts at zero, in a registry of their own."""
        self._registry = CollectorRegistry()
        self._started = self._counter("requests_started", "Total number of inference requests started")
        self._completed = self._counter("requests_completed", "Total number of inference requests completed")
        self._failed = self._counter("requests_failed", "Total number of inference requests failed")
        self._cancelled = self._counter("requests_cancelled", "Total number of inference requests cancelled")
        self._tokens = self._counter("tokens_generated", "Total number of tokens generated")
        self._prefill = self._histogram("prefill_duration_seconds", "Prefill phase duration in seconds")
        self._decode = self._histogram("decode_duration_seconds", "Decode phase duration in seconds")
        self._total = self._histogram("total_duration_seconds", "Total inference duration in seconds")
        self._queue_length = self._gauge("queue_length", "Current number of requests in queue")
        self._active = self._gauge("active_requests", "Current number of active requests")
        self._ttft = self._histogram("ttft_seconds", "Time to first token in seconds")
        self._rate = self._gauge("tokens_per_second", "Tokens generated per second")

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(f"rocmforge_{name}", help_text, registry=self._registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"rocmforge_{name}", help_text, registry=self._registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"rocmforge_{name}", help_text, registry=self._registry, buckets=BUCKETS)

    def request_started(self) -> None:
        """A request was queued."""
        self._started.inc()

    def request_finished(self, reason: str) -> None:
        """A request ended, for one of the reasons in `generation`."""
        counter = {FINISH_FAILED: self._failed, FINISH_CANCELLED: self._cancelled}.get(reason, self._completed)
        counter.inc()

    def tokens_generated(self, count: int) -> None:
        """So many tokens were generated."""
        self._tokens.inc(count)

    def observe_prefill(self, seconds: float) -> None:
        """From admission to the first token."""
        self._prefill.observe(seconds)

    def observe_decode(self, seconds: float) -> None:
        """From the first token to the last."""
        self._decode.observe(seconds)

    def observe_total(self, seconds: float) -> None:
        """From submission to the end."""
        self._total.observe(seconds)

    def observe_ttft(self, seconds: float) -> None:
        """From submission to the first token."""
        self._ttft.observe(seconds)

    def render(self, stats: EngineStats) -> bytes:
        """Return the scrape: all counts, and the gauges as `stats` says.

        Source: Prometheus text exposition format 0.0.4. Written here because prometheus-client adds
        `_created` series and spells whole numbers as floats, in bucket bounds too.
        """
        self._queue_length.set(stats.queued)
        self._active.set(stats.active)
        self._rate.set(stats.tokens_per_second)
        return "\n".join(_family(metric) for metric in self._registry.collect()).encode()


def _family(metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    lines = [f"# HELP {name} {metric.documentation}", f"# TYPE {name} {metric.type}"]
    lines += [_sample(sample) for sample in metric.samples if not sample.name.endswith("_created")]
    return "\n".join(lines) + "\n"


def _sample(sample: Sample) -> str:
    bound = sample.labels.get("le")
    labels = "" if bound is None else f'{{le="{_number(float(bound))}"}}'
    return f"{sample.name}{labels} {_number(sample.value)}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf"
    return str(int(value)) if value.is_integer() else repr(value)
