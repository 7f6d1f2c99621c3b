"""Answers in a family's own form, by every API: control tokens are asked for, and calls and reasoning come of them."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest

from rocmforge.runtime.http.app import HttpLimits, create_app
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.text.control_text import ControlTexts
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer
from rocmforge.tests.support.openai_requests import events

HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
FUNCTION = {"name": "weather", "description": "", "parameters": SCHEMA}
HARMONY = "{{ tools }}<|channel|>analysis<|message|>"
TAGGED = "{{ tools }}<tool_call><function=f><parameter=p>"
ANSWERS = {
    HARMONY: [
        *("<|channel|>", "analysis", "<|message|>", "Hm", ".", "<|end|>", "<|start|>", "assistant", "<|channel|>"),
        *("commentary", " to=functions.weather", "<|message|>", '{"city": "Ro', 'me", "days": 2}'),
    ],
    TAGGED: [
        *(
            "<think>",
            "Hm.",
            "</think>\n",
            "<tool_call>\n<func",
            "tion=weather>\n<parameter=ci",
            "ty>\nRo",
            "me\n</para",
        ),
        *("meter>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",),
    ],
}
MARKS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")


class MarkedTokenizer(FakeTokenizer):
    """Control tokens of Harmony have ids behind those of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.control_texts = ControlTexts(MARKS)

    def encode(self, text: str, *args: Any, **kwargs: Any) -> list[int]:
        return [300 + MARKS.index(text)] if text in MARKS else super().encode(text, *args, **kwargs)


@pytest.fixture(params=ANSWERS, ids=["harmony", "tagged"])
def served(request: pytest.FixtureRequest) -> tuple[falcon.testing.TestClient, FakeEngine]:
    engine, template = FakeEngine(reply=ANSWERS[request.param]), FakeTemplate()
    template.source = request.param
    service = Service(engine, MarkedTokenizer(), template, MODEL)
    app = create_app(OneModel(service), Metrics(), HttpLimits(poll_seconds=0.02))
    kept = (300, 301, 302, 303) if request.param == HARMONY else ()
    assert sorted(service.answers.kept_tokens) == list(kept)
    return falcon.testing.TestClient(app), engine


def test_openai_chat(served: tuple[falcon.testing.TestClient, FakeEngine]) -> None:
    client, engine = served
    body = {"messages": HELLO, "tools": [{"type": "function", "function": FUNCTION}]}
    choice = client.simulate_post("/v1/chat/completions", json=body).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "Hm."
    assert not choice["message"]["content"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Rome", "days": 2}'}
    sent = events(client.simulate_post("/v1/chat/completions", json={**body, "stream": True}))
    deltas = [one["choices"][0]["delta"] for one in sent]
    calls = [one["function"] for delta in deltas for one in delta.get("tool_calls", ())]
    assert [one["name"] for one in calls if "name" in one] == ["weather"]
    pieces = [one["arguments"] for one in calls]
    assert "".join(pieces) == '{"city": "Rome", "days": 2}'
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Hm."
    assert sorted(engine.last.request.kept_tokens) in ([], [300, 301, 302, 303])


def test_responses(served: tuple[falcon.testing.TestClient, FakeEngine]) -> None:
    client, _ = served
    body = {"input": "hi", "tools": [{"type": "function", **FUNCTION}]}
    (call,) = (
        item
        for item in client.simulate_post("/v1/responses", json=body).json["output"]
        if item["type"] == "function_call"
    )
    assert (call["name"], call["arguments"]) == ("weather", '{"city": "Rome", "days": 2}')


def test_anthropic(served: tuple[falcon.testing.TestClient, FakeEngine]) -> None:
    client, _ = served
    tool = {"name": "weather", "input_schema": SCHEMA}
    body = {"messages": HELLO, "tools": [tool], "max_tokens": 50, "model": MODEL.name}
    document = client.simulate_post("/v1/messages", json=body).json
    (call,) = (block for block in document["content"] if block["type"] == "tool_use")
    assert (call["name"], call["input"], document["stop_reason"]) == (
        "weather",
        {"city": "Rome", "days": 2},
        "tool_use",
    )
    sent = events(client.simulate_post("/v1/messages", json={**body, "stream": True}))
    pieces = [one["delta"]["partial_json"] for one in sent if one.get("delta", {}).get("type") == "input_json_delta"]
    assert json.loads("".join(pieces)) == {"city": "Rome", "days": 2}
    assert len(pieces) > 1


def test_ollama(served: tuple[falcon.testing.TestClient, FakeEngine]) -> None:
    client, engine = served
    body = {"messages": HELLO, "tools": [{"type": "function", "function": FUNCTION}], "stream": False}
    message = client.simulate_post("/api/chat", json={"model": MODEL.name, **body}).json["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == {"city": "Rome", "days": 2}
    assert (message["thinking"], message["content"]) == ("Hm.", "")
    assert sorted(engine.last.request.kept_tokens) in ([], [300, 301, 302, 303])
