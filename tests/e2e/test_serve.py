"""The native API of a real `rfc serve` of SmolLM2, by the letter of its documentation, and how the process behaves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, refused, rfc, serving, wait_until

GREEDY = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
LONG = GREEDY | {"max_tokens": 4000, "ignore_eos": True}
STATE_FIELDS = {"request_id", "text", "tokens", "finished", "finish_reason"}
EVENT_FIELDS = {"request_id", "token", "text", "finished", "finish_reason"}


def curl(server: Server, path: str, *options: str) -> tuple[int, str]:
    """Status and body, as the examples of the documentation ask for them."""
    command = ["curl", "-sS", "-w", "\n%{http_code}", *options, server.url + path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def test_curl_generates(server: Server) -> None:
    body = json.dumps(GREEDY)
    status, text = curl(server, "/generate", "-X", "POST", "-H", "Content-Type: application/json", "-d", body)
    answer = json.loads(text)
    assert status == 200
    assert answer.keys() == STATE_FIELDS
    assert answer["text"].startswith(" Paris")
    assert (len(answer["tokens"]), answer["finished"], answer["finish_reason"]) == (12, True, "length")
    status, text = curl(server, f"/status/{answer['request_id']}")
    assert (status, json.loads(text)) == (200, answer)


def test_curl_streams_what_it_generates(server: Server) -> None:
    answer = server.post("/generate", GREEDY).json()
    _, text = curl(server, "/generate/stream", "-N", "-X", "POST", "-d", json.dumps(GREEDY))
    lines = [line for line in text.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    events = [json.loads(line[6:]) for line in lines]
    assert all(event.keys() == EVENT_FIELDS for event in events)
    assert len({event["request_id"] for event in events}) == 1
    assert [event["token"] for event in events] == answer["tokens"]
    assert "".join(event["text"] for event in events) == answer["text"]
    assert [event["finished"] for event in events] == [False] * 11 + [True]
    assert [event["finish_reason"] for event in events] == [None] * 11 + ["length"]


def test_each_event_leaves_in_one_piece(server: Server) -> None:
    """The documentation's JavaScript client parses each chunk that it reads by itself."""
    with server.post("/generate/stream", GREEDY, stream=True) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        chunks = [chunk.decode() for chunk in response.raw.stream(1 << 16, decode_content=False)]
    events = [json.loads(line[6:]) for chunk in chunks for line in chunk.split("\n") if line.startswith("data: ")]
    assert len(events) == 12


def test_cancel_ends_a_stream(server: Server) -> None:
    with server.post("/generate/stream", LONG, stream=True) as response:
        events = server.events(response)
        request_id = next(events)["request_id"]
        running = server.get(f"/status/{request_id}").json()
        assert (running["finished"], running["finish_reason"]) == (False, None)
        state = server.post(f"/cancel/{request_id}").json()
        assert (state["request_id"], state["finished"], state["finish_reason"]) == (request_id, True, "cancelled")
        *_, last = events
    assert (last["finished"], last["finish_reason"]) == (True, "cancelled")
    assert server.get(f"/status/{request_id}").json() == state
    server.wait_until_idle()


@pytest.mark.parametrize("path", ["/status/999999", "/status/abc"])
def test_unknown_request(server: Server, path: str) -> None:
    response = server.get(path)
    assert response.status_code == 404
    assert response.json().keys() == {"error", "status"}
    assert response.json()["status"] == "error"
    assert server.post(path.replace("status", "cancel")).status_code == 404


def test_models_names_the_bundle(server: Server, smollm2_path: Path) -> None:
    answer = server.get("/models").json()
    (model,) = answer["models"]
    assert model["path"] == str(smollm2_path.resolve())
    assert model["size"] > 96_576_768  # what the GGUF's tensors alone take
    assert model["metadata"]["general.architecture"] == "llama"
    assert model["metadata"]["llama.block_count"] == 30
    assert answer["tokenizer_cache"].keys() == {"hits", "misses", "bytes"}


def test_health_and_ready(server: Server) -> None:
    health = server.get("/health").json()
    assert (health["status"], health["service"]) == ("healthy", "rocmforge")
    assert health["checks"]["engine"] == {"running": True, "model_loaded": True}
    cache = health["checks"]["cache"]
    assert cache["pages_free"] + cache["pages_used"] == cache["pages_total"] >= 8192 // 16
    ready = server.get("/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "service": "rocmforge"})


def scrape(server: Server) -> dict[str, Any]:
    text = server.get("/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_metrics_count_one_request(server: Server) -> None:
    server.wait_until_idle()
    before = scrape(server)
    tokens = server.post("/generate", GREEDY).json()["tokens"]
    after = scrape(server)

    def grown(family: str, sample: str) -> float:
        values: list[float] = [
            next(s.value for s in families[f"rocmforge_{family}"].samples if s.name == f"rocmforge_{sample}")
            for families in (before, after)
        ]
        return values[1] - values[0]

    assert grown("requests_started", "requests_started_total") == 1
    assert grown("requests_completed", "requests_completed_total") == 1
    assert grown("requests_failed", "requests_failed_total") == 0
    assert grown("requests_cancelled", "requests_cancelled_total") == 0
    assert grown("tokens_generated", "tokens_generated_total") == len(tokens)
    for name in ("prefill_duration_seconds", "decode_duration_seconds", "total_duration_seconds", "ttft_seconds"):
        assert grown(name, f"{name}_count") == 1
        assert after[f"rocmforge_{name}"].type == "histogram"
    for name in ("queue_length", "active_requests", "tokens_per_second"):
        assert after[f"rocmforge_{name}"].type == "gauge"


PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time",
    "1, 2, 3, 4,",
    "Water boils at",
    "The three primary colours are",
    "Dear Sir or Madam,\n",
    "In 1969, " * 40,
)


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.0, "seed": 5}], ids=["greedy", "seeded"])
def test_eight_clients_at_once_get_what_each_gets_alone(server: Server, sampling: dict[str, float]) -> None:
    def ask(prompt: str) -> list[int]:
        tokens: list[int] = server.post("/generate", {"prompt": prompt, "max_tokens": 24, **sampling}).json()["tokens"]
        return tokens

    alone = [ask(prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(ask, PROMPTS))
    assert together == alone
    assert all(alone)


def disconnect(server: Server, body: dict[str, object], after: bytes) -> None:
    """Ask for a stream on a socket of its own; hang up once `after` was read and the request holds pages."""
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), PATIENCE_SECONDS) as client:
        head = b"POST /generate/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % len(data) + data)
        received = b""
        while after not in received:
            chunk = client.recv(1 << 16)
            assert chunk
            received += chunk
        wait_until(lambda: server.checks()["cache"]["pages_used"] > 0, "pages in use")
    server.wait_until_idle()


def test_F55_disconnect_in_a_stream(server: Server) -> None:
    cancelled = server.counter("requests_cancelled")
    disconnect(server, LONG, b'"token"')
    assert server.counter("requests_cancelled") == cancelled + 1


def test_F55_disconnect_in_prefill(server: Server) -> None:
    """The header has come, with the comment that opens a stream, but no token yet."""
    cancelled, tokens = server.counter("requests_cancelled"), server.counter("tokens_generated")
    disconnect(server, {"prompt": "word " * 7000, "max_tokens": 100}, b"\r\n\r\n")
    assert server.counter("requests_cancelled") == cancelled + 1
    assert server.counter("tokens_generated") == tokens


def test_F63_sigterm_lets_a_stream_end(smollm2_path: Path) -> None:
    """300 tokens take a busy machine more than the usual 30 seconds, after which a server rightly ends them."""
    with serving(smollm2_path, "--drain-seconds", PATIENCE_SECONDS) as server:
        with server.post("/generate/stream", LONG | {"max_tokens": 300}, stream=True) as response:
            events = server.events(response)
            first = next(events)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: is_draining(server), "the signal heard, while the stream goes on")
            rest = list(events)
        assert server.process.wait(PATIENCE_SECONDS) == 0
        assert len([first, *rest]) == 300
        assert rest[-1]["finish_reason"] == "length"
        with pytest.raises(requests.ConnectionError):
            server.get("/health")
        assert not any("Traceback" in line for line in server.log)


def is_draining(server: Server) -> bool:
    """It lives and is not ready."""
    return (server.get("/live").status_code, server.get("/ready").status_code) == (200, 503)


def test_F63_second_sigterm_cancels(smollm2_path: Path) -> None:
    with serving(smollm2_path) as server:
        with server.post("/generate/stream", LONG, stream=True) as response:
            events = server.events(response)
            next(events)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: is_draining(server), "the first one heard")  # signals that come too close are one
            server.process.send_signal(signal.SIGTERM)
            *_, last = events
        assert server.process.wait(PATIENCE_SECONDS) == 0
        assert last["finish_reason"] == "cancelled"


def test_ctrl_c_of_an_idle_server_ends_it_with_0(small_bundle: Path) -> None:
    with serving(small_bundle) as server:
        assert server.stop(signal.SIGINT) == 0


def test_F70_port_in_use(small_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(rfc("serve", small_bundle, "--addr", address), 1, address, "in use")


def children(pid: int) -> set[int]:
    """Processes that a process has started and that have not ended."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(path.parent.name))
    return found


def test_serving_starts_no_compiler(small_bundle: Path) -> None:
    with serving(small_bundle, PYTHONPROFILEIMPORTTIME="1") as server:
        server.post("/generate", {"prompt": "hello", "max_tokens": 4})
        server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4})
        assert children(os.getpid()) >= {server.process.pid}
        # None but the one that renders the chat template.
        (child,) = children(server.process.pid)
        assert b"template_worker" in Path(f"/proc/{child}/cmdline").read_bytes()
        server.stop()
    modules = {line.rpartition("|")[2].strip() for line in server.log if line.startswith("import time:")}
    assert "rocmforge.runtime.engine.engine" in modules  # so the list is what it is taken for
    assert not {name for name in modules if re.match(r"rocmforge\.(compiler|templates|tools)|ziglang|gguf", name)}


def test_resident_memory_stays_within_its_bound(smollm2_path: Path) -> None:
    """Weights once (they are mapped), the pages of the KV cache that were used, and 150 MB for all the rest."""
    with open_bundle(smollm2_path) as bundle:
        kv = bundle.layout.kv
        weights_bytes = bundle.layout.weights_bytes
    with serving(smollm2_path) as server:
        answer = server.post("/generate", GREEDY | {"prompt": "one two three " * 100}).json()
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
    tokens = 301 + len(answer["tokens"])  # each word of the prompt is one token
    kv_bytes = -(-tokens // kv.block_size) * kv.bytes_per_block
    assert resident <= weights_bytes + kv_bytes + 150_000_000


BAD_BODIES = {
    "F44-invalid JSON": (b'{"prompt": ', "body"),
    "F44-no object": (b"[1]", "body"),
    "F44-invalid UTF-8": (b'{"prompt": "\xff\xfe"}', "body"),
    "F44-not a number": (b'{"prompt": "a", "temperature": NaN}', ""),
    "F44-infinite number": (b'{"prompt": "a", "temperature": 1e400}', "1e400"),
    "F44-infinite integer": (b'{"prompt": "a", "max_tokens": 1e400}', "1e400"),
    "F44-overlong integer": (b'{"prompt": "a", "max_tokens": %s}' % (b"9" * 5000), ""),
    "F45-nesting": (b"[" * 10_000, ""),
    "F46-prompt missing": (b"{}", "prompt"),
    "F46-prompt a number": (b'{"prompt": 5}', "prompt"),
    "F46-max_tokens negative": (b'{"prompt": "a", "max_tokens": -2}', "max_tokens"),
    "F46-max_tokens huge": (b'{"prompt": "a", "max_tokens": 1000000000000}', "max_tokens"),
    "F46-max_tokens a string": (b'{"prompt": "a", "max_tokens": "ten"}', "max_tokens"),
    "F46-max_tokens a fraction": (b'{"prompt": "a", "max_tokens": 1.5}', "max_tokens"),
    "F46-temperature negative": (b'{"prompt": "a", "temperature": -0.1}', "temperature"),
    "F46-temperature huge": (b'{"prompt": "a", "temperature": 1e30}', "temperature"),
    "F46-temperature a list": (b'{"prompt": "a", "temperature": [1]}', "temperature"),
    "F46-top_k negative": (b'{"prompt": "a", "top_k": -2}', "top_k"),
    "F46-top_p above 1": (b'{"prompt": "a", "top_p": 1.1}', "top_p"),
    "F48-prompt past the context": (json.dumps({"prompt": "word " * 9000}).encode(), "prompt"),
    "F48-output past the context": (b'{"prompt": "a", "max_tokens": 8192}', "max_tokens"),
}


@pytest.mark.parametrize("path", ["/generate", "/generate/stream", "/v1/completions"])
@pytest.mark.parametrize(("body", "named"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_request_then_a_good_one(server: Server, path: str, body: bytes, named: str) -> None:
    with requests.Session() as session:
        headers = {"Content-Type": "application/json"}
        response = session.post(server.url + path, data=body, headers=headers, timeout=PATIENCE_SECONDS)
        assert response.status_code == 400
        error = response.json()["error"]
        message = error["message"] if path.startswith("/v1/") else error
        assert named in message
        assert message.isprintable()
        good: Any = {"prompt": "a", "max_tokens": 1}
        assert session.post(server.url + path, json=good, timeout=PATIENCE_SECONDS).status_code == 200


@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
def test_F46_the_native_api_gives_one_token_at_least(server: Server, path: str) -> None:
    response = server.post(path, {"prompt": "a", "max_tokens": 0})
    assert (response.status_code, "max_tokens" in response.json()["error"]) == (400, True)


def test_F46_n_is_capped(server: Server) -> None:
    for n in (17, 129, 10**9, -1, "many"):
        response = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "n": n})
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "n"
    assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "n": 1}).status_code == 200


def test_F47_oversized_body(server: Server) -> None:
    response = server.post("/generate", {"prompt": "a" * (5 << 20)})
    assert response.status_code == 413
    assert response.json()["status"] == "error"
    assert server.post("/generate", {"prompt": "a", "max_tokens": 1}).status_code == 200
