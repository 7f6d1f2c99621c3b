"""Each error in the words of the API of its path, for every status that is answered."""

from __future__ import annotations

import logging

import falcon
import falcon.testing
import pytest

from rocmforge.artifacts.errors import DeviceError, EngineBusyError, RequestError
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.http.app import ERRORS
from rocmforge.runtime.http.core.errors import (
    CancelledError,
    ContextLengthError,
    NotFoundError,
    generation_error,
)
from rocmforge.runtime.http.proxy.manager import IntegrationError
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

INVALID = "invalid_request_error"
OPENAI: dict[int, tuple[str, str | None]] = {
    400: (INVALID, None),
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_permissions"),
    404: (INVALID, None),
    413: (INVALID, None),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    499: (INVALID, None),
    500: ("server_error", None),
    503: ("server_error", None),
}
ANTHROPIC = {
    400: INVALID,
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
LLAMA_CPP = {
    400: INVALID,
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: INVALID,
    499: INVALID,
    500: "server_error",
    502: "server_error",
    503: "unavailable_error",
}


@pytest.mark.parametrize("status", OPENAI)
def test_openais(status: int) -> None:
    kind, code = OPENAI[status]
    for path in ("/v1", "/v1/completions", "/v1/nowhere"):
        error = {"message": "no", "type": kind, "param": None, "code": code}
        assert ERRORS.document(path, status, "no") == {"error": error}
        given = error | {"param": "p", "code": "c"}
        assert ERRORS.document(path, status, "no", "p", "c") == {"error": given}


@pytest.mark.parametrize("status", ANTHROPIC)
def test_anthropics(status: int) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        document = ERRORS.document(path, status, "no", "p")
        error = {"message": "no", "type": ANTHROPIC[status], "param": "p", "code": OPENAI[status][1]}
        assert document == {"type": "error", "error": error}


@pytest.mark.parametrize("status", LLAMA_CPP)
def test_llama_cpps(status: int) -> None:
    expected = {"error": {"code": status, "message": "no", "type": LLAMA_CPP[status]}}
    assert ERRORS.document("/completion", status, "no", "p", "c") == expected


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_ollamas_and_our_own(status: int) -> None:
    for path in ("/api", "/api/chat"):
        assert ERRORS.document(path, status, "no", "p", "c") == {"error": "no"}
    for path in ("/apix", "/v1x", "/generate", "/", ""):
        assert ERRORS.document(path, status, "no", "p", "c") == {"error": "no", "status": "error"}


@pytest.mark.parametrize(
    "error, status, message, parameter, code",
    [
        (RequestError("p", "wrong"), 400, "p: wrong", "p", None),
        (CancelledError(), 400, "request: cancelled", "request", "request_cancelled"),
        (ContextLengthError("p", "long", 9, 8), 400, "p: long", "p", "context_length_exceeded"),
        (EngineBusyError("busy"), 503, "busy", None, None),
        (IntegrationError("ollama: gone"), 502, "ollama: gone", None, None),
        (NotFoundError("none", "model", "model_not_found"), 404, "none", "model", "model_not_found"),
        (NotFoundError("none"), 404, "none", None, None),
        (DeviceError("lost"), 500, "lost", None, None),
        (generation_error(None), 500, "generation failed", None, None),
        (generation_error(Failure("lost")), 500, "lost", None, None),
        (generation_error(Failure("limit", "grammar")), 400, "limit", "grammar", None),
        (ValueError("a secret"), 500, "internal server error", None, None),
    ],
)
def test_of_each_kind_its_status(
    error: Exception, status: int, message: str, parameter: str | None, code: str | None
) -> None:
    found, document = ERRORS.of("/v1/completions", error)
    said = document["error"]
    assert isinstance(said, dict)
    assert (found, said["message"], said["param"], said["code"]) == (status, message, parameter, code)


def test_a_context_that_is_too_short_in_the_words_of_each() -> None:
    prompt = ContextLengthError("prompt", "long", 9, 8, context=10)
    output = ContextLengthError("max_tokens", "long", 9, 12, 5)

    def said(path: str, error: ContextLengthError) -> dict[str, object]:
        document = ERRORS.of(path, error)[1]["error"]
        assert isinstance(document, dict)
        return document

    assert said("/v1/messages", prompt)["message"] == "prompt is too long: 9 tokens > 8 maximum"
    assert said("/v1/messages", output)["message"] == (
        "input length and `max_tokens` exceed context limit: 9 + 5 > 12, "
        "decrease input length or `max_tokens` and try again"
    )
    for error, context in ((prompt, 10), (output, 12)):
        told = said("/completion", error)
        assert (told["type"], told["n_prompt_tokens"], told["n_ctx"]) == ("exceed_context_size_error", 9, context)
        assert said("/v1/chat/completions", error)["message"] == str(error)
        assert "n_ctx" not in said("/v1/chat/completions", error)


def test_what_goes_wrong_here_is_logged_and_what_a_client_did_is_not(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(fail_after=0)
    client = falcon.testing.TestClient(make_app(engine))
    with caplog.at_level(logging.WARNING):
        assert client.simulate_post("/v1/completions", json={"prompt": 5}).status_code == 400
        engine.busy = True
        busy = client.simulate_post("/v1/completions", json={"prompt": "a"})
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
        assert caplog.messages == []
        engine.busy = False
        failed = client.simulate_post("/v1/completions", json={"prompt": "a"})
        assert (failed.status_code, "retry-after" in failed.headers) == (500, False)
        assert caplog.messages == ["POST /v1/completions: the device is lost"]


def test_a_status_without_a_text_is_told_by_its_phrase() -> None:
    app = make_app(FakeEngine())

    class Refusing:
        def on_get(self, req: falcon.Request, resp: falcon.Response, code: int) -> None:
            raise falcon.HTTPError(code, description="because" if req.get_param("why") else None)

    app.add_route("/refuse/{code:int}", Refusing())
    client = falcon.testing.TestClient(app)
    assert client.simulate_get("/refuse/409").json == {"error": "Conflict", "status": "error"}
    assert client.simulate_get("/refuse/409?why=1").json == {"error": "because", "status": "error"}
    refused = client.simulate_put("/refuse/409")
    assert (refused.status_code, refused.json["error"]) == (405, "PUT is not allowed here; allowed: GET, OPTIONS")
    assert refused.headers["allow"] == "GET, OPTIONS"


def test_a_part_of_a_message_is_named_by_its_whole_path() -> None:
    """Also where its form is known only from the type of what it is a part of."""
    client = falcon.testing.TestClient(make_app(FakeEngine()))
    wrong = {"type": "text", "text": 5}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "x"}, wrong]}
    asked: dict[str, tuple[dict[str, object], str]] = {
        "/v1/messages": (
            {"max_tokens": 1, "messages": [{"role": "user", "content": [result]}]},
            "messages[0].content[0].content[1].text",
        ),
        "/v1/responses": ({"input": [{"role": "user", "content": [wrong]}]}, "input[0].content[0].text"),
    }
    for path, (body, name) in asked.items():
        error = client.simulate_post(path, json=body).json["error"]
        assert (error["param"], error["message"]) == (name, f"{name}: expected str | null, found 5")
