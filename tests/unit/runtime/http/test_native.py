"""The native API, request by request of its documentation."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import re
from types import SimpleNamespace

import falcon.testing
import pytest

from rocmforge.runtime.engine.generation import GenerationState
from rocmforge.runtime.http.app import HttpLimits
from rocmforge.runtime.http.native import generate as native
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, make_app

NAMES = [
    "requests_started_total",
    "requests_completed_total",
    "requests_failed_total",
    "requests_cancelled_total",
    "tokens_generated_total",
    "prefill_duration_seconds",
    "decode_duration_seconds",
    "total_duration_seconds",
    "queue_length",
    "active_requests",
    "ttft_seconds",
    "tokens_per_second",
]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine))


def events(text: str) -> list[dict[str, object]]:
    return [json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: ")]


def test_generate_answers_the_documented_fields(client: falcon.testing.TestClient) -> None:
    body = {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0.7}
    result = client.simulate_post("/generate", body=json.dumps(body), headers={"Content-Type": "application/json"})
    assert result.status_code == 200
    assert result.json == {
        "request_id": 1,
        "text": " Paris, in",
        "tokens": [100, 101, 102],
        "finished": True,
        "finish_reason": "length",
    }


def test_generate_has_the_documented_defaults(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    # `curl -d` without a header says that it sends a form.
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.simulate_post("/generate", body='{"prompt": "é"}', headers=headers).json["finish_reason"] == "eos"
    request = engine.last.request
    assert request.prompt_token_ids == (256, 0xC3, 0xA9)
    sampling = request.sampling
    assert (request.max_tokens, sampling.temperature, sampling.top_k, sampling.top_p) == (100, 1.0, 50, 0.9)
    assert (request.stop, sampling.seed, sampling.min_p, sampling.repetition_penalty) == ((), None, 0.0, 1.0)


def test_generate_passes_all_parameters(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    body = {
        "prompt": "x",
        "max_tokens": 7,
        "temperature": 0,
        "top_k": 0,
        "top_p": 1,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": -2,
        "frequency_penalty": 2,
        "seed": -1,
        "stop": ["\n", "é"],
        "stream": True,
        "surprise": [1],
    }
    assert client.simulate_post("/generate", json=body).status_code == 200
    request = engine.last.request
    assert request.stop == ("\n", "é")
    assert request.sampling.seed == 2**64 - 1
    assert (request.sampling.min_p, request.sampling.frequency_penalty) == (0.1, 2.0)


def test_a_default_of_max_tokens_is_cut_to_the_context(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    assert client.simulate_post("/generate", json={"prompt": "x" * 100}).status_code == 200
    assert engine.last.request.max_tokens == 27


def test_generate_stream_sends_one_event_a_token_and_no_done(client: falcon.testing.TestClient) -> None:
    result = client.simulate_post("/generate/stream", json={"prompt": "x", "max_tokens": 2})
    assert result.headers["content-type"].startswith("text/event-stream")
    assert result.text.startswith(": ping\n\n")
    assert "[DONE]" not in result.text
    assert events(result.text) == [
        {"request_id": 1, "token": 100, "text": " Paris", "finished": False, "finish_reason": None},
        {"request_id": 1, "token": 101, "text": ",", "finished": True, "finish_reason": "length"},
    ]


def test_a_failure_is_a_500_or_the_last_event(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.fail_after = 1
    result = client.simulate_post("/generate", json={"prompt": "x"})
    assert (result.status_code, result.json) == (500, {"error": "the device is lost", "status": "error"})
    last = events(client.simulate_post("/generate/stream", json={"prompt": "x"}).text)[-1]
    assert last == {
        "request_id": 2,
        "token": None,
        "text": "",
        "finished": True,
        "finish_reason": "failed",
        "error": "the device is lost",
    }


def test_status_and_cancel(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    client.simulate_post("/generate", json={"prompt": "x"})
    status = client.simulate_get("/status/1/")
    assert (status.status_code, status.json["finish_reason"], status.json["tokens"][0]) == (200, "eos", 100)
    assert client.simulate_head("/status/1").status_code == 200
    assert client.simulate_post("/cancel/1").json == status.json
    engine.prefill_seconds = 60
    engine.submit(engine.last.request)
    assert client.simulate_get("/status/2").json == {
        "request_id": 2,
        "text": "",
        "tokens": [],
        "finished": False,
        "finish_reason": None,
    }
    cancelled = client.simulate_post("/cancel/2").json
    assert (cancelled["finished"], cancelled["finish_reason"]) == (True, "cancelled")


@pytest.mark.parametrize("ends_after, waited", [(0, 0.0), (3, 0.015), (None, 5.0)])
def test_a_cancel_waits_for_the_end_and_not_for_ever(
    ends_after: int | None, waited: float, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: `ends_after` so many looks, each 5 ms after the one before, within 5 s."""
    looks, slept = itertools.count(), [0.0]
    client = falcon.testing.TestClient(make_app(engine))
    client.simulate_post("/generate", json={"prompt": "x"})
    engine.prefill_seconds = 60
    generation = engine.submit(engine.last.request)
    state = generation.state()

    def seen() -> GenerationState:
        return dataclasses.replace(state, finished=ends_after is not None and next(looks) >= ends_after)

    def sleep(seconds: float) -> None:
        slept.append(slept[-1] + seconds)
        assert slept[-1] < 6.0

    monkeypatch.setattr(generation, "state", seen)
    monkeypatch.setattr(native, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: slept[-1]))
    answer = client.simulate_post("/cancel/2").json
    assert answer["finished"] == (ends_after is not None)
    assert slept[-1] == pytest.approx(waited, abs=0.006)
    generation.cancel()


@pytest.mark.parametrize("request_id", ["7", "0", "-1", "abc", "1e3", "٣", "9" * 5000, "1%0a"])
@pytest.mark.parametrize("method, path", [("GET", "/status/"), ("POST", "/cancel/")])
def test_unknown_requests_are_404(client: falcon.testing.TestClient, method: str, path: str, request_id: str) -> None:
    result = client.simulate_request(method, path + request_id)
    assert result.status_code == 404
    assert set(result.json) == {"error", "status"}
    assert result.json["status"] == "error"
    assert "\n" not in result.json["error"]


def test_models_has_native_fields_and_a_list(client: falcon.testing.TestClient) -> None:
    for _ in range(3):
        client.simulate_post("/generate", json={"prompt": "again"})
    document = client.simulate_get("/models").json
    assert document["models"] == [
        {
            "path": "/models/tiny.rfb",
            "size": 4096,
            "metadata": MODEL.metadata,
        }
    ]
    assert document["tokenizer_cache"] == {"hits": 2, "misses": 1, "bytes": 5 + 36 * 6}
    assert document["object"] == "list"
    assert document["data"][0]["id"] == "org/tiny:q4"


def test_health(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    assert client.simulate_get("/health").json == {
        "status": "healthy",
        "service": "rocmforge",
        "version": "0.1.0",
        "checks": {
            "engine": {"running": True, "model_loaded": True},
            "gpu": {
                "available": True,
                "memory": {
                    "free_bytes": 12884901888,
                    "total_bytes": 17179869184,
                    "free_mb": 12288,
                    "total_mb": 16384,
                    "used_mb": 4096,
                    "utilization_percent": 25,
                },
            },
            "requests": {"active": 2, "queued": 1},
            "cache": {"pages_used": 128, "pages_total": 1000, "pages_free": 872, "active_sequences": 2},
        },
    }
    cache = client.simulate_get("/health").json["checks"]["cache"]
    engine.slots = (3, 42, 20)
    slots = {"state_slots_used": 3, "state_slots_total": 42, "state_slots_cached": 20}
    assert client.simulate_get("/health").json["checks"]["cache"] == cache | slots
    engine.running = False
    unhealthy = client.simulate_get("/health").json
    assert unhealthy["status"] == "unhealthy"
    assert unhealthy["checks"] == {
        "engine": {"running": False, "model_loaded": False},
        "gpu": {"available": False},
    }


def test_ready(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    assert client.simulate_get("/ready").json == {"ready": True, "service": "rocmforge"}
    engine.running = False
    result = client.simulate_get("/ready")
    assert (result.status_code, result.text) == (503, '{"error":"Service Unavailable","status":"error"}')


def test_metrics_have_the_documented_names(client: falcon.testing.TestClient) -> None:
    result = client.simulate_get("/metrics")
    assert result.headers["content-type"].startswith("text/plain")
    found = re.findall(r"^# TYPE rocmforge_(\w+) (?:counter|histogram|gauge)$", result.text, re.M)
    assert found[: len(NAMES)] == NAMES  # then those that only this project has
    assert "_created" not in result.text
    assert "\nrocmforge_queue_length 1\n" in result.text
    assert "\nrocmforge_tokens_per_second 32.5\n" in result.text


def test_metrics_read_as_documented() -> None:
    metrics = Metrics()
    for reason in ("length", "eos", "stop", "cancelled", "failed"):
        metrics.request_started()
        metrics.request_finished(reason)
    metrics.tokens_generated(15234)
    metrics.observe_ttft(0.05)
    metrics.observe_prefill(0.05)
    metrics.observe_decode(2.0)
    metrics.observe_total(500.0)
    text = metrics.render(FakeEngine().stats()).decode()
    assert "rocmforge_requests_started_total 5\n" in text
    assert "rocmforge_requests_completed_total 3\n" in text
    assert "rocmforge_requests_failed_total 1\n" in text
    assert "rocmforge_requests_cancelled_total 1\n" in text
    assert "# HELP rocmforge_tokens_generated_total Total number of tokens generated\n" in text
    bounds = re.findall(r'rocmforge_ttft_seconds_bucket{le="([^"]+)"} (\d)', text)
    assert bounds == [
        ("0.001", "0"),
        ("0.01", "0"),
        ("0.1", "1"),
        ("1", "1"),
        ("10", "1"),
        ("100", "1"),
        ("+Inf", "1"),
    ]
    assert 'rocmforge_total_duration_seconds_bucket{le="100"} 0\n' in text
    assert "rocmforge_total_duration_seconds_sum 500\n" in text
    assert "rocmforge_total_duration_seconds_count 1\n" in text


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/models", "/metrics", "/v1/models"])
def test_head_answers_as_get_without_a_body(client: falcon.testing.TestClient, path: str) -> None:
    result = client.simulate_head(path)
    assert (result.status_code, result.content) == (200, b"")


def test_cors_is_open(client: falcon.testing.TestClient) -> None:
    headers = {
        "Origin": "http://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    result = client.simulate_options("/generate", headers=headers)
    assert result.headers["access-control-allow-origin"] == "*"
    assert "POST" in result.headers["access-control-allow-methods"]
    assert result.headers["access-control-allow-headers"] == "content-type"


def test_F56_a_full_queue_is_a_503_to_be_retried(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.busy = True
    result = client.simulate_post("/generate", json={"prompt": "x"})
    assert (result.status_code, result.headers["retry-after"]) == (503, "1")
    assert result.json == {"error": "the queue is full", "status": "error"}
    engine.busy = False
    assert client.simulate_post("/generate", json={"prompt": "x"}).status_code == 200


def test_F56_slots_come_back_whatever_happens(engine: FakeEngine) -> None:
    app = make_app(engine, HttpLimits(max_streams=1, spare_threads=1))
    client = falcon.testing.TestClient(app)
    client.simulate_post("/generate", json={"prompt": "x" * 1000})
    client.simulate_post("/generate/stream", json={"prompt": "x"})
    engine.broken = True
    client.simulate_post("/generate", json={"prompt": "x"})
    assert app.admission.active == 0


def test_an_unexpected_error_keeps_its_text_inside(
    client: falcon.testing.TestClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.broken = True
    result = client.simulate_post("/generate", json={"prompt": "x"})
    assert (result.status_code, result.json) == (500, {"error": "internal server error", "status": "error"})
    assert "a secret" in caplog.text


def test_F57_the_access_log_is_not_to_be_forged(
    client: falcon.testing.TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="rocmforge.access"):
        client.simulate_get("/x%0d%0aforged 200")
    assert [r.getMessage().split(" 404 ")[0] for r in caplog.records] == ["GET /x\\r\\nforged 200"]
