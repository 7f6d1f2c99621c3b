"""The curl lines and client programs of the native API's description, run as they are printed (`api_examples.md`)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rocmforge.tests.clients.node_packages import find_node
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, serving

EXAMPLES = Path(__file__).with_name("api_examples.md")
PRINTED = "http://localhost:8080"


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[Server]:
    """`rfc serve` with each request traced: of the default's tenth a test could see none."""
    with serving(smollm2_path, "--trace-sample-rate", 1) as running:
        yield running


def blocks(language: str, heading: str) -> list[str]:
    """The code of a language below a heading."""
    found = re.findall(r"^## (.+?)\n\n```(\w+)\n(.*?)^```$", EXAMPLES.read_text(), re.MULTILINE | re.DOTALL)
    return [code for title, kind, code in found if (kind, title) == (language, heading)]


def execute(command: list[str], code: str) -> str:
    """Run a program that is given on the standard input, and return what it printed."""
    done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(server: Server, heading: str, number: int = 0, change: tuple[str, str] = ("", "")) -> str:
    """Run a curl line, of which only the port is changed, and `change` where a test needs it."""
    code = blocks("bash", heading)[number]
    assert PRINTED in code
    assert change[0] in code
    return execute(["bash", "-e"], code.replace(PRINTED, server.url).replace(*change))


def program(server: Server, language: str, heading: str) -> str:
    """A program, of which only the port is changed."""
    (code,) = blocks(language, heading)
    assert PRINTED in code
    return code.replace(PRINTED, server.url)


def events(text: str) -> Iterator[dict[str, Any]]:
    """Events of a stream: nothing but them, each with its blank line."""
    for event in text.split("\n\n"):
        if event.strip() and not event.startswith(":"):
            assert event.startswith("data: ")
            yield json.loads(event.removeprefix("data: "))


def test_no_example_is_forgotten() -> None:
    text = EXAMPLES.read_text()
    assert (text.count("\ncurl "), text.count("```python"), text.count("```javascript")) == (11, 2, 1)


def test_generate_status_and_cancel(server: Server) -> None:
    made = json.loads(curl(server, "POST /generate"))
    assert made.keys() == {"request_id", "text", "tokens", "finished", "finish_reason"}
    assert made["text"]
    assert made["finished"] is True
    assert made["finish_reason"] in {"length", "stop", "eos"}
    assert 1 <= len(made["tokens"]) <= 50
    ours = ("123", str(made["request_id"]))
    assert json.loads(curl(server, "GET /status/:request_id", change=ours)) == made
    assert json.loads(curl(server, "POST /cancel/:request_id", change=ours)) == made  # it had ended before


@pytest.mark.parametrize("heading", ["GET /status/:request_id", "POST /cancel/:request_id"])
def test_a_request_that_is_not_there(server: Server, heading: str) -> None:
    """As printed: there was no request 123."""
    answer = json.loads(curl(server, heading))
    assert answer.keys() == {"error", "status"}
    assert answer["status"] == "error"


def test_generate_stream(server: Server) -> None:
    found = list(events(curl(server, "POST /generate/stream")))
    assert 1 <= len(found) <= 31
    for event in found:
        assert event.keys() == {"request_id", "token", "text", "finished", "finish_reason"}
        assert event["request_id"] == found[0]["request_id"]
    assert [event["finished"] for event in found] == [False] * (len(found) - 1) + [True]
    assert [event["finish_reason"] for event in found[:-1]] == [None] * (len(found) - 1)


def test_models(server: Server) -> None:
    answer = json.loads(curl(server, "GET /models"))
    (model,) = answer["models"]
    assert Path(model["path"]).is_absolute()
    assert model["size"] > 10_000_000
    assert model["metadata"]["general.architecture"] == "llama"
    assert answer["tokenizer_cache"].keys() == {"hits", "misses", "bytes"}


def test_health_and_ready(server: Server) -> None:
    health = json.loads(curl(server, "GET /health"))
    assert (health["status"], health["service"]) == ("healthy", "rocmforge")
    assert health["checks"]["engine"] == {"running": True, "model_loaded": True}
    assert {"engine", "gpu", "requests", "cache"} <= health["checks"].keys()
    body, status = curl(server, "GET /ready").strip().rsplit("\n", 1)
    assert (json.loads(body), status) == ({"ready": True, "service": "rocmforge"}, "HTTP Status: 200")


def test_metrics(server: Server) -> None:
    server.post("/generate", {"prompt": "One", "max_tokens": 1})
    families = {family.name: family for family in text_string_to_metric_families(curl(server, "GET /metrics"))}
    counters = ("requests_started", "requests_completed", "requests_failed", "requests_cancelled", "tokens_generated")
    histograms = ("prefill_duration_seconds", "decode_duration_seconds", "total_duration_seconds", "ttft_seconds")
    gauges = ("queue_length", "active_requests", "tokens_per_second")
    for kind, names in (("counter", counters), ("histogram", histograms), ("gauge", gauges)):
        for name in names:
            assert families[f"rocmforge_{name}"].type == kind
    assert families["rocmforge_tokens_generated"].samples[0].value >= 1


def test_traces(server: Server) -> None:
    server.post("/generate", {"prompt": "One", "max_tokens": 1})

    def spans(number: int) -> list[dict[str, Any]]:
        answer = json.loads(curl(server, "GET /traces", number))
        return [
            span
            for resource in answer["resource_spans"]
            for scope in resource["scope_spans"]
            for span in scope["spans"]
        ]

    assert any(span["name"] == "inference_request" for span in spans(0))
    assert 1 <= len({span["trace_id"] for span in spans(1)}) <= 10
    assert len(spans(2)) >= 1
    assert spans(0) == []


def test_python_stream_example(server: Server) -> None:
    printed = execute([sys.executable, "-"], program(server, "python", "POST /generate/stream"))
    assert re.search(r"\S.*\n\nFinish reason: (length|stop|eos)\n$", printed, re.DOTALL), printed


def test_python_client(server: Server) -> None:
    """The program, then every other method of its class, by lines of ours after it."""
    code = program(server, "python", "Python Client")
    printed = execute([sys.executable, "-"], code)
    assert len(printed.strip()) > 20
    assert printed.endswith("\n")
    more = """
print("====")
number = result["request_id"]
print(json.dumps([client.get_status(number), client.cancel(number), client.health(), client.ready(), client.models()]))
"""
    answers = json.loads(execute([sys.executable, "-"], code + more).split("====")[1])
    assert answers[0] == answers[1]
    assert answers[0]["finished"] is True
    assert (answers[2]["status"], answers[3], len(answers[4]["models"])) == ("healthy", True, 1)


def test_javascript_client(server: Server) -> None:
    """The program; then its class in a program of ours, for it starts the first one's `main` by itself."""
    code = program(server, "javascript", "JavaScript Client")
    printed = execute([find_node(), "-"], code)
    assert re.search(r"\S.*\n\nFinish reason: (length|stop|eos)\n$", printed, re.DOTALL), printed
    start, _ = code.split("// Usage example")
    more = """
(async () => {
  const client = new ROCmForgeClient();
  const made = await client.generate("The capital of France is", { maxTokens: 5 });
  const others = [await client.getStatus(made.request_id), await client.cancel(made.request_id)];
  console.log(JSON.stringify([made, ...others, await client.health(), await client.ready(), await client.models()]));
})();
"""
    answers = json.loads(execute([find_node(), "-"], start + more))
    assert answers[0] == answers[1] == answers[2]
    assert (answers[3]["status"], answers[4], len(answers[5]["models"])) == ("healthy", True, 1)
