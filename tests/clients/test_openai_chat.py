"""OpenAI's own client: chat with tools, several choices, structured output, embeddings, and errors by type."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from rocmforge.tests.clients.common import ANSWER, EMBEDDING_LENGTH, MODEL, QUESTION, TOOL, WEATHER, cosine, user
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, serving


def connect(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with connect(server.url) as connected:
        yield connected


def create(client: openai.OpenAI, question: str = QUESTION, **body: Any) -> Any:
    asked = {"model": MODEL, "messages": user(question), "max_tokens": 40, "temperature": 0, **body}
    return client.chat.completions.create(**asked)


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list()
    assert (model.id, model.owned_by) == (MODEL, "rocmforge")
    assert client.models.retrieve(MODEL) == model


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    whole = create(client)
    assert whole.choices[0].message.content == ANSWER
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == ANSWER
    used = chunks[-1].usage
    details = {"prompt_tokens_details"}
    assert chunks[-1].choices == []
    assert used.model_dump(exclude=details) == whole.usage.model_dump(exclude=details)
    # The prompt of the same request before lies in the cache, but for its last page.
    assert 0 < used.prompt_tokens_details.cached_tokens < used.prompt_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_choices(client: openai.OpenAI) -> None:
    made = create(client, n=3, temperature=1.5, seed=5, max_tokens=12)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in made.choices}) > 1
    assert made.usage.completion_tokens == 36
    texts = ["", "", ""]
    for chunk in create(client, n=3, temperature=1.5, seed=5, max_tokens=12, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in made.choices]


def test_logprobs_of_a_stream(client: openai.OpenAI) -> None:
    whole = create(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in whole).decode() == ANSWER
    choices = [chunk.choices[0] for chunk in create(client, logprobs=True, top_logprobs=2, stream=True)]
    streamed = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert streamed == whole


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=["required", "named"]
)
def test_a_tool_is_called_and_its_result_is_read(client: openai.OpenAI, choice: Any) -> None:
    made = create(client, WEATHER, tools=[TOOL], tool_choice=choice).choices[0]
    (call,) = made.message.tool_calls
    assert (made.finish_reason, call.function.name) == ("tool_calls", "get_weather")
    assert json.loads(call.function.arguments).keys() == {"city"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "It is sunny."}
    turns = [*user(WEATHER), made.message.model_dump(exclude_none=True), result]
    after = create(client, messages=turns, tools=[TOOL])
    assert after.choices[0].message.content
    assert after.usage.prompt_tokens > create(client, WEATHER, tools=[TOOL], max_tokens=1).usage.prompt_tokens


def test_a_streamed_call_is_the_same(client: openai.OpenAI) -> None:
    body: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
    (whole,) = create(client, WEATHER, **body).choices[0].message.tool_calls
    choices = [chunk.choices[0] for chunk in create(client, WEATHER, **body, stream=True)]
    parts = [part for choice in choices for part in choice.delta.tool_calls or []]
    assert (parts[0].type, parts[0].function.name, bool(parts[0].id)) == ("function", "get_weather", True)
    assert len(parts) > 3
    assert [(part.index, part.id, part.function.name) for part in parts[1:]] == [(0, None, None)] * (len(parts) - 1)
    assert "".join(part.function.arguments or "" for part in parts) == whole.function.arguments
    assert choices[-1].finish_reason == "tool_calls"


class Kind(pydantic.BaseModel):
    wild: bool


class Animal(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    legs: int
    kind: Kind


def test_structured_output_is_parsed(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": user("Describe a dog."), "temperature": 0, "max_tokens": 60}
    made = client.chat.completions.parse(**asked, response_format=Animal).choices[0].message.parsed
    assert isinstance(made, Animal)
    with client.chat.completions.stream(**asked, response_format=Animal) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == made
    tool = openai.pydantic_function_tool(Animal)
    calls = client.chat.completions.parse(**asked, tools=[tool], tool_choice="required").choices[0].message.tool_calls
    assert calls is not None
    assert isinstance(calls[0].function.parsed_arguments, Animal)


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64 by itself and decodes it; as numbers they are the same float32 values."""
    texts = ["A cat sleeps.", "A kitten is asleep.", "The stock exchange fell by 3%."]
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    vectors = [entry.embedding for entry in plain.data]
    assert [len(vector) for vector in vectors] == [EMBEDDING_LENGTH] * 3
    assert [entry.embedding for entry in client.embeddings.create(model=MODEL, input=texts).data] == vectors
    coded = client.embeddings.create(model=MODEL, input=texts[0], encoding_format="base64")
    raw: Any = coded.data[0].embedding
    assert list(struct.unpack(f"<{EMBEDDING_LENGTH}f", base64.b64decode(raw))) == vectors[0]
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2])
    assert plain.usage.total_tokens == plain.usage.prompt_tokens > 9


def test_errors_by_type(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        create(client, model="other")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        create(client, top_p=2)
    assert wrong.value.param == "top_p"
    with pytest.raises(openai.BadRequestError) as long:
        create(client, "word " * 9000, stream=True)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.embeddings.create(model=MODEL, input=[])
    assert wrong.value.param == "input"
    assert create(client).choices[0].message.content == ANSWER


def test_keys_and_limits_by_type(smollm2_path: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first-key use\nmetrics-key metrics\n")
    with serving(smollm2_path, "--api-keys", keys, "--rate-limit", 2) as server:
        with connect(server.url, "another") as stranger, pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
        assert refused.value.body is not None
        with connect(server.url, "metrics-key") as collector, pytest.raises(openai.PermissionDeniedError):
            create(collector)
        with connect(server.url, "first-key") as friend:
            assert create(friend).choices[0].message.content == ANSWER
            assert friend.models.list().data
            with pytest.raises(openai.RateLimitError) as limited:
                friend.models.list()
            assert 1 <= int(limited.value.response.headers["retry-after"]) <= 30
