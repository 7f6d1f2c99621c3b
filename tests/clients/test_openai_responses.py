"""OpenAI's own client, its responses API: answers, memory, tools and streams, against a real server of SmolLM2."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

QUESTION = "What is the capital of France? One sentence."
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/Name"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"Name": {"type": "string", "maxLength": 20}},
    },
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS
    ) as connected:
        yield connected


def create(client: openai.OpenAI, **body: Any) -> Any:
    return client.responses.create(**{"model": "smollm2", "temperature": 0, "max_output_tokens": 40, **body})


def test_an_answer_and_its_memory(client: openai.OpenAI) -> None:
    first = create(client, input=QUESTION)
    assert (first.output_text, first.status) == ("The capital of France is Paris.", "completed")
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    second = create(client, input="And of Spain?", previous_response_id=first.id)
    assert "Madrid" in second.output_text
    assert second.usage.input_tokens > first.usage.total_tokens
    assert 0 < second.usage.input_tokens_details.cached_tokens < second.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        create(client, input="And of Spain?", previous_response_id=first.id)


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI) -> None:
    made = create(client, input=QUESTION, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_stream_tells_the_same(client: openai.OpenAI) -> None:
    whole = create(client, input=QUESTION, instructions="Be brief.")
    events = list(create(client, input=QUESTION, instructions="Be brief.", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text == events[-1].response.output_text
    assert {event.item_id for event in deltas} == {events[-1].response.output[0].id}


def test_the_end_of_the_tokens_is_incomplete(client: openai.OpenAI) -> None:
    made = create(client, input="Tell a long story.", max_output_tokens=5)
    assert (made.status, made.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert made.usage.output_tokens == 5


def test_a_tool_is_called_and_its_result_is_read(client: openai.OpenAI) -> None:
    ask: Any = {"role": "user", "content": "What is the weather in Paris?"}
    made = create(client, input=[ask], tools=[TOOL], tool_choice="required")
    call = made.output[0]
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert isinstance(json.loads(call.arguments)["city"], str)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It is sunny."}
    reference = {"type": "item_reference", "id": call.id}
    whole = create(client, input=[ask, call.model_dump(exclude_none=True), result], tools=[TOOL])
    referred = create(client, input=[ask, reference, result], tools=[TOOL])
    assert whole.usage.input_tokens == referred.usage.input_tokens
    assert whole.output_text == referred.output_text
    with pytest.raises(openai.NotFoundError) as caught:
        create(client, input=[ask, {"type": "item_reference", "id": "fc_gone"}])
    assert caught.value.param == "input[1].id"


def test_a_streamed_call_is_the_same(client: openai.OpenAI) -> None:
    body: Any = {
        "input": "The weather in Paris?",
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "get_weather"},
    }
    events = list(create(client, **body, stream=True))
    call = create(client, **body).output[0]
    parts = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert len(parts) > 2
    assert "".join(parts) == call.arguments
    assert events[-1].response.output[0].arguments == call.arguments


PATCH = """start: "*** Add " NAME LF line+
line: "+" /[a-z ]{1,10}/ LF
NAME: /[a-z]{1,8}/
%import common.LF
"""
EDIT: Any = {
    "type": "custom",
    "name": "edit",
    "description": "Edit a file.",
    "format": {"type": "grammar", "syntax": "lark", "definition": PATCH},
}


def test_a_custom_tool_by_its_grammar(client: openai.OpenAI) -> None:
    body: Any = {"input": "Write a file.", "tools": [EDIT, {"type": "web_search"}], "max_output_tokens": 60}
    choice = {"type": "custom", "name": "edit"}
    call = create(client, **body, tool_choice=choice).output[0]
    assert (call.type, call.name) == ("custom_tool_call", "edit")
    assert re.match(r"\*\*\* Add [a-z]{1,8}\n\+[a-z ]", call.input)
    events = list(create(client, **body, tool_choice=choice, stream=True))
    parts = [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"]
    assert "".join(parts) == call.input
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done."}
    ask: Any = {"role": "user", "content": "Write a file."}
    after = create(client, **{**body, "input": [ask, call.model_dump(exclude_none=True), result]})
    assert after.output_text
    assert len(after.warnings) == 1


def test_structured_output(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    shape = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    made = create(client, input="How many legs has a dog?", text=shape)
    assert isinstance(json.loads(made.output_text)["n"], int)


@pytest.mark.parametrize(
    "change, param",
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "file_search_call", "id": "x"}]}, "input[0].type"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 100_000}, "max_tokens"),
    ],
)
def test_F46_a_bad_request_names_its_parameter(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **{"input": QUESTION, **change})
    assert caught.value.param == param
