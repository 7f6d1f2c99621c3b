"""Tool calls and reasoning as Ollama's and LangChain's clients read them. What the model says is scripted here: one as
small as SmolLM2 calls no tool by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import ollama
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.tools import tool
from langchain_ollama import ChatOllama

from rocmforge.runtime.http.transport.server import Server
from rocmforge.tests.support.fake_engine import FakeEngine, FakeTemplate, make_app

MODEL = "org/tiny:q4"
QUESTION = [{"role": "user", "content": "weather?"}]
CALLS = [
    "<think>",
    "Two cities.",
    "</think>",
    "Let me look.",
    '<tool_call>{"name": "weather", ',
    '"arguments": {"city": "Zürich", "days": 2}}</tool_call>',
    '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>',
]
ARGUMENTS = [{"city": "Zürich", "days": 2}, {"city": "Bern"}]

Start = Callable[[list[str]], str]


@pytest.fixture
def template() -> FakeTemplate:
    return FakeTemplate()


@pytest.fixture
def start(template: FakeTemplate) -> Iterator[Start]:
    """Serve a model that says what it is given; returns the URL."""
    running: list[tuple[Server, threading.Thread]] = []

    def serve(reply: list[str]) -> str:
        engine = FakeEngine(reply=reply, max_context=1024)
        server = Server(make_app(engine, template=template), "127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=(0.1,), daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.address[1]}"

    yield serve
    for server, thread in running:
        server.stop()
        thread.join(10)


def weather(city: str, days: int = 1) -> str:
    """Tell the weather.

    Args:
        city: where.
        days: how many.
    """
    return f"sunny in {city} for {days}"


def test_ollama_whole_and_streamed(start: Start) -> None:
    with ollama.Client(start(CALLS)) as client:
        whole = client.chat(MODEL, QUESTION, tools=[weather], think=True).message
        parts = [part.message for part in client.chat(MODEL, QUESTION, tools=[weather], think=True, stream=True)]
    assert whole.tool_calls is not None
    assert [(call.function.name, call.function.arguments) for call in whole.tool_calls] == [
        ("weather", arguments) for arguments in ARGUMENTS
    ]
    assert (whole.content, whole.thinking) == ("Let me look.", "Two cities.")
    streamed = [call for part in parts for call in part.tool_calls or ()]
    assert streamed == list(whole.tool_calls)
    assert "".join(part.content or "" for part in parts) == whole.content
    assert "".join(part.thinking or "" for part in parts) == whole.thinking


def test_ollama_sends_the_results_back(start: Start, template: FakeTemplate) -> None:
    with ollama.Client(start(CALLS)) as client:
        asked = client.chat(MODEL, QUESTION, tools=[weather]).message
        assert asked.tool_calls is not None
        results = [
            ollama.Message(role="tool", tool_name=call.function.name, content=weather(**dict(call.function.arguments)))
            for call in asked.tool_calls
        ]
        client.chat(MODEL, [*QUESTION, asked, *results], tools=[weather])
    roles = [message["role"] for message in template.messages]
    assert roles == ["user", "assistant", "tool", "tool"]
    calls = template.messages[1]["tool_calls"]
    assert isinstance(calls, list)
    assert [call["function"]["arguments"] for call in calls] == ARGUMENTS
    assert template.messages[1]["reasoning_content"] == "Two cities."
    assert [message["content"] for message in template.messages[2:]] == ["sunny in Zürich for 2", "sunny in Bern for 1"]
    assert template.tools is not None
    function = template.tools[0]["function"]
    assert isinstance(function, dict)
    assert (function["name"], sorted(function["parameters"]["properties"])) == ("weather", ["city", "days"])


def test_langchain_whole_and_streamed(start: Start) -> None:
    model = ChatOllama(model=MODEL, base_url=start(CALLS), reasoning=True).bind_tools([tool(weather)])
    whole = model.invoke("weather?")
    assert isinstance(whole, AIMessage)
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [
        ("weather", arguments) for arguments in ARGUMENTS
    ]
    assert whole.content == "Let me look."
    assert whole.additional_kwargs["reasoning_content"] == "Two cities."
    streamed: AIMessageChunk | None = None
    for chunk in model.stream("weather?"):
        assert isinstance(chunk, AIMessageChunk)
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [
        (call["name"], call["args"]) for call in whole.tool_calls
    ]


def test_a_call_that_is_cut_off_is_text(start: Start) -> None:
    with ollama.Client(start(CALLS[:5])) as client:
        message = client.chat(MODEL, QUESTION, tools=[weather]).message
        assert message.tool_calls is None
        assert message.content == "Let me look." + CALLS[4]
