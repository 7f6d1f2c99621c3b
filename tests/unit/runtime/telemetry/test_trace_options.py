"""Which requests are traced, and what callers and the standard variables say about it."""

from __future__ import annotations

import random

import falcon.testing
import pytest

from rocmforge.artifacts.errors import UsageError
from rocmforge.runtime.telemetry import tracing
from rocmforge.runtime.telemetry.trace_records import Parent
from rocmforge.runtime.telemetry.tracing import Sampling, TraceOptions, Tracer, read_options, read_traceparent
from rocmforge.tests.support.traces import ALL, PARENT_ID, TRACE_ID, client_of, roots


@pytest.fixture
def client() -> falcon.testing.TestClient:
    """Of a server that traces everything."""
    return client_of(ALL)


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
