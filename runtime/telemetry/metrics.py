"""The counters, histograms and gauges of `/metrics`, in the Prometheus text format."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

from ..engine.drafts import LOOKUP, SOURCES
from ..engine.generation import (
    FINISH_CANCELLED,
    FINISH_EOS,
    FINISH_FAILED,
    FINISH_LENGTH,
    FINISH_STOP,
    DeviceStats,
    EngineStats,
)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # seconds
STEP_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds
SEQUENCE_BUCKETS: Final = tuple(2**power for power in range(9))  # 1 to 256
TOKEN_BUCKETS: Final = tuple(2**power for power in range(14))  # 1 to 8192
REASONS: Final = (FINISH_LENGTH, FINISH_STOP, FINISH_EOS, FINISH_CANCELLED, FINISH_FAILED)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER: Final = "other"


class Metrics:
    """What engine and server count. Thread-safe.

    Labels take values from small sets only: finish reasons, known methods, templates of our routes, status codes that
    we send. So the number of series does not grow with what clients ask.
    """

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
        self._add_of_engine()
        self._http = self._counter("http_requests", "Total number of HTTP requests", ("method", "route", "status"))

    def _add_of_engine(self) -> None:
        self._finished = self._counter("requests_finished", "Total number of inference requests ended", ("reason",))
        for reason in REASONS:  # all there from the first scrape on: a rate needs a zero to begin with
            self._finished.labels(reason)
        self._hits = self._counter("prefix_cache_hit_tokens", "Total number of prompt tokens found in the KV cache")
        self._preemptions = self._counter("preemptions", "Total number of times a request gave its KV pages to others")
        self._drafts = self._counter("draft_tokens", "Total number of next tokens guessed, to be checked")
        self._drafts_accepted = self._counter("draft_tokens_right", "Total number of guessed tokens that were right")
        self._proposed = self._counter("drafts_proposed", "Total number of tokens guessed, by who guessed", ("source",))
        self._accepted = self._counter("drafts_accepted", "Total number of these that were right", ("source",))
        for source in SOURCES:
            self._proposed.labels(source)
            self._accepted.labels(source)
        self._pages = self._gauge("kv_pages", "Pages of the KV cache")
        self._pages_used = self._gauge("kv_pages_used", "Pages of the KV cache that requests hold")
        self._pages_cached = self._gauge(
            "kv_pages_cached", "Pages of the KV cache known for their content, held or not"
        )
        self._graphs = self._gauge("gpu_graphs", "Whether decode steps are replayed as HIP graphs")
        self._mismatches = self._gauge("gpu_graph_mismatches", "Steps that a graph got wrong, and that were done again")
        self._slots = self._gauge("state_slots", "Slots of recurrent state")
        self._slots_used = self._gauge("state_slots_used", "Slots of recurrent state that requests hold")
        self._slots_cached = self._gauge("state_slots_cached", "Slots of recurrent state that are snapshots")
        self._host_weights = self._gauge("gpu_host_weight_bytes", "Bytes of weights in the host's memory")
        self._step = self._histogram(
            "step_duration_seconds", "Duration of a step of the device in seconds", STEP_BUCKETS
        )
        self._step_sequences = self._histogram("step_sequences", "Sequences in a step (batch size)", SEQUENCE_BUCKETS)
        self._step_tokens = self._histogram("step_tokens", "Tokens computed in a step", TOKEN_BUCKETS)

    def _counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"rocmforge_{name}", help_text, labels, registry=self._registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"rocmforge_{name}", help_text, registry=self._registry)

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float] = BUCKETS) -> Histogram:
        return Histogram(f"rocmforge_{name}", help_text, registry=self._registry, buckets=buckets)

    def request_started(self) -> None:
        """A request was queued."""
        self._started.inc()

    def request_finished(self, reason: str) -> None:
        """A request ended, for one of the reasons in `generation`."""
        counter = {FINISH_FAILED: self._failed, FINISH_CANCELLED: self._cancelled}.get(reason, self._completed)
        counter.inc()
        self._finished.labels(reason if reason in REASONS else OTHER).inc()

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

    def observe_step(self, seconds: float, sequences: int, tokens: int) -> None:
        """A step of the device computed so many tokens of so many sequences."""
        self._step.observe(seconds)
        self._step_sequences.observe(sequences)
        self._step_tokens.observe(tokens)

    def prefix_hit(self, tokens: int) -> None:
        """So many tokens lay in the cache already, and were not computed."""
        self._hits.inc(tokens)

    def preempted(self) -> None:
        """A request gave its pages to others."""
        self._preemptions.inc()

    def drafts_judged(self, drafts: int, accepted: int, source: str = LOOKUP) -> None:
        """So many of a request's drafts, of one of `drafts.SOURCES`, were accepted."""
        self._drafts.inc(drafts)
        self._drafts_accepted.inc(accepted)
        self._proposed.labels(source).inc(drafts)
        self._accepted.labels(source).inc(accepted)

    def http_answered(self, method: str, route: str | None, status: int) -> None:
        """An HTTP request was answered.

        Args:
            method: as the client wrote it.
            route: template of the route; None where no route has that path.
            status: of the answer.
        """
        self._http.labels(method if method in METHODS else OTHER, route or OTHER, str(status)).inc()

    def render(self, stats: EngineStats) -> bytes:
        """Return the scrape: all counts, and the gauges as `stats` says.

        Source: Prometheus text exposition format 0.0.4. Written here because prometheus-client adds
        `_created` series and spells whole numbers as floats, in bucket bounds too.
        """
        self._queue_length.set(stats.queued)
        self._active.set(stats.active)
        self._rate.set(stats.tokens_per_second)
        self._pages.set(stats.pages_total)
        self._pages_used.set(stats.pages_used)
        self._pages_cached.set(stats.pages_cached)
        self._slots.set(stats.state_slots_total)
        self._slots_used.set(stats.state_slots_used)
        self._slots_cached.set(stats.state_slots_cached)
        self._graphs.set(stats.graphs == "on")
        self._mismatches.set(stats.graph_mismatches)
        self._host_weights.set(stats.host_weight_bytes)
        families = [*self._registry.collect(), *_of_devices(stats.devices)]
        return "\n".join(_family(metric) for metric in families).encode()


def _of_devices(devices: Sequence[DeviceStats]) -> list[Metric]:
    """Of each device whose engines have processes of their own; those of several models on one are added."""
    names = sorted({one.device for one in devices})
    families: list[Metric] = []
    for name, (help_text, kind, figure) in _DEVICE_FIGURES.items():
        family = kind(f"rocmforge_{name}", help_text, labels=["device"])
        for device in names:
            family.add_metric([device], float(figure([one for one in devices if one.device == device])))
        families += [family] if names else []
    return families


_DEVICE_FIGURES: Final[Mapping[str, tuple[str, Any, Callable[[Sequence[DeviceStats]], float]]]] = {
    "device_available": (
        "Whether all engines of a device serve",
        GaugeMetricFamily,
        lambda some: all(one.running for one in some),
    ),
    "device_active_requests": (
        "Current number of active requests of a device",
        GaugeMetricFamily,
        lambda some: sum(one.active for one in some),
    ),
    "device_queue_length": (
        "Current number of requests in queue of a device",
        GaugeMetricFamily,
        lambda some: sum(one.queued for one in some),
    ),
    "device_kv_pages": (
        "Pages of the KV cache of a device",
        GaugeMetricFamily,
        lambda some: sum(one.pages_total for one in some),
    ),
    "device_kv_pages_used": (
        "Pages of the KV cache of a device that requests hold",
        GaugeMetricFamily,
        lambda some: sum(one.pages_used for one in some),
    ),
    "device_tokens_per_second": (
        "Tokens generated per second by a device",
        GaugeMetricFamily,
        lambda some: sum(one.tokens_per_second for one in some),
    ),
    "device_memory_free_bytes": (
        "Free memory of a device in bytes",
        GaugeMetricFamily,
        lambda some: max(one.memory_free_bytes for one in some),
    ),
    "worker_restarts": (
        "Total number of times the process of a device's engine was started again",
        CounterMetricFamily,
        lambda some: sum(one.restarts for one in some),
    ),
}


def _family(metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    lines = [f"# HELP {name} {metric.documentation}", f"# TYPE {name} {metric.type}"]
    lines += [_sample(sample) for sample in metric.samples if not sample.name.endswith("_created")]
    return "\n".join(lines) + "\n"


def _sample(sample: Sample) -> str:
    labels = ",".join(f'{name}="{_label_value(name, value)}"' for name, value in sample.labels.items())
    return f"{sample.name}{{{labels}}} {_number(sample.value)}" if labels else f"{sample.name} {_number(sample.value)}"


def _label_value(name: str, value: str) -> str:
    if name == "le":
        return _number(float(value))
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf"
    return str(int(value)) if value.is_integer() else repr(value)
