"""Calls of tools as they stream, on the three APIs that have their arguments in pieces, and as whole answers."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest

from rocmforge.tests.support.fake_engine import FakeEngine, make_app
from rocmforge.tests.support.openai_requests import events

HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
PIECES = ["Look.", "<tool_call>", '{"name": "weather", "arguments": {"ci', 'ty": "Zü', 'rich"}', "}</tool", "_call>\n"]
ARGUMENTS = ['{"ci', 'ty": "Zü', 'rich"}']
CUT = PIECES[:4]
WRONG = [*PIECES[:2], '{"name": "weather", "arguments": {city', ": Rome}}</tool_call>"]

Parts = tuple[list[str], list[str], str, list[str]]  # texts, names, reason, arguments


def chat(client: falcon.testing.TestClient, **body: Any) -> tuple[Parts, Parts]:
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    body = {"messages": HELLO, "tools": [tool], **body}
    choice = client.simulate_post("/v1/chat/completions", json=body).json["choices"][0]
    calls = [call["function"] for call in choice["message"]["tool_calls"]]
    whole = [choice["message"]["content"] or ""], [call["name"] for call in calls], choice["finish_reason"]
    chunks = events(client.simulate_post("/v1/chat/completions", json={**body, "stream": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    assert [piece["index"] for piece in pieces] == [0] * len(pieces)
    assert [piece.keys() for piece in pieces] == [{"index", "id", "type", "function"}, *[{"index", "function"}] * 3][
        : len(pieces)
    ]
    streamed = (
        [delta["content"] for delta in deltas if delta.get("content")],
        [piece["function"]["name"] for piece in pieces if "name" in piece["function"]],
        chunks[-1]["choices"][0]["finish_reason"],
    )
    texts = [piece["function"]["arguments"] for piece in pieces]
    return (*whole, [call["arguments"] for call in calls]), (*streamed, texts[1:])


def responses(client: falcon.testing.TestClient, **body: Any) -> tuple[Parts, Parts]:
    body = {"input": "hi", "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}], **body}
    body |= {"max_output_tokens": body.pop("max_tokens", None)}

    def parts_of(document: dict[str, Any]) -> Parts:
        text = [item["content"][0]["text"] for item in document["output"] if item["type"] == "message"]
        calls = [item for item in document["output"] if item["type"] == "function_call"]
        reason = {"completed": "tool_calls", "incomplete": "stop"}[calls[-1]["status"]]
        reason = "length" if document["status"] == "incomplete" else reason
        return text, [call["name"] for call in calls], reason, [call["arguments"] for call in calls]

    whole = parts_of(client.simulate_post("/v1/responses", json=body).json)
    sent = events(client.simulate_post("/v1/responses", json={**body, "stream": True}))
    assert parts_of(sent[-1]["response"]) == whole
    (done,) = (event for event in sent if event["type"] == "response.function_call_arguments.done")
    deltas = [event["delta"] for event in sent if event["type"] == "response.function_call_arguments.delta"]
    assert done["arguments"] == "".join(deltas)
    kinds = [event["type"].removeprefix("response.") for event in sent]
    at = kinds.index("function_call_arguments.done")
    assert kinds[at - len(deltas) - 1] == "output_item.added"
    assert kinds[at + 1] == "output_item.done"
    assert sent[at + 1]["item"]["arguments"] == done["arguments"]
    texts = [event["delta"] for event in sent if event["type"] == "response.output_text.delta"]
    return whole, (texts, whole[1], whole[2], deltas)


def messages(client: falcon.testing.TestClient, **body: Any) -> tuple[Parts, Parts]:
    body = {"messages": HELLO, "max_tokens": 64, "tools": [{"name": "weather", "input_schema": SCHEMA}], **body}
    reasons = {"tool_use": "tool_calls", "end_turn": "stop", "max_tokens": "length"}
    document = client.simulate_post("/v1/messages", json=body).json
    calls = [block for block in document["content"] if block["type"] == "tool_use"]
    texts = [block["text"] for block in document["content"] if block["type"] == "text"]
    inputs = [json.dumps(call["input"], ensure_ascii=False) for call in calls]
    whole = texts, [call["name"] for call in calls], reasons[document["stop_reason"]], inputs
    sent = events(client.simulate_post("/v1/messages", json={**body, "stream": True}))
    blocks = [(event["type"], event["index"]) for event in sent if event["type"].startswith("content_block")]
    assert [b for b in blocks if b[0] != "content_block_delta"] == [
        (kind, index) for index in range(2) for kind in ("content_block_start", "content_block_stop")
    ]
    assert blocks == sorted(blocks, key=lambda block: block[1])  # no block grows after its end
    deltas = [event["delta"] for event in sent if event["type"] == "content_block_delta"]
    starts = [event["content_block"] for event in sent if event["type"] == "content_block_start"]
    reason = next(event["delta"]["stop_reason"] for event in sent if event["type"] == "message_delta")
    streamed = (
        [delta["text"] for delta in deltas if "text" in delta],
        [start["name"] for start in starts if start["type"] == "tool_use"],
        reasons[reason],
        [delta["partial_json"] for delta in deltas if "partial_json" in delta],
    )
    return whole, streamed


API = pytest.mark.parametrize("ask", [chat, responses, messages])


@API
def test_arguments_come_in_the_models_own_pieces(ask: Any) -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(reply=PIECES)))
    whole, streamed = ask(client)
    assert streamed == (["Look."], ["weather"], "tool_calls", ARGUMENTS)
    assert whole == (["Look."], ["weather"], "tool_calls", ["".join(ARGUMENTS)])


@API
def test_a_call_that_breaks_off_is_streamed_as_far_as_it_goes(ask: Any) -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(reply=CUT)))
    whole, streamed = ask(client, max_tokens=4)
    assert streamed == (["Look."], ["weather"], "length", ARGUMENTS[:2])
    if ask is messages:  # whose whole calls hold an object
        assert whole == (['Look.{"name": "weather", "arguments": {"city": "Zü'], [], "length", [])
    else:
        assert whole == (["Look."], ["weather"], "length", ["".join(ARGUMENTS[:2])])


@API
def test_a_call_whose_arguments_are_no_json_is_no_reason_to_go_on(ask: Any) -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(reply=WRONG)))
    whole, streamed = ask(client)
    assert streamed == (["Look."], ["weather"], "stop", ["{city", ": Rome}"])
    if ask is messages:
        assert whole == (['Look.{"name": "weather", "arguments": {city: Rome}'], [], "stop", [])
    else:
        assert whole == (["Look."], ["weather"], "stop", ["{city: Rome}"])


def test_text_after_a_call_in_the_same_piece_follows_it() -> None:
    pieces = ['<tool_call>{"name": "weather", "arguments": {"a": 1', "}}</tool_call> So be it."]
    client = falcon.testing.TestClient(make_app(FakeEngine(reply=pieces)))
    body = {"messages": HELLO, "max_tokens": 64, "tools": [{"name": "weather", "input_schema": SCHEMA}]}
    sent = events(client.simulate_post("/v1/messages", json={**body, "stream": True}))
    deltas = [(event["index"], *event["delta"].values()) for event in sent if event["type"] == "content_block_delta"]
    assert deltas == [
        (0, "input_json_delta", '{"a": 1'),
        (0, "input_json_delta", "}"),
        (1, "text_delta", " So be it."),
    ]


def test_one_call_where_only_one_may_be() -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(reply=[*PIECES, *PIECES[1:]])))
    for kind in (chat, responses):
        whole, streamed = kind(client, parallel_tool_calls=False)
        assert streamed[1:] == (["weather"], "tool_calls", ARGUMENTS)
        assert whole[1] == ["weather"]
