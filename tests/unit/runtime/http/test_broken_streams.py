"""A server that fails midway says so as the API's last event, in its shape, and frees what the stream held."""

from __future__ import annotations

import json
import logging
from typing import Any

import falcon.testing
import pytest

from rocmforge.artifacts.errors import DeviceError
from rocmforge.runtime.engine.generation import TokenEvent
from rocmforge.runtime.http.core.job import Job
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

HELLO = [{"role": "user", "content": "hi"}]
OPENAI = {"type": "server_error", "param": None, "code": None}
# Of each path: a request, how its parts end, and what the last of them is for a message.
APIS: dict[str, tuple[dict[str, Any], str, Any]] = {
    "/v1/chat/completions": ({"messages": HELLO}, "\n\n", lambda text: {"error": {"message": text, **OPENAI}}),
    "/v1/completions": ({"prompt": "hi"}, "\n\n", lambda text: {"error": {"message": text, **OPENAI}}),
    "/v1/messages": (
        {"messages": HELLO, "max_tokens": 9},
        "\n\n",
        lambda text: {"type": "error", "error": {"message": text, **OPENAI, "type": "api_error"}},
    ),
    "/completion": (
        {"prompt": "hi"},
        "\n\n",
        lambda text: {"error": {"code": 500, "message": text, "type": "server_error"}},
    ),
    "/api/chat": ({"messages": HELLO}, "\n", lambda text: {"error": text}),
    "/api/generate": ({"prompt": "hi"}, "\n", lambda text: {"error": text}),
    "/generate/stream": ({"prompt": "hi"}, "\n\n", lambda text: {"error": text, "status": "error"}),
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(token_seconds=0.001)


def break_third(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """The third event of a job cannot be read."""
    taken: list[TokenEvent] = []

    def took(job: Job, event: TokenEvent) -> None:
        taken.append(event)
        if len(taken) == 3:
            raise error

    monkeypatch.setattr(Job, "took", took)


def documents(text: str, end: str) -> list[dict[str, Any]]:
    assert text.endswith(end)
    parts = [part for part in text.split(end) if part and not part.startswith(":")]
    return [json.loads(part.rpartition("data: ")[2]) for part in parts]


@pytest.mark.parametrize("path", APIS)
def test_the_last_event_tells_it(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    app = make_app(engine)
    break_third(monkeypatch, DeviceError("gpu 0: lost"))
    body, end, last = APIS[path]
    result = falcon.testing.TestClient(app).simulate_post(path, json={"model": "org/tiny:q4", "stream": True, **body})
    assert documents(result.text, end)[-1] == last("gpu 0: lost")
    assert engine.last.cancelled_at is not None
    assert app.admission.active == 0


@pytest.mark.parametrize("path", APIS)
def test_what_nobody_foresaw_is_told_to_the_log_alone(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(engine)
    break_third(monkeypatch, ZeroDivisionError("a secret"))
    body, end, last = APIS[path]
    with caplog.at_level(logging.ERROR):
        result = falcon.testing.TestClient(app).simulate_post(
            path, json={"model": "org/tiny:q4", "stream": True, **body}
        )
    assert "a secret" not in result.text
    assert documents(result.text, end)[-1] == last("internal server error")
    assert caplog.messages == ["stream failed"]
    assert "a secret" in caplog.text
    assert engine.last.cancelled_at is not None
    assert app.admission.active == 0


@pytest.mark.parametrize("kind", [DeviceError, ZeroDivisionError])
def test_a_response_fails_with_what_it_has(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    app = make_app(engine)
    break_third(monkeypatch, kind("a secret"))
    client = falcon.testing.TestClient(app)
    text = client.simulate_post("/v1/responses", json={"input": "hi", "stream": True}).text
    assert "a secret" not in text
    assert text.split("\n\n")[-2].startswith("event: response.failed\ndata: ")
    sent = documents(text, "\n\n")
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    assert (sent[-1]["type"], sent[-1]["response"]["id"]) == ("response.failed", sent[0]["response"]["id"])
    response = sent[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("failed", None)
    assert response["error"] == {"code": "server_error", "message": "the server failed"}
    assert (response["usage"]["output_tokens"], response["usage"]["input_tokens"]) == (2, 9)
    assert [event["delta"] for event in sent if event["type"].endswith("text.delta")] == [" Paris", ","]
    assert client.simulate_get(f"/v1/responses/{response['id']}").status_code == 404
    assert engine.last.cancelled_at is not None
    assert app.admission.active == 0
