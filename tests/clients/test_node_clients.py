"""Node's clients: the AI SDK 6 with three providers, OpenAI's and Ollama's own. Each is asked the same by its script.

They validate what they get (by zod), so an answer that comes through is one of the right form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.clients.common import ANSWER, EMBEDDING_LENGTH
from rocmforge.tests.clients.node_packages import run_script
from rocmforge.tests.support.process import Server

CLIENTS = {
    "ai-sdk-openai-responses": ("ai_sdk.mjs", "openai"),
    "ai-sdk-openai-chat": ("ai_sdk.mjs", "openai-chat"),
    "ai-sdk-openai-compatible": ("ai_sdk.mjs", "openai-compatible"),
    "ai-sdk-ollama": ("ai_sdk.mjs", "ollama"),
    "openai": ("openai.mjs", ""),
    "ollama": ("ollama.mjs", ""),
}
# What each says where a tool is called; Ollama's API has no such reason.
CALLED = {"openai": "tool_calls", "ollama": "stop"}
ERRORS = {"openai": ("NotFoundError", "BadRequestError"), "ollama": ("ResponseError", "ResponseError")}


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def answers(client: str, server: Server, node_folder: Path) -> dict[str, Any]:
    """All that the client's script got."""
    script, provider = CLIENTS[client]
    return run_script(node_folder, script, server.url, *filter(None, [provider]))


def test_an_answer_and_its_stream(answers: dict[str, Any]) -> None:
    whole, stream = answers["text"], answers["stream"]
    assert (whole["text"], whole["finish"], whole["output"]) == (ANSWER, "stop", 8)
    assert whole["input"] > whole["output"]
    assert stream.pop("parts", 0) > 3
    assert stream == whole


def test_a_conversation(answers: dict[str, Any]) -> None:
    """What the server said comes back to it: by the responses API as a reference to its item."""
    assert "Madrid" in answers["conversation"]["text"]
    assert answers["conversation"]["input"] > answers["text"]["input"]


@pytest.mark.parametrize("name", ["tool", "streamed_tool"])
def test_a_tool_is_called(answers: dict[str, Any], client: str, name: str) -> None:
    expected = {"finish": CALLED.get(client, "tool-calls"), "name": "get_weather", "input": {"city": "Paris"}}
    assert answers[name] == expected


def test_the_result_of_a_tool_is_read(answers: dict[str, Any]) -> None:
    first, second = answers["after_tool"]
    assert first["results"] == 1
    assert second["input"] > first["input"]


@pytest.mark.parametrize("name", ["object", "output", "streamed_object"])
def test_structured_output(answers: dict[str, Any], name: str) -> None:
    assert answers[name].keys() == {"city"}, answers[name]


def test_embedding(answers: dict[str, Any]) -> None:
    assert answers["embedding"]["lengths"] == [EMBEDDING_LENGTH] * 2
    assert answers["embedding"]["input"] > 8


def test_errors_by_type(answers: dict[str, Any], client: str) -> None:
    missing, wrong = ERRORS.get(client, ("APICallError", "APICallError"))
    assert (answers["missing"]["type"], answers["missing"]["status"]) == (missing, 404)
    assert (answers["streamed_error"]["type"], answers["streamed_error"]["status"]) == (missing, 404)
    assert (answers["wrong"]["type"], answers["wrong"]["status"]) == (wrong, 400)
    if client != "ai-sdk-ollama":  # which tells the status's name alone
        assert "model other not found" in answers["missing"]["message"]
        assert "top_p" in answers["wrong"]["message"]


def test_ollama_lists_and_shows(answers: dict[str, Any], client: str) -> None:
    if client != "ollama":
        assert "listed" not in answers
        return
    assert answers["listed"] == ["smollm2:latest"]
    assert {"completion", "tools", "embedding"} <= set(answers["shown"])
    assert answers["running"] == 1
