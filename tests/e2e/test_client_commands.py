"""`rfc generate`, `status`, `cancel` and `models --url` against a real server, and against what is none."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from rocmforge.tests.support.killed import one_of_many
from rocmforge.tests.support.process import Server, refused, rfc

PROMPT = "The capital of France is"


def test_generate_streams_the_text_of_the_whole_answer(server: Server) -> None:
    options = ("--url", server.url, "-n", 8, "--temperature", 0)
    streamed = rfc("generate", PROMPT, *options)
    whole = rfc("generate", PROMPT, *options, "--no-stream")
    assert streamed.returncode == whole.returncode == 0, streamed.stderr + whole.stderr
    assert streamed.stdout == whole.stdout
    assert "Paris" in whole.stdout
    events = [json.loads(line) for line in rfc("generate", PROMPT, *options, "--json").stdout.splitlines()]
    assert "".join(event["text"] for event in events) == whole.stdout.removesuffix("\n")
    assert [event["finished"] for event in events] == [False] * (len(events) - 1) + [True]
    answer = json.loads(rfc("generate", PROMPT, *options, "--no-stream", "--json").stdout)
    assert [answer["text"], answer["finish_reason"], len(answer["tokens"])] == [whole.stdout[:-1], "length", 8]


def test_a_seed_gives_the_text_again(server: Server) -> None:
    command = ("generate", PROMPT, "--url", server.url, "-n", 12, "--seed", 5)
    assert rfc(*command).stdout == rfc(*command).stdout


def test_status_and_cancel(server: Server) -> None:
    made = json.loads(rfc("generate", PROMPT, "--url", server.url, "-n", 3, "--no-stream", "--json").stdout)
    for command in ("status", "cancel"):
        found = json.loads(rfc(command, made["request_id"], "--url", server.url).stdout)
        assert (found["request_id"], found["text"], found["finished"]) == (made["request_id"], made["text"], True)
        refused(one_of_many(command, 10**9, "--url", server.url), 1, "404")


def test_models_of_a_server(server: Server) -> None:
    assert rfc("models", "--url", server.url).stdout.rstrip().endswith(".rfb")
    model = json.loads(rfc("models", "--url", server.url, "--json").stdout)
    assert model["metadata"]["general.architecture"] == "llama"


def test_the_servers_refusal_is_told(server: Server) -> None:
    refused(one_of_many("generate", "x", "--url", server.url, "-n", 10**6), 1, "400", "max_tokens")


def test_what_is_no_server_is_one_line() -> None:
    refused(
        one_of_many("generate", "x", "--url", "http://127.0.0.1:9"), 1, "127.0.0.1:9", "is `rfc serve` running there?"
    )
    for url in ("localhost:8080", "ftp://x", "http://", ""):
        refused(one_of_many("generate", "x", "--url", url), 2, "--url")


class Stranger(http.server.BaseHTTPRequestHandler):
    """Answers everything with what no rocmforge server says."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>\x1b[31m" if self.path == "/status/1" else b'{"models": 5}')

    def do_POST(self) -> None:
        self.send_response(200 if self.headers["Content-Type"] == "application/json" else 415)
        self.end_headers()
        self.wfile.write(b'data: {"text": "a", "finish_reason": null}\n\ndata: {"te')

    def log_message(self, *_arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def stranger() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_another_kind_of_server_is_one_line(stranger: str) -> None:
    refused(one_of_many("status", 1, "--url", stranger), 1, "expected JSON")
    refused(one_of_many("models", "--url", stranger), 1, "expected a list of models")
    broken = rfc("generate", "x", "--url", stranger)
    assert (broken.returncode, broken.stdout) == (1, "a")
    assert broken.stderr.splitlines() == [line for line in broken.stderr.splitlines() if line.startswith("rfc: ")]
