"""Faults of a request that show late or deep: each API answers a 4xx that names the parameter."""

from __future__ import annotations

import json

import falcon.testing
import pytest

from rocmforge.runtime.generation import Failure

from .fake_engine import FakeEngine, make_app

MESSAGES = [{"role": "user", "content": "hi"}]
# A request of each API that generates text, and what in its body asks for a stream.
GENERATING: dict[str, dict[str, object]] = {
    "/generate": {"prompt": "hi"},
    "/generate/stream": {"prompt": "hi"},
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/api/generate": {"model": "org/tiny:q4", "prompt": "hi"},
    "/api/chat": {"model": "org/tiny:q4", "messages": MESSAGES},
    "/completion": {"prompt": "hi"},
}
TOO_COMPLEX = "response_format: too complex"


@pytest.fixture
def client() -> falcon.testing.TestClient:
    """Of an engine whose constraints meet a limit after two tokens."""
    engine = FakeEngine(fail_after=2, failure=Failure(TOO_COMPLEX, "response_format"))
    return falcon.testing.TestClient(make_app(engine))


@pytest.mark.parametrize("path", [path for path in GENERATING if not path.endswith("/stream")])
def test_F101_a_constraint_that_meets_a_limit_midway_is_a_400(client: falcon.testing.TestClient, path: str) -> None:
    answer = client.simulate_post(path, json={**GENERATING[path], "stream": False})
    assert answer.status_code == 400, answer.text
    error = answer.json["error"]
    if not path.startswith("/v1/"):
        assert error == TOO_COMPLEX
        return
    assert (error["message"], error["type"], error["param"]) == (
        TOO_COMPLEX,
        "invalid_request_error",
        "response_format",
    )


@pytest.mark.parametrize("path", [path for path in GENERATING if path != "/generate"])
def test_F101_and_in_a_stream_an_error_that_says_so(client: falcon.testing.TestClient, path: str) -> None:
    answer = client.simulate_post(path, json={**GENERATING[path], "stream": True})
    assert answer.status_code == 200
    *_, last = filter(None, answer.text.replace("data: ", "").split("\n"))
    document = json.loads(last)
    if path == "/v1/responses":
        assert (document["type"], document["response"]["status"]) == ("response.failed", "failed")
        assert document["response"]["error"] == {"code": "invalid_prompt", "message": TOO_COMPLEX}
    elif path == "/generate/stream":
        assert (document["finish_reason"], document["error"]) == ("failed", TOO_COMPLEX)
    elif path.startswith("/v1/"):
        error = document["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "response_format")
    else:
        assert document["error"] == TOO_COMPLEX


def test_a_failure_that_is_not_the_requests_stays_a_500() -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(fail_after=2)))
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/generate"):
        assert client.simulate_post(path, json={**GENERATING[path], "stream": False}).status_code == 500
