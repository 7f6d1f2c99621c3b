"""LangChain's Ollama package against a real server of SmolLM2."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM

from rocmforge.tests.support.process import Server

QUESTION = "What is the capital of France? One sentence."


def make_chat(server: Server, **more: Any) -> ChatOllama:
    given: dict[str, Any] = {"temperature": 0, "num_predict": 30, **more}
    return ChatOllama(model="smollm2", base_url=server.url, validate_model_on_init=True, **given)


@pytest.fixture(scope="module")
def chat(server: Server) -> ChatOllama:
    return make_chat(server)


def test_invoke(chat: ChatOllama) -> None:
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage(QUESTION)])
    assert isinstance(answer, AIMessage)
    assert "Paris" in str(answer.content)
    assert answer.response_metadata["done_reason"] == "stop"
    usage = answer.usage_metadata
    assert usage is not None
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] >= 2


def test_stream_tells_the_same(chat: ChatOllama) -> None:
    chunks = list(chat.stream(QUESTION))
    assert "".join(str(chunk.content) for chunk in chunks) == chat.invoke(QUESTION).content
    assert len(chunks) > 3


def test_several_at_once(chat: ChatOllama) -> None:
    async def ask() -> list[str]:
        answers = await asyncio.gather(*(chat.ainvoke(QUESTION) for _ in range(3)))
        return [str(answer.content) for answer in answers]

    assert set(asyncio.run(ask())) == {chat.invoke(QUESTION).content}


def test_structured_output(server: Server) -> None:
    schema = {
        "title": "capital",
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    answer = make_chat(server, num_predict=60).with_structured_output(schema, method="json_schema").invoke(QUESTION)
    assert isinstance(answer, dict)
    assert list(answer) == ["city"]
    text = make_chat(server, num_predict=200, format="json", seed=1).invoke('Say {"a": 1} and nothing more.').content
    assert isinstance(json.loads(str(text)), dict)


@tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"sunny in {city}"


def test_tools(chat: ChatOllama) -> None:
    """A model of this size calls nothing by itself: what must hold is that each turn is read and answered."""
    bound = chat.bind_tools([weather])
    first, plain = bound.invoke(QUESTION), chat.invoke(QUESTION)
    assert isinstance(first, AIMessage)
    assert isinstance(plain, AIMessage)
    assert first.usage_metadata is not None
    assert plain.usage_metadata is not None
    assert first.usage_metadata["input_tokens"] > plain.usage_metadata["input_tokens"]  # it was told of the tool
    call = {"name": "weather", "args": {"city": "Paris"}, "id": "c1", "type": "tool_call"}
    answer = bound.invoke(
        [
            HumanMessage(QUESTION),
            AIMessage("", tool_calls=[call]),
            ToolMessage("sunny in Paris", tool_call_id="c1", name="weather"),
        ]
    )
    assert answer.response_metadata["done"] is True


@pytest.mark.parametrize("reasoning", [None, False, True])
def test_reasoning_switch(server: Server, reasoning: bool | None) -> None:
    assert "Paris" in str(make_chat(server, reasoning=reasoning).invoke(QUESTION).content)


def test_completion(server: Server) -> None:
    model = OllamaLLM(model="smollm2", base_url=server.url, temperature=0, num_predict=30)
    whole = model.invoke(QUESTION)
    assert "Paris" in whole
    assert "".join(model.stream(QUESTION)) == whole


def test_embeddings(server: Server) -> None:
    model = OllamaEmbeddings(model="smollm2", base_url=server.url)
    vectors = model.embed_documents(["one", "two"])
    assert [len(vector) for vector in vectors] == [576, 576]
    assert model.embed_query("two") == pytest.approx(vectors[1], abs=1e-5)


def test_an_unknown_model(server: Server) -> None:
    with pytest.raises(ValueError, match="not found in Ollama"):
        ChatOllama(model="llama3", base_url=server.url, validate_model_on_init=True)
