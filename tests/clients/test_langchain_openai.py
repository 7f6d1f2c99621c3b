"""LangChain's OpenAI package: chat, tools, structured output, embeddings, and the responses API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field, SecretStr

from rocmforge.tests.clients.common import ANSWER, EMBEDDING_LENGTH, MODEL, QUESTION, WEATHER, cosine
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(max_length=20)


def chat(server: Server, **settings: Any) -> ChatOpenAI:
    common: dict[str, Any] = {
        "model": MODEL,
        "base_url": f"{server.url}/v1",
        "api_key": SecretStr("none"),
        "temperature": 0,
        "max_tokens": 40,
        "max_retries": 0,
        "timeout": PATIENCE_SECONDS,
    }
    return ChatOpenAI(**common | settings)


def join(chunks: Iterable[Any]) -> AIMessageChunk:
    """What a stream said in all."""
    first, *rest = chunks
    return add_ai_message_chunks(first, *rest)


BOTH_APIS = pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])


@BOTH_APIS
def test_an_answer_and_its_stream(server: Server, responses: bool) -> None:
    model = chat(server, use_responses_api=responses, stream_usage=True)
    whole = model.invoke([("system", "Be brief."), ("user", QUESTION)])
    assert (whole.text, whole.usage_metadata is not None) == (ANSWER, True)
    chunks = list(model.stream([("system", "Be brief."), ("user", QUESTION)]))
    assert len([chunk for chunk in chunks if chunk.text]) > 3
    joined = join(chunks)
    assert joined.text == ANSWER
    counts = [
        {key: value for key, value in answer.usage_metadata.items() if key != "input_token_details"}
        for answer in (joined, whole)
        if answer.usage_metadata
    ]
    assert counts[0] == counts[1]  # how much of the input was cached differs
    assert [answer.text for answer in model.batch([QUESTION, QUESTION])] == [ANSWER, ANSWER]


@BOTH_APIS
def test_a_tool_is_called_and_its_result_is_read(server: Server, responses: bool) -> None:
    model = chat(server, use_responses_api=responses)
    bound = model.bind_tools([Weather], tool_choice="required")
    made = bound.invoke(WEATHER)
    (call,) = made.tool_calls
    assert (call["name"], isinstance(call["args"]["city"], str)) == ("Weather", True)
    streamed = join(bound.stream(WEATHER)).tool_calls
    assert [(other["name"], other["args"]) for other in streamed] == [("Weather", call["args"])]
    result = ToolMessage("It is sunny.", tool_call_id=call["id"])
    after = model.bind_tools([Weather]).invoke([("user", WEATHER), made, result])
    assert after.usage_metadata is not None
    assert made.usage_metadata is not None
    assert after.usage_metadata["input_tokens"] > made.usage_metadata["input_tokens"]


@pytest.mark.parametrize(
    "settings, method",
    [({}, "json_schema"), ({}, "function_calling"), ({"use_responses_api": True}, "json_schema")],
    ids=["json_schema", "function_calling", "responses"],
)
def test_structured_output(server: Server, settings: dict[str, Any], method: Any) -> None:
    made = chat(server, **settings).with_structured_output(Weather, method=method).invoke(WEATHER)
    assert isinstance(made, Weather)


def test_memory_of_the_server(server: Server) -> None:
    model = chat(server, use_responses_api=True, use_previous_response_id=True)
    first = model.invoke(QUESTION)
    second = model.invoke([("user", QUESTION), first, ("user", "And of Spain?")])
    assert "Madrid" in second.text


def test_logprobs(server: Server) -> None:
    made = chat(server).bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
    tokens = made.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == ANSWER
    assert all(token["logprob"] == token["top_logprobs"][0]["logprob"] for token in tokens)


def test_embeddings(server: Server) -> None:
    embedder = OpenAIEmbeddings(
        model=MODEL, base_url=f"{server.url}/v1", api_key=SecretStr("none"), check_embedding_ctx_length=False
    )
    cat, kitten, market = embedder.embed_documents(["A cat sleeps.", "A kitten is asleep.", "The stock exchange fell."])
    assert len(cat) == EMBEDDING_LENGTH
    assert cosine(cat, kitten) > cosine(cat, market)
    assert embedder.embed_query("A cat sleeps.") == pytest.approx(cat, abs=1e-5)


@BOTH_APIS
def test_errors_by_type(server: Server, responses: bool) -> None:
    with pytest.raises(openai.NotFoundError):
        chat(server, model="other", use_responses_api=responses).invoke(QUESTION)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat(server, temperature=3, use_responses_api=responses).invoke(QUESTION)
