"""Anthropic's API on a scripted engine: what Claude Code and Anthropic's clients rely on."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest

from rocmforge.runtime.http.anthropic.requests import read_conversation
from rocmforge.runtime.http.anthropic.schema import MessagesRequest
from rocmforge.runtime.http.app import HttpLimits
from rocmforge.runtime.http.core.body import convert
from rocmforge.tests.support.fake_engine import VOCAB_SIZE, FakeEngine, FakeTemplate, make_app

HELLO = [{"role": "user", "content": "hello"}]  # 12 tokens with its role, and BOS
READ: dict[str, Any] = {"name": "Read", "input_schema": {"type": "object"}}
SEARCH: dict[str, Any] = {"name": "Search", "input_schema": {"type": "object"}, "defer_loading": True}
CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}


def client_of(engine: FakeEngine, **more: Any) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine, **more))


def body(**more: Any) -> dict[str, Any]:
    return {"messages": HELLO, "max_tokens": 5, **more}


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def error_of(client: falcon.testing.TestClient, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    result = client.simulate_post(path, json=asked)
    assert result.status_code == 400
    error: dict[str, Any] = result.json["error"]
    return error


def test_a_prompt_that_is_too_long_is_said_in_anthropics_words() -> None:
    """Claude Code reads these sentences whole."""
    client = client_of(FakeEngine(max_context=12))
    error = error_of(client, "/v1/messages", body(max_tokens=1))
    assert error["message"] == "prompt is too long: 12 tokens > 11 maximum"
    assert error["type"] == "invalid_request_error"
    error = error_of(client, "/v1/chat/completions", body(max_tokens=1))
    assert error["message"] == "prompt: 12 tokens exceeds the available context size of 12"


def test_a_model_that_is_not_there_is_said_in_anthropics_words() -> None:
    result = client_of(FakeEngine()).simulate_post("/v1/messages", json=body(model="gpt"))
    assert result.status_code == 404
    assert (result.json["type"], result.json["error"]["type"]) == ("error", "not_found_error")


def test_a_limit_of_the_server_is_said_in_the_same_words() -> None:
    client = client_of(FakeEngine(), limits=HttpLimits(max_prompt_tokens=8))
    assert error_of(client, "/v1/messages", body())["message"] == "prompt is too long: 12 tokens > 8 maximum"


def test_an_answer_that_is_too_long_is_said_in_anthropics_words() -> None:
    """What may be asked for can be computed from them: 16 - 12."""
    client = client_of(FakeEngine(max_context=16))
    expected = (
        "input length and `max_tokens` exceed context limit: 12 + 5 > 16, "
        "decrease input length or `max_tokens` and try again"
    )
    assert error_of(client, "/v1/messages?beta=true", body())["message"] == expected
    assert client.simulate_post("/v1/messages", json=body(max_tokens=4)).status_code == 200
    assert client.simulate_post("/v1/messages/count_tokens", json={"messages": HELLO}).json == {"input_tokens": 12}
    long = [{"role": "user", "content": "x" * 100_000}]  # may be counted all the same
    assert client.simulate_post("/v1/messages/count_tokens", json={"messages": long}).json == {"input_tokens": 100_007}
    assert "exceeds the available context size" in error_of(client, "/v1/chat/completions", body())["message"]


def test_what_the_cache_held_is_counted_apart() -> None:
    client = client_of(FakeEngine(cached_tokens=8))
    cached = {"input_tokens": 4, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 0}
    assert client.simulate_post("/v1/messages", json=body()).json["usage"] == cached | {"output_tokens": 5}
    events = events_of(client.simulate_post("/v1/messages", json=body(stream=True)).text)
    assert events[1]["message"]["usage"] == cached | {"output_tokens": 0}
    assert events[-2]["usage"] == cached | {"output_tokens": 5}


def test_a_stream_that_fails_before_its_first_token_is_an_error() -> None:
    client = client_of(FakeEngine(fail_after=0))
    events = events_of(client.simulate_post("/v1/messages", json=body(stream=True)).text)
    assert [event["type"] for event in events] == ["ping", "error"]


@pytest.mark.parametrize("name", ["output_config.format", "output_format"])
def test_an_output_format_is_a_constraint(name: str) -> None:
    format_ = {"type": "json_schema", "schema": CITY}
    given = {"output_format": format_} if name == "output_format" else {"output_config": {"format": format_}}
    spec = read_conversation(convert(body(**given), MessagesRequest), VOCAB_SIZE).params.constraint
    assert spec is not None
    assert (spec.kind, spec.source, spec.parameter) == ("json_schema", CITY, name)


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"output_format": {"type": "text"}}, "output_format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_config": {"effort": "some"}}, "output_config.effort"),
        (
            {
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
                "output_format": {"type": "json_schema", "schema": {}},
            },
            "output_format",
        ),
    ],
)
def test_wrong_output_formats(given: dict[str, Any], parameter: str) -> None:
    assert error_of(client_of(FakeEngine()), "/v1/messages", body(**given))["param"] == parameter


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({}, {}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {"output_config": {"effort": "max"}, "thinking": {"type": "adaptive", "display": "omitted"}},
            {"reasoning_effort": "high", "enable_thinking": True},
        ),
        (
            {"output_config": {"effort": "high"}, "thinking": {"type": "disabled"}},
            {"reasoning_effort": "high", "enable_thinking": False},
        ),
    ],
)
def test_effort_and_thinking_reach_the_template(given: dict[str, Any], variables: dict[str, object]) -> None:
    template = FakeTemplate()
    client = client_of(FakeEngine(), template=template)
    for path, asked in (("/v1/messages", body(**given)), ("/v1/messages/count_tokens", {"messages": HELLO, **given})):
        assert client.simulate_post(path, json=asked).status_code == 200
        assert template.extra == variables


def test_a_system_message_stands_where_it_is() -> None:
    template = FakeTemplate()
    notes = [{"type": "text", "text": "Now Linux.", "cache_control": {"type": "ephemeral"}}]
    asked = body(
        system=[{"type": "text", "text": "Be brief."}], messages=[*HELLO, {"role": "system", "content": notes}]
    )
    assert client_of(FakeEngine(), template=template).simulate_post("/v1/messages", json=asked).status_code == 200
    assert [(message["role"], message["content"]) for message in template.messages] == [
        ("system", "Be brief."),
        ("user", "hello"),
        ("system", "Now Linux."),
    ]


def test_a_template_that_takes_no_later_system_message() -> None:
    """Claude Code tells it from other errors by "not supported", and the role."""
    client = client_of(FakeEngine(), template=FakeTemplate(strict=True))
    error = error_of(client, "/v1/messages", body(messages=[*HELLO, {"role": "system", "content": "Linux."}]))
    expected = (
        'messages: chat template: user and assistant take turns; the role "system" behind the first message is not'
    )
    assert error["message"] == f"{expected} supported by all templates"
    assert (
        "system"
        not in error_of(client, "/v1/messages", body(messages=[{"role": "assistant", "content": "x"}] * 2))["message"]
    )


def change(kind: str, tool: dict[str, Any]) -> dict[str, Any]:
    return {"role": "system", "content": [{"type": kind, "tool": tool}]}


FOUND = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": []}]}
REFERENCE = {"type": "tool_reference", "tool_name": "Search"}
NAMED = {"type": "tool_reference", "name": "Search"}
DEFINED = {"type": "tool_definition", "definition": {"name": "Write", "input_schema": CITY}}


@pytest.mark.parametrize(
    ("messages", "names"),
    [
        ([], ["Read"]),
        ([{"role": "user", "content": [{**FOUND["content"][0], "content": [REFERENCE]}]}], ["Read", "Search"]),  # type: ignore[dict-item]
        ([change("tool_addition", NAMED)], ["Read", "Search"]),
        ([change("tool_addition", DEFINED)], ["Read", "Write"]),
        ([change("tool_addition", NAMED), change("tool_removal", NAMED)], ["Read"]),
        ([change("tool_removal", {"type": "tool_reference", "name": "Read"})], []),
        ([change("tool_removal", {"type": "tool_reference", "name": "Unknown"})], ["Read"]),
    ],
)
def test_tools_come_and_go_with_the_messages(messages: list[Any], names: list[str]) -> None:
    """One that is deferred costs no prompt until it is asked for; what changes tools is no text of the prompt."""
    template = FakeTemplate()
    asked = body(messages=[*HELLO, *messages], tools=[READ, SEARCH])
    assert client_of(FakeEngine(), template=template).simulate_post("/v1/messages", json=asked).status_code == 200
    assert [tool["function"]["name"] for tool in template.tools or ()] == names  # type: ignore[index]
    roles = [message["role"] for message in template.messages]
    assert roles == ["user", *("tool" for message in messages if message["role"] == "user")]
    assert "Search" in str(template.messages) or not roles[1:]


def test_a_change_of_tools_that_names_none() -> None:
    asked = body(messages=[*HELLO, change("tool_addition", {"type": "tool_reference"})], tools=[READ])
    assert error_of(client_of(FakeEngine()), "/v1/messages", asked)["param"] == "messages[1].content[0].tool"


@pytest.mark.parametrize("given, top_k", [(None, 0), (0, 0), (5, 5), (-1, 0), (10**6, VOCAB_SIZE)])
def test_top_k_is_taken_and_held_to_the_vocabulary(given: int | None, top_k: int) -> None:
    engine = FakeEngine()
    more = {} if given is None else {"top_k": given}
    assert client_of(engine).simulate_post("/v1/messages", json=body(**more)).status_code == 200
    assert engine.last.request.sampling.top_k == top_k
