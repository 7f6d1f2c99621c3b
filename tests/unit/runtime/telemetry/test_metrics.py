"""`/metrics`, as prometheus-client and promtool read it. By a real Prometheus: e2e/test_observability.py."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import time
from pathlib import Path

import falcon.testing
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rocmforge.runtime.engine.generation import DeviceStats, EngineStats, GenerationRequest, SamplingParams
from rocmforge.runtime.telemetry.metrics import METHODS, REASONS, Metrics
from rocmforge.tests.support.engine_harness import ScriptedProgram, serving
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

ROOT = Path(__file__).parents[4]
IDLE = EngineStats(True, 0, 0, 3, 64, 0, 0.0, True, 0, 0, pages_cached=9)
DEVICES = (
    DeviceStats("hip:0", 2, True, None, 3, 1, 10, 64, 7.5, 1000, 4000),
    DeviceStats("hip:1", 0, False, "lost", 0, 0, 0, 0, 0.0, 0, 0),
    DeviceStats("hip:0", 1, True, None, 1, 0, 5, 32, 0.5, 900, 4000),  # of another model
)
WORKING = dataclasses.replace(IDLE, devices=DEVICES)
PATIENCE_SECONDS = 60.0
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def values(metrics: Metrics, stats: EngineStats = IDLE) -> dict[tuple[str, str], float]:
    """Each sample by its name and its labels' values."""
    families = text_string_to_metric_families(metrics.render(stats).decode())
    return {(s.name, " ".join(s.labels.values())): s.value for family in families for s in family.samples}


def filled() -> Metrics:
    metrics = Metrics()
    for number, reason in enumerate(REASONS):
        metrics.request_started()
        metrics.request_finished(reason)
        metrics.observe_step(0.004 * number, number + 1, 100 * number + 1)
    metrics.tokens_generated(7)
    metrics.observe_ttft(0.05)
    metrics.observe_prefill(0.05)
    metrics.observe_decode(0.5)
    metrics.observe_total(0.6)
    metrics.prefix_hit(48)
    metrics.preempted()
    metrics.drafts_judged(7, 5)
    metrics.drafts_judged(3, 0, "model")
    metrics.http_answered("GET", "/status/{request_id}", 200)
    metrics.http_answered("GET", None, 404)
    metrics.http_answered('FORGED"} 1\nrocmforge_x{a="', None, 405)
    return metrics


def test_what_the_engine_and_the_server_tell_is_counted() -> None:
    found = values(filled())
    for reason in REASONS:
        assert found["rocmforge_requests_finished_total", reason] == 1
    assert found["rocmforge_requests_completed_total", ""] == 3
    assert found["rocmforge_prefix_cache_hit_tokens_total", ""] == 48
    assert found["rocmforge_preemptions_total", ""] == 1
    assert found["rocmforge_draft_tokens_total", ""] == 10
    assert found["rocmforge_draft_tokens_right_total", ""] == 5
    assert found["rocmforge_kv_pages", ""] == 64
    assert found["rocmforge_kv_pages_used", ""] == 3
    assert found["rocmforge_kv_pages_cached", ""] == 9
    assert found["rocmforge_step_duration_seconds_sum", ""] == pytest.approx(0.04)
    assert found["rocmforge_step_duration_seconds_bucket", "0.005"] == 2  # of 0, 4, 8, 12 and 16 ms
    assert found["rocmforge_step_sequences_sum", ""] == 15
    assert found["rocmforge_step_sequences_bucket", "2"] == 2
    assert found["rocmforge_step_tokens_bucket", "+Inf"] == 5
    assert found["rocmforge_step_tokens_bucket", "128"] == 2  # of 1, 101, 201, 301 and 401
    assert found["rocmforge_http_requests_total", "GET /status/{request_id} 200"] == 1
    assert found["rocmforge_http_requests_total", "other other 405"] == 1


def test_the_whole_scrape() -> None:
    """Names, order, texts, types, buckets and figures, as dashboards and alerts rely on them."""
    metrics = filled()
    metrics.request_finished("unheard of")
    metrics.observe_total(100.5)
    metrics.http_answered("PUT", 'a\\b\n"c"', 200)
    devices = (
        *DEVICES,
        DeviceStats("host", 1, True, None, 2, 3, 4, 5, 6.25, 7, 8),
        DeviceStats("host", 4, False, "lost", 20, 30, 40, 50, 60.0, 70, 80),
    )
    stats = EngineStats(
        *(True, 11, 12, 13, 14, 15, 16.5, True, 17, 18),
        pages_cached=19,
        graphs="on",
        graph_mismatches=20,
        host_weight_bytes=21,
        state_slots_used=22,
        state_slots_total=23,
        state_slots_cached=24,
        devices=devices,
    )
    assert metrics.render(stats).decode() == (ROOT / "tests" / "data" / "metrics.txt").read_text()


def test_all_finish_reasons_are_there_before_the_first_request() -> None:
    """A rate over a series that begins at 1 misses the first."""
    found = values(Metrics())
    assert {name for name in found if name[0] == "rocmforge_requests_finished_total"} == {
        ("rocmforge_requests_finished_total", reason) for reason in REASONS
    }


def test_the_engine_counts_steps_hits_and_preemptions() -> None:
    """A prompt of 40 tokens twice: steps of 32 and 8 tokens, then two of one; for the second, two pages are there."""
    metrics = Metrics()
    prompt = tuple(range(3, 43))
    with serving(ScriptedProgram(), metrics=metrics) as engine:  # type: ignore[arg-type]
        for _ in range(2):
            generation = engine.submit(GenerationRequest(prompt, 3, SamplingParams()))
            for event in generation.events(PATIENCE_SECONDS):
                assert event is not None
        # The step is counted after its last token was sent.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while values(metrics)["rocmforge_step_tokens_count", ""] < 7 and time.monotonic() < deadline:
            time.sleep(0.01)
    found = values(metrics)
    assert found["rocmforge_prefix_cache_hit_tokens_total", ""] == 32
    assert found["rocmforge_step_tokens_count", ""] == 4 + 3
    assert found["rocmforge_step_tokens_sum", ""] == 42 + 10
    assert found["rocmforge_step_sequences_sum", ""] == 7


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_F51_labels_take_values_from_small_sets_whatever_is_asked() -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine()))
    for method in ("GET", "FORGE", "PROPFIND", "x"):
        for path in ("/status/1", "/status/2", "/nowhere", "/nowhere/else", "/%0aforged"):
            client.simulate_request(method, path)
    text = client.simulate_get("/metrics").text
    labels = re.findall(r'^rocmforge_http_requests_total\{method="(.*)",route="(.*)",status="(\d+)"\}', text, re.M)
    assert {method for method, _, _ in labels} == {"GET", "other"}
    assert {route for _, route, _ in labels} <= {"/status/{request_id}", "other"}
    # Those of RFC 9110 that any program sends to a server like this, and PATCH of RFC 5789.
    assert {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} == METHODS


def test_every_request_is_counted_streams_and_refusals_too() -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine()))
    client.simulate_post("/generate", json={"prompt": "x"})
    client.simulate_post("/generate/stream", json={"prompt": "x"})
    client.simulate_post("/generate", json={"prompt": 5})
    client.simulate_head("/health")
    text = client.simulate_get("/metrics").text
    for line in (
        'method="POST",route="/generate",status="200"} 1',
        'method="POST",route="/generate/stream",status="200"} 1',
        'method="POST",route="/generate",status="400"} 1',
        'method="HEAD",route="/health",status="200"} 1',
    ):
        assert f"rocmforge_http_requests_total{{{line}\n" in text


@pytest.mark.parametrize("chunks", [0, 1])
def test_F55_a_stream_that_its_client_leaves_is_counted_once(chunks: int) -> None:
    app = make_app(FakeEngine(token_seconds=PATIENCE_SECONDS))
    body = b'{"prompt": "x"}'
    environ = falcon.testing.create_environ("/generate/stream", method="POST", body=body)
    stream = app(environ, falcon.testing.StartResponseMock())
    for _ in range(chunks):
        assert next(iter(stream))
    client, line = (
        falcon.testing.TestClient(app),
        'rocmforge_http_requests_total{method="POST",route="/generate/stream"',
    )
    assert line not in client.simulate_get("/metrics").text  # not before its answer has ended
    for _ in range(2):  # whoever closes, again is harmless
        stream.close()  # type: ignore[attr-defined]
    assert f'{line},status="200"}} 1\n' in client.simulate_get("/metrics").text


def test_figures_of_devices_that_have_workers() -> None:
    found = values(Metrics(), WORKING)
    assert {name[0].removeprefix("rocmforge_"): value for name, value in found.items() if name[1] == "hip:0"} == {
        "device_available": 1,
        "device_active_requests": 4,
        "device_queue_length": 1,
        "device_kv_pages": 96,
        "device_kv_pages_used": 15,
        "device_tokens_per_second": 8,
        "device_memory_free_bytes": 1000,
        "worker_restarts_total": 3,
    }
    assert found["rocmforge_device_available", "hip:1"] == 0
    assert not any("device" in name for name, _ in values(Metrics()))


def documented() -> dict[str, tuple[str, str]]:
    """Type and labels of each metric in the table of docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(rocmforge_\w+)` \| (\w+) \|([^|]*)\|", text, re.M)
    return {name: (kind, labels.strip()) for name, kind, labels in rows}


def test_the_table_in_the_documentation_names_all_metrics() -> None:
    families = text_string_to_metric_families(filled().render(WORKING).decode())
    served = {}
    for family in families:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = [f"`{label}`" for label in family.samples[0].labels if label != "le"]
        served[name] = family.type, ", ".join(labels)
    assert documented() == served


@needs_promtool
def test_promtool_has_nothing_to_say() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=filled().render(WORKING), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
