"""Anthropic's own client against a real server of SmolLM2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pydantic
import pytest

from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "What is the capital of France? One sentence."}]
WEATHER: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL: dict[str, Any] = {
    "name": "get_weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:  # untyped: its unions of blocks are long
    import anthropic  # noqa: PLC0415 - a second and more, of each process that collects tests

    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=PATIENCE_SECONDS) as connected:
        yield connected


def body(**more: Any) -> dict[str, Any]:
    # Greedy by `extra_body`: the newest client has no argument for it.
    return {"model": "smollm2", "max_tokens": 60, "messages": QUESTION, "extra_body": {"temperature": 0}, **more}


def prompt_of(usage: Any) -> int:
    """All tokens of a prompt: those that were cached are counted apart."""
    assert usage.cache_creation_input_tokens == 0
    return int(usage.input_tokens + usage.cache_read_input_tokens)


def test_an_answer(client: Any) -> None:
    made = client.messages.create(**body(system="Be brief."))
    assert (made.content[0].text, made.stop_reason) == ("The capital of France is Paris.", "end_turn")
    counted = client.messages.count_tokens(model="smollm2", messages=QUESTION, system="Be brief.")
    assert prompt_of(made.usage) == counted.input_tokens


def test_a_stream_tells_the_same(client: Any) -> None:
    whole = client.messages.create(**body())
    with client.messages.stream(**body()) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert (final.usage.output_tokens, final.stop_reason) == (whole.usage.output_tokens, "end_turn")


def test_ends(client: Any) -> None:
    stopped = client.messages.create(**body(stop_sequences=["Par", "x"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Par")
    assert stopped.content[0].text == "The capital of France is "
    assert client.messages.create(**body(max_tokens=2)).stop_reason == "max_tokens"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}], ids=["any", "named"])
def test_a_tool_is_called_and_its_result_is_read(client: Any, choice: dict[str, str]) -> None:
    asked = body(messages=WEATHER, tools=[TOOL], tool_choice=choice)
    made = client.messages.create(**asked)
    block = made.content[0]
    assert (made.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "get_weather")
    with client.messages.stream(**asked) as stream:
        assert stream.get_final_message().content[0].input == block.input
    result = {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "It is sunny."}]}
    turn = {"role": "assistant", "content": [{k: getattr(block, k) for k in ("type", "id", "name", "input")}]}
    answer = client.messages.create(
        **body(messages=[*WEATHER, turn, {"role": "user", "content": [result]}], tools=[TOOL])
    )
    assert prompt_of(answer.usage) > prompt_of(made.usage)
    plain = {**result, "content": "It is sunny."}
    counted = client.messages.count_tokens(
        model="smollm2", messages=[*WEATHER, turn, {"role": "user", "content": [plain]}], tools=[TOOL]
    )
    assert counted.input_tokens == prompt_of(answer.usage)
    assert answer.content[0].type == "text"


def test_what_the_cache_held_is_told(client: Any) -> None:
    """The second prompt begins as the first, which was computed whole."""
    long = body(system="The cache test. " * 40, max_tokens=1)
    first = client.messages.create(**long).usage
    second = client.messages.create(**long).usage
    assert (first.cache_read_input_tokens, prompt_of(second)) == (0, first.input_tokens)
    assert second.cache_read_input_tokens > 100
    with client.messages.stream(**long) as stream:
        started = next(event.message.usage for event in stream if event.type == "message_start")
        ended = stream.get_final_message().usage
    assert [
        (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens)
        for usage in (started, ended)
    ] == [(second.input_tokens, second.cache_read_input_tokens, 0)] * 2


class City(pydantic.BaseModel):
    """What an answer is to be."""

    model_config = pydantic.ConfigDict(extra="forbid")
    city: Annotated[str, pydantic.Field(max_length=20)]


FORMAT = {"type": "json_schema", "schema": City.model_json_schema()}


@pytest.mark.parametrize("given", [{"output_config": {"format": FORMAT}}, {"output_format": FORMAT}], ids=min)
def test_structured_output(client: Any, given: dict[str, Any]) -> None:
    asked = body(extra_body={"temperature": 0, **given})
    whole = client.messages.create(**asked)
    assert City.model_validate_json(whole.content[0].text).city
    assert whole.stop_reason == "end_turn"
    with client.messages.stream(**asked) as stream:
        assert stream.get_final_text() == whole.content[0].text


def test_structured_output_is_parsed(client: Any) -> None:
    made = client.messages.parse(**body(output_format=City))
    assert isinstance(made.parsed_output, City)


def test_a_schema_that_is_wrong_is_named(client: Any) -> None:
    import anthropic  # noqa: PLC0415 - a second and more, of each process that collects tests

    wrong = {"format": {"type": "json_schema", "schema": {"type": "no type"}}}
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**body(extra_body={"output_config": wrong}))
    assert refused.value.response.json()["error"]["param"] == "output_config.format"


def test_errors_by_type(client: Any) -> None:
    import anthropic  # noqa: PLC0415 - a second and more, of each process that collects tests

    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**body(model="other"))
    assert missing.value.response.json()["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**body(extra_body={"temperature": 3}))
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client.messages.create(**body(messages=[]))
    assert client.messages.create(**body()).content[0].text
