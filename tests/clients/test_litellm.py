"""LiteLLM: the same questions through its OpenAI, Ollama and Anthropic routes."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import os
from functools import cache
from typing import Any

import pytest

from rocmforge.tests.clients.common import ANSWER, EMBEDDING_LENGTH, MODEL, QUESTION, TOOL, WEATHER, user
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch its list of prices while it is imported

# Routes of LiteLLM, and what each asks of a server: the path below our address.
ROUTES = {
    "openai": "/v1",
    "hosted_vllm": "/v1",
    "lm_studio": "/v1",
    "llamafile": "/v1",
    "ollama": "",
    "ollama_chat": "",
    "anthropic": "",
}
CALLS_TOOLS = [name for name in ROUTES if not name.startswith("ollama")]  # Ollama's API has no `tool_choice`
SHAPE = {"type": "json_schema", "json_schema": {"name": "city", "schema": TOOL["function"]["parameters"]}}


@cache
def litellm() -> Any:
    """The library, imported where it is used: that takes seconds, and every process of the tests collects this file."""
    return importlib.import_module("litellm")


def settings(server: Server, route: str, **more: Any) -> dict[str, Any]:
    common = {"api_base": server.url + ROUTES[route], "api_key": "none", "num_retries": 0, "timeout": PATIENCE_SECONDS}
    return {"model": f"{route}/{MODEL}", **common, **more}


def complete(server: Server, route: str, question: str = QUESTION, **more: Any) -> Any:
    asked = settings(
        server, route, **{"temperature": 0, "max_tokens": 40, **copy.deepcopy(more)}
    )  # some routes change what they are given
    return litellm().completion(messages=user(question), **copy.deepcopy(asked))  # some routes change what they get


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_and_its_stream(server: Server, route: str) -> None:
    whole = complete(server, route)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (ANSWER, "stop")
    assert whole.usage.prompt_tokens > whole.usage.completion_tokens == 8
    chunks = list(complete(server, route, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert litellm().stream_chunk_builder(chunks).choices[0].message.content == ANSWER
    used = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in used] == [(whole.usage.prompt_tokens, 8)]


@pytest.mark.parametrize("route", CALLS_TOOLS)
def test_a_tool_is_called(server: Server, route: str) -> None:
    body: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
    made = complete(server, route, WEATHER, **body).choices[0]
    (call,) = made.message.tool_calls
    assert (made.finish_reason, call.function.name) == ("tool_calls", "get_weather")
    chunks = list(complete(server, route, WEATHER, **body, stream=True))
    (other,) = litellm().stream_chunk_builder(chunks).choices[0].message.tool_calls
    assert (other.function.name, other.function.arguments) == ("get_weather", call.function.arguments)
    assert isinstance(json.loads(call.function.arguments)["city"], str)


@pytest.mark.parametrize("route", ["openai", "ollama", "ollama_chat", "anthropic"])
def test_structured_output(server: Server, route: str) -> None:
    made = complete(server, route, WEATHER, response_format=SHAPE).choices[0].message.content
    assert json.loads(made).keys() == {"city"}


@pytest.mark.parametrize("route", ROUTES)
def test_errors_by_type(server: Server, route: str) -> None:
    with pytest.raises(litellm().NotFoundError, match="model other not found"):
        complete(server, route, model=f"{route}/other")


@pytest.mark.parametrize("route", ["openai", "lm_studio", "anthropic"])
def test_bad_requests_by_type(server: Server, route: str) -> None:
    with pytest.raises(litellm().BadRequestError, match="top_p"):
        complete(server, route, top_p=7)
    with pytest.raises(litellm().ContextWindowExceededError):
        complete(server, route, "word " * 9000)


@pytest.mark.parametrize("route", ["openai", "ollama"])
def test_embedding(server: Server, route: str) -> None:
    made = litellm().embedding(input=["A cat sleeps.", "The stock exchange fell."], **settings(server, route))
    assert [len(entry["embedding"]) for entry in made.data] == [EMBEDDING_LENGTH] * 2
    assert made.usage.prompt_tokens > 0


@pytest.mark.parametrize("route", ["text-completion-openai", "ollama"])
def test_text_completion(server: Server, route: str) -> None:
    base = server.url + ("" if route == "ollama" else "/v1")
    made = litellm().text_completion(
        model=f"{route}/{MODEL}",
        api_base=base,
        api_key="none",
        prompt="The capital of France is",
        max_tokens=5,
        temperature=0,
    )
    assert made.choices[0].text
    assert made.usage.completion_tokens == 5


def test_responses(server: Server) -> None:
    made = litellm().responses(input=QUESTION, temperature=0, max_output_tokens=40, **settings(server, "openai"))
    assert made.output[0].content[0].text == ANSWER
    events = list(
        litellm().responses(
            input=QUESTION, temperature=0, max_output_tokens=40, stream=True, **settings(server, "openai")
        )
    )
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == ANSWER


def test_messages(server: Server) -> None:
    """Its pass-through of `/v1/messages`; `stream` of that needs LiteLLM's proxy, not only its library."""
    asked = settings(server, "anthropic", messages=user(QUESTION), max_tokens=40, temperature=0)
    made = asyncio.run(litellm().anthropic.messages.acreate(**asked))
    assert (made["content"][0]["text"], made["stop_reason"]) == (ANSWER, "end_turn")


def test_the_model_is_described(server: Server) -> None:
    found = litellm().get_model_info(f"ollama/{MODEL}", api_base=server.url)
    assert found["max_input_tokens"] == 8192
