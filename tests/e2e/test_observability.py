"""What an operator sees of `rfc serve`: Prometheus scrapes it, a collector gets its traces, its log goes to a file."""

from __future__ import annotations

import http.server
import json
import math
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from rocmforge.tests.support.process import (
    COMMAND,
    PATIENCE_SECONDS,
    Server,
    environment,
    refused,
    rfc,
    serving,
    wait_until,
)

ROOT = Path(__file__).parents[2]
# The lines of seed 001, "Grafana Dashboard Example", as printed.
PROMQL = {
    "success rate": "sum(rate(rocmforge_requests_completed_total[5m])) / "
    "sum(rate(rocmforge_requests_started_total[5m]))",
    "tokens": "rate(rocmforge_tokens_generated_total[5m]) / sum(rate(rocmforge_requests_completed_total[5m]))",
    "first token": "histogram_quantile(0.95, sum(rate(rocmforge_ttft_seconds_bucket[5m])) by (le))",
    "utilization": "rocmforge_active_requests / rocmforge_queue_length",
}
TOKENS = 5
REQUESTS = 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape_configuration(target: str) -> str:
    """The one in docs/operations.md, for this target, and more often."""
    found = re.search(r"```yaml\n(scrape_configs:.*?)```", (ROOT / "docs" / "operations.md").read_text(), re.S)
    assert found
    configured = found[1].replace("127.0.0.1:8080", target)
    assert target in configured
    return "global: {scrape_interval: 1s}\n" + configured


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes `target`; gives its URL."""
    (folder / "prometheus.yml").write_text(scrape_configuration(target))
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        # It listens before it is ready, and answers 503 until then.
        wait_until(lambda: answers(f"http://{address}/-/ready"), "Prometheus")
        yield f"http://{address}"
    finally:
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    """Whether something answers there with a 200."""
    try:
        return requests.get(url, timeout=10).status_code == 200
    except requests.ConnectionError:
        return False


def query(url: str, text: str) -> float | None:
    """The value of a query that has one answer, if it has one by now."""
    answer = requests.get(f"{url}/api/v1/query", params={"query": text}, timeout=10).json()
    assert answer["status"] == "success", answer
    result = answer["data"]["result"]
    assert len(result) <= 1
    return float(result[0]["value"][1]) if result else None


@pytest.fixture(scope="module")
def small_server(small_bundle: Path) -> Iterator[Server]:
    """`rfc serve` of the small model; every request is traced."""
    with serving(small_bundle, "--trace-sample-rate", "1") as running:
        yield running


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_prometheus_scrapes_it_and_the_documented_queries_have_values(small_server: Server, tmp_path: Path) -> None:
    def generate() -> int:
        answer = small_server.post("/generate", {"prompt": "x", "max_tokens": TOKENS, "temperature": 0})
        answer.raise_for_status()
        return len(answer.json()["tokens"])

    counters = ("requests_started", "requests_completed", "tokens_generated")
    generate()  # a counter with labels is not there before it has counted
    small_server.wait_until_idle()
    with prometheus(small_server.url.removeprefix("http://"), tmp_path) as url:

        def counts() -> list[float | None]:
            return [query(url, f"sum(rocmforge_{name}_total)") for name in counters]

        wait_until(lambda: None not in counts(), "a scrape")
        before = [count or 0.0 for count in counts()]
        tokens = sum(generate() for _ in range(REQUESTS))
        after = [before[0] + REQUESTS, before[1] + REQUESTS, before[2] + tokens]
        wait_until(lambda: counts() == after, f"a scrape of {after} after {before}")
        found = {name: query(url, text) for name, text in PROMQL.items()}
        assert query(url, 'rocmforge_kv_pages{job!=""}') is None  # the labels are dropped, as documented
        assert query(url, "rocmforge_kv_pages") == small_server.checks()["cache"]["pages_total"]
        assert query(url, "rate(rocmforge_step_sequences_sum[5m]) / rate(rocmforge_step_sequences_count[5m])") == 1
    # A rate is extrapolated by up to a scrape interval, and less where a counter would have begun below 0: by a factor
    # of 1 to 2 after two scrapes, which may differ between two counters; less for what was completed, of which
    # those that ended otherwise are counted apart.
    assert 0.5 <= value_of(found["success rate"]) <= 1.01
    assert 0.5 <= value_of(found["tokens"]) / (tokens / REQUESTS) <= 2
    assert 0 < value_of(found["first token"]) <= 100
    assert math.isnan(value_of(found["utilization"]))  # 0 of 0: nothing ran when it was scraped


def value_of(found: float | None) -> float:
    assert found is not None
    return found


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong(small_server: Server) -> None:
    small_server.post("/generate", {"prompt": "x", "max_tokens": 1}).raise_for_status()
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=small_server.get("/metrics").content, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_trace_of_a_request(small_server: Server) -> None:
    small_server.get("/traces?clear=true").raise_for_status()
    answer = small_server.post("/generate", {"prompt": "x", "max_tokens": 3}, headers={"X-Request-Id": "mine"})
    assert answer.headers["X-Request-Id"] == "mine"
    wait_until(lambda: "inference_request" in small_server.get("/traces").text, "the trace")
    [resource] = small_server.get("/traces?limit=1").json()["resource_spans"]
    spans = {span["name"]: span for span in resource["scope_spans"][0]["spans"]}
    assert list(spans) == ["POST /generate", "inference_request", "queue", "prefill", "decode"]
    found = {one["key"]: one["value"] for one in spans["inference_request"]["attributes"]}
    assert found["request_id"] == {"intValue": str(answer.json()["request_id"])}
    assert found["token_count"] == {"intValue": str(len(answer.json()["tokens"]))}
    assert found["gen_ai.request.model"] == {"stringValue": "small"}


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    received: list[tuple[str, ExportTraceServiceRequest]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, ExportTraceServiceRequest]]]]:
    """URL of a collector, and what it has received."""
    handler = type("Handler", (Collector,), {"received": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler.received  # type: ignore[attr-defined]
    server.shutdown()


def test_a_collector_gets_the_traces_also_those_of_the_last_moment(
    small_bundle: Path, collector: tuple[str, list[tuple[str, ExportTraceServiceRequest]]]
) -> None:
    url, received = collector
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_TRACES_SAMPLER": "always_on",
    }
    with serving(small_bundle, **settings) as server:
        server.post("/generate", {"prompt": "x", "max_tokens": 2}).raise_for_status()
        server.post("/v1/completions", {"prompt": "x", "max_tokens": 2}).raise_for_status()
        assert server.stop() == 0
    assert {path for path, _ in received} == {"/v1/traces"}
    resources = [one for _, request in received for one in request.resource_spans]
    names = {one.value.string_value for r in resources for one in r.resource.attributes if one.key == "service.name"}
    assert names == {"mine"}
    spans = [span.name for r in resources for scope in r.scope_spans for span in scope.spans]
    assert spans.count("inference_request") == 2
    assert {"POST /generate", "POST /v1/completions"} <= set(spans)


def test_a_collector_that_is_not_there_stops_nothing(small_bundle: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    with serving(small_bundle, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_TRACES_SAMPLER="always_on") as server:
        server.post("/generate", {"prompt": "x", "max_tokens": 2}).raise_for_status()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < PATIENCE_SECONDS / 2
        assert "Traceback" not in "".join(server.log)


def test_the_log_goes_to_a_file_as_json(small_bundle: Path, tmp_path: Path) -> None:
    path, port = tmp_path / "log", free_port()
    changes = environment(ROCFORGE_LOG_FORMAT="json", ROCFORGE_LOG_FILE=str(path), RUST_LOG="rocmforge=info")
    with serving_quietly(small_bundle, port, changes) as server:
        wait_until(lambda: path.exists() and "serving" in path.read_text(), "the line that it serves")
        requests.post(
            f"http://127.0.0.1:{port}/generate",
            json={"prompt": "the prompt is secret", "max_tokens": 1},
            headers={"X-Request-Id": "mine"},
            timeout=PATIENCE_SECONDS,
        ).raise_for_status()
        wait_until(lambda: "/generate" in path.read_text(), "the line of the request")
    assert server.stderr is not None
    assert server.stderr.read() == b""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    [access] = [line for line in lines if line["logger"] == "rocmforge.access"]
    assert (access["request_id"], access["path"], access["status"]) == ("mine", "/generate", 200)
    assert "secret" not in path.read_text()


@contextmanager
def serving_quietly(bundle: Path, port: int, changes: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server that says nothing on standard error."""
    command = [*COMMAND, "serve", str(bundle), "--addr", f"127.0.0.1:{port}"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, env=changes)
    try:
        yield server
    finally:
        server.terminate()
        server.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    "arguments, changes, code, parts",
    [
        (["--log-level", "loud"], {}, 2, ["--log-level", "loud"]),
        ([], {"ROCFORGE_LOG_FORMAT": "xml"}, 2, ["--log-format", "xml"]),
        (["--log-file", "/nowhere/log"], {}, 1, ["/nowhere/log", "No such file"]),
        ([], {"ROCMORGE_TRACE_SAMPLE_RATE": "2"}, 2, ["--trace-sample-rate", "2"]),
        ([], {"ROCMFORGE_MAX_TRACES": "-1"}, 2, ["--max-traces", "-1"]),
        ([], {"OTEL_TRACES_EXPORTER": "zipkin"}, 2, ["OTEL_TRACES_EXPORTER", "zipkin"]),
    ],
)
def test_a_wrong_setting_is_named(
    small_bundle: Path, arguments: list[str], changes: dict[str, str], code: int, parts: list[str]
) -> None:
    done = rfc("serve", small_bundle, *arguments, cwd=None, text="", **changes)
    refused(done, code, *parts)
