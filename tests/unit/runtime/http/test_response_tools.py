"""Tools of /v1/responses as agents send them: those that OpenAI runs itself, namespaces, custom tools."""

from __future__ import annotations

import json
import logging
from typing import Any

import falcon.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.runtime.http.app import create_app
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.text.text_tools import TextInput, input_arguments
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer, make_app
from rocmforge.tests.support.openai_requests import CITY, LARK, Specs, events

WEATHER = {"type": "function", "name": "weather", "description": "Now.", "parameters": CITY}
SPACE = {"type": "namespace", "name": "agents", "description": "Others.", "tools": [{**WEATHER, "name": "ask"}]}
PATCH = {"type": "custom", "name": "patch", "description": "Edit.", "format": LARK}
HOSTED = [{"type": "web_search", "external_web_access": False}, {"type": "tool_search", "execution": "client"}]


def served(reply: list[str], **engine: Any) -> tuple[falcon.testing.TestClient, FakeTemplate, Specs]:
    template, specs = FakeTemplate(), Specs()
    service = Service(FakeEngine(reply=reply, **engine), FakeTokenizer(), template, MODEL, specs)
    app = create_app(OneModel(service), Metrics(), HttpLimits(poll_seconds=0.02))
    return falcon.testing.TestClient(app), template, specs


def ask(client: falcon.testing.TestClient, **body: Any) -> dict[str, Any]:
    """The document, which is the same as a stream."""
    body = {"input": "hi", **body}
    whole = client.simulate_post("/v1/responses", json=body)
    assert whole.status_code == 200, whole.text
    sent = events(client.simulate_post("/v1/responses", json={**body, "stream": True}))
    changing = {"id", "created_at", "call_id"}

    def fixed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fixed(item) for key, item in value.items() if key not in changing}
        return [fixed(item) for item in value] if isinstance(value, list) else value

    assert fixed(sent[-1]["response"]) == fixed(whole.json)
    for event in sent:
        if event["type"].endswith("_input.delta"):
            assert event["item_id"] == sent[-1]["response"]["output"][event["output_index"]]["id"]
    document: dict[str, Any] = {**whole.json, "events": sent}
    return document


def names_of(template: FakeTemplate) -> list[str]:
    tools: Any = template.tools or ()
    return [tool["function"]["name"] for tool in tools]


def called(name: str, arguments: str) -> list[str]:
    return ["<tool_call>", f'{{"name": "{name}", "arguments": ', *arguments, "}</tool_call>"]


def test_tools_that_openai_runs_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    client, template, _ = served(called("weather", '{"city": "Rome"}'))
    with caplog.at_level(logging.WARNING):
        document = ask(client, tools=[WEATHER, *HOSTED])
    assert document["warnings"] == [
        "tools[1]: web_search is not served here, and left out",
        "tools[2]: tool_search is not served here, and left out",
    ]
    assert "; ".join(document["warnings"]) in caplog.messages
    assert names_of(template) == ["weather"]
    (call,) = document["output"]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"city": "Rome"}')
    assert "warnings" not in ask(client, tools=[WEATHER])


@pytest.mark.parametrize(
    "body, parameter",
    [
        ({"tools": HOSTED, "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": HOSTED, "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom", "name": "patch"}}, "tool_choice"),
        ({"tools": [WEATHER, {"type": "custom"}]}, "tools[1].name"),
        ({"tools": [{"type": "namespace", "tools": []}]}, "tools[0].name"),
        ({"tools": [{**SPACE, "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"tools": [{**PATCH, "format": {"type": "grammar"}}]}, "tools[0].format"),
        ({"tools": [{**PATCH, "format": {**LARK, "syntax": "gbnf"}}]}, "tools[0].format.syntax"),
        ({"input": [{"type": "custom_tool_call", "name": "patch", "input": "a"}]}, "input[0]"),
    ],
)
def test_what_is_refused_is_named(body: dict[str, Any], parameter: str) -> None:
    client, _, _ = served([])
    result = client.simulate_post("/v1/responses", json={"input": "hi", **body})
    assert (result.status_code, result.json["error"]["param"]) == (400, parameter)


def test_a_namespace_is_a_prefix_for_the_model_alone() -> None:
    client, template, specs = served(called("agents__ask", '{"city": "Rome"}'))
    document = ask(client, tools=[WEATHER, SPACE])
    assert names_of(template) == ["weather", "agents__ask"]
    (call,) = document["output"]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "agents", "ask")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    ask(client, input=[{"role": "user", "content": "hi"}, call, result], tools=[SPACE])
    calls: Any = template.messages[1]["tool_calls"]
    assert calls[0]["function"] == {"name": "agents__ask", "arguments": {"city": "Rome"}}
    ask(client, tools=[SPACE], tool_choice={"type": "function", "namespace": "agents", "name": "ask"})
    asked: Any = specs.asked[-1].source
    assert asked["properties"]["name"] == {"const": "agents__ask"}


TEXT = 'a "b" \\ \n é 😀'


def test_a_custom_tool_takes_a_text() -> None:
    client, template, specs = served(called("patch", json.dumps({"input": TEXT})))
    document = ask(client, tools=[WEATHER, PATCH])
    (call,) = document["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "patch", TEXT)
    assert call["status"] == "completed"
    told: Any = template.tools or ()
    function = told[1]["function"]
    assert function["description"] == f"Edit.\nThe input matches this lark grammar:\n{LARK['definition']}"
    assert function["parameters"]["required"] == ["input"]
    kinds = [event["type"] for event in document["events"]]
    deltas = [event["delta"] for event in document["events"] if event["type"].endswith("custom_tool_call_input.delta")]
    assert len(deltas) > 5
    assert "".join(deltas) == TEXT
    assert kinds[-3:] == [
        "response.custom_tool_call_input.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert document["events"][-3]["input"] == TEXT
    result = {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "done"}
    ask(client, input=[{"role": "user", "content": "hi"}, call, result], tools=[PATCH])
    calls: Any = template.messages[1]["tool_calls"]
    assert calls[0]["function"] == {"name": "patch", "arguments": {"input": TEXT}}
    assert template.messages[2] == {"role": "tool", "content": "done", "tool_call_id": call["call_id"]}
    reference = {"type": "item_reference", "id": call["id"]}
    ask(client, input=[{"role": "user", "content": "hi"}, reference, result], tools=[PATCH])
    assert template.messages[1]["tool_calls"] == calls
    assert not specs.asked


@pytest.mark.parametrize(
    "shape, kind",
    [(LARK, "grammar"), ({**LARK, "syntax": "regex"}, "regex"), ({"type": "text"}, None), (None, None)],
)
@pytest.mark.parametrize("choice", [{"type": "custom", "name": "patch"}, "required"])
def test_a_custom_tool_that_must_be_called_is_the_answer(shape: Any, kind: str | None, choice: Any) -> None:
    client, _, specs = served(["a", ' "b" \\', " \n", " é 😀"])
    tools = [{**PATCH, "format": shape}, *([] if choice == "required" else [WEATHER])]
    document = ask(client, tools=tools, tool_choice=choice, text={"format": {"type": "json_object"}})
    (call,) = document["output"]
    assert (call["type"], call["name"], call["input"], call["status"]) == (
        "custom_tool_call",
        "patch",
        TEXT,
        "completed",
    )
    asked = [(spec.kind, spec.source, spec.parameter) for spec in specs.asked]
    assert asked == ([] if kind is None else [(kind, LARK["definition"], "tools[0].format.definition")] * 2)


def test_a_custom_call_that_is_cut_is_incomplete() -> None:
    client, _, _ = served(["aa", "ab", "ac"])
    document = ask(client, tools=[PATCH], tool_choice="required", max_output_tokens=2)
    (call,) = document["output"]
    assert (call["input"], call["status"], document["status"]) == ("aaab", "incomplete", "incomplete")


def test_history_of_tools_that_openai_ran_is_left_out() -> None:
    client, template, _ = served(["Yes."])
    gone = [{"type": "web_search_call", "id": "ws", "status": "completed"}, {"type": "compaction", "id": "c"}]
    ask(client, input=[{"role": "user", "content": "hi"}, *gone])
    assert template.messages == ({"role": "user", "content": "hi"},)


def test_messages_of_one_author_are_one_for_templates_that_have_them_take_turns() -> None:
    client, template, _ = served(["Yes."])
    template.strict = True
    said = [("developer", "a"), ("system", "b"), ("user", "c"), ("user", "d"), ("assistant", "e"), ("assistant", "f")]
    items = [{"role": role, "content": [{"type": "input_text", "text": text}]} for role, text in said]
    ask(client, input=[*items, {"role": "user", "content": "g"}], instructions="z")
    read = [(message["role"], message["content"]) for message in template.messages]
    assert read == [
        ("system", "z\n\na\n\nb"),
        ("user", "c\n\nd"),
        ("assistant", "e"),
        ("assistant", "f"),
        ("user", "g"),
    ]


def test_instructions_are_of_one_response_alone() -> None:
    """What the developer says in the input goes on."""
    client, template, _ = served(["Yes."])
    said = [{"role": "developer", "content": "d"}, {"role": "user", "content": "u"}]
    first = ask(client, input=said, instructions="one")["id"]
    read = [("system", "d"), ("user", "u"), ("assistant", "Yes."), ("user", "v")]
    for instructions, system in ((None, "d"), ("two", "two\n\nd"), ("", "d")):
        second = ask(client, input="v", instructions=instructions, previous_response_id=first)["id"]
        found = [(message["role"], message["content"]) for message in template.messages]
        assert found == [("system", system), *read[1:]]
        ask(client, input="w", previous_response_id=second)
        found = [(message["role"], message["content"]) for message in template.messages]
        assert found == [*read, ("assistant", "Yes."), ("user", "w")]


@pytest.mark.parametrize("given", [{"conversation": "conv_1"}, {"conversation": {"id": "c"}}, {"prompt": {"id": "p"}}])
def test_what_only_openai_keeps_is_refused(given: dict[str, Any]) -> None:
    client, _, _ = served(["Yes."])
    result = client.simulate_post("/v1/responses", json={"input": "hi", **given})
    assert result.status_code == 400
    assert (result.json["error"]["param"], result.json["error"]["code"]) == (next(iter(given)), "unsupported_parameter")
    ask(client, **dict.fromkeys(given))


def test_calls_that_follow_each_other_are_of_one_message() -> None:
    client, template, _ = served(["Yes."])
    call = {"type": "function_call", "name": "weather", "arguments": "{}"}
    calls = [{**call, "call_id": name} for name in "abc"]
    results = [{"type": "function_call_output", "call_id": name, "output": name} for name in "abc"]
    said = {"role": "assistant", "content": "Look."}
    items: list[Any] = [{"role": "user", "content": "hi"}, calls[0], results[0], said, *calls[1:], *results[1:]]
    ask(client, input=items, tools=[WEATHER])
    read: Any = template.messages
    assert [message["role"] for message in read] == ["user", "assistant", "tool", "assistant", "tool", "tool"]
    assert [[made["id"] for made in message.get("tool_calls", ())] for message in read] == [
        [],
        ["a"],
        [],
        ["b", "c"],
        [],
        [],
    ]
    assert read[3]["content"] == "Look."


@given(st.text(st.characters(codec="utf-8")), st.booleans(), st.data())
def test_the_input_of_any_pieces(text: str, ascii_only: bool, data: st.DataObject) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arguments)), max_size=8)))
    pieces = [arguments[a:b] for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
    reader = TextInput()
    parts = [reader.push(piece) for piece in pieces]
    assert "".join(parts) == text
    assert reader.flush() == ""


@pytest.mark.parametrize(
    "arguments, text",
    [
        ('{"patch": "x"}', '{"patch": "x"}'),
        ('{"why": 1, "input": "x"}', "x"),
        ('{"input": 5}', '{"input": 5}'),
        ('{"input": "a\\ud83d b"}', "a\ud83d b"),
        (input_arguments(TEXT), TEXT),
    ],
)
def test_the_input_of_arguments_in_another_form(arguments: str, text: str) -> None:
    reader = TextInput()
    assert "".join(map(reader.push, arguments)) + reader.flush() == text


def test_a_required_tool_wins_over_the_format_of_the_answer() -> None:
    """Those that ask for both mean a call first, and the format for the answer after its result."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [tool], "tool_choice": "required"}
    reply = ['{"name": "weather", ', '"arguments": {"city": "Rome"}}']
    client, _, specs = served(reply)
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    result = client.simulate_post("/v1/chat/completions", json={**body, "response_format": shape})
    assert result.json["choices"][0]["finish_reason"] == "tool_calls"
    assert [spec.parameter for spec in specs.asked] == ["tools"]
    for name in ("regex", "grammar"):
        result = client.simulate_post("/v1/chat/completions", json={**body, name: "a"})
        assert (result.status_code, result.json["error"]["param"]) == (400, name)


@pytest.mark.parametrize("changes", [{"tool_choice": "required"}, {"response_format": {"type": "json_object"}}])
def test_what_is_constrained_is_no_reasoning(changes: dict[str, Any]) -> None:
    """Where the template has opened the reasoning, and the constraint leaves no room for any."""
    client, template, _ = served(['{"name": "weather", ', '"arguments": {"city": "Rome"}}'])
    template.suffix = "<think>\n"
    tool = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [tool], **changes}
    choice = client.simulate_post("/v1/chat/completions", json=body).json["choices"][0]
    assert "reasoning_content" not in choice["message"]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Rome"}'}


def test_what_was_asked_for_comes_back() -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine()))
    plain: dict[str, Any] = {
        **{"temperature": 1.0, "top_p": 1.0, "truncation": "disabled", "store": True, "parallel_tool_calls": True},
        **{"instructions": None, "max_output_tokens": None, "metadata": {}, "tools": [], "tool_choice": "auto"},
    }
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    asked: dict[str, Any] = {
        **{"temperature": 0.25, "top_p": 0.5, "truncation": "auto", "store": False, "parallel_tool_calls": False},
        **{"instructions": "Be brief.", "max_output_tokens": 9, "metadata": {"a": "b"}, "tool_choice": "none"},
    }
    without, document = ask(client), ask(client, **asked)
    assert {name: without[name] for name in plain} == plain
    assert {name: document[name] for name in asked} == asked
    [told] = ask(client, tools=[tool])["tools"]
    assert tool.items() <= told.items()


def test_one_app_without_tools_is_as_before() -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine()))
    assert ask(client)["output"][0]["type"] == "message"
