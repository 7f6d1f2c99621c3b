"""Constraints and log-probabilities through OpenAI's own client, against a real `rfc serve` of SmolLM2."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from rocmforge.tests.support.process import PATIENCE_SECONDS, Server
from rocmforge.tools.bench.structured_output import SCHEMAS

QUESTION: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 8,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS
    ) as connected:
        yield connected


@pytest.mark.parametrize("name", SCHEMAS)
def test_output_follows_a_schema(client: openai.OpenAI, name: str) -> None:
    shape: Any = {"type": "json_schema", "json_schema": {"name": name, "schema": SCHEMAS[name], "strict": True}}
    asked = {**QUESTION, "max_tokens": 400, "temperature": 1, "seed": 1}
    choice = client.chat.completions.create(**asked, response_format=shape).choices[0]
    assert choice.finish_reason == "stop"
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(choice.message.content or ""))


def test_output_follows_an_expression(client: openai.OpenAI) -> None:
    made = client.completions.create(
        model="smollm2", prompt="Paris was founded in", max_tokens=20, extra_body={"regex": " [0-9]{3} (AD|BC)"}
    )
    assert re.fullmatch(" [0-9]{3} (AD|BC)", made.choices[0].text)


def test_a_wrong_constraint_names_its_parameter(client: openai.OpenAI) -> None:
    shape: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**QUESTION, response_format=shape)
    assert caught.value.param == "response_format"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**QUESTION, extra_body={"regex": "["})
    assert caught.value.param == "regex"


def test_logprobs(client: openai.OpenAI) -> None:
    """Greedy: the drawn token is the likeliest. A stream gives the same as the whole."""
    whole = client.chat.completions.create(**QUESTION, logprobs=True, top_logprobs=3).choices[0].logprobs
    assert whole is not None
    assert whole.content
    for entry in whole.content:
        assert [entry.token, entry.logprob] == [entry.top_logprobs[0].token, entry.top_logprobs[0].logprob]
        assert sorted((top.logprob for top in entry.top_logprobs), reverse=True) == [
            top.logprob for top in entry.top_logprobs
        ]
        assert sum(math.exp(top.logprob) for top in entry.top_logprobs) <= 1
    chunks = client.chat.completions.create(**QUESTION, logprobs=True, top_logprobs=3, stream=True)
    choices = [chunk.choices[0] for chunk in chunks]
    streamed = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or []]
    assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in whole.content]


def test_completion_logprobs(client: openai.OpenAI) -> None:
    made = client.completions.create(
        model="smollm2", prompt="The capital of France is", max_tokens=6, temperature=0, logprobs=2
    ).choices[0]
    assert made.logprobs is not None
    assert "".join(made.logprobs.tokens or []) == made.text
    assert made.logprobs.text_offset is not None
    starts = [made.text[offset:] for offset in made.logprobs.text_offset]
    assert all(rest.startswith(token) for rest, token in zip(starts, made.logprobs.tokens or [], strict=True))


TEXTS = ["The capital of France is Paris.", "<|im_start|>user\nZ\u00fcrich, \u00fcber \U0001f600?<|im_end|>\n", "x"]


def test_logprobs_of_prompts(client: openai.OpenAI) -> None:
    """Alone, all at once, and as vLLM says it; and what is generated has the scores that it has as a prompt."""
    asked: dict[str, Any] = {"model": "smollm2", "echo": True, "max_tokens": 0, "logprobs": 3}
    together = client.completions.create(prompt=TEXTS, **asked).choices
    for text, choice in zip(TEXTS, together, strict=True):
        assert choice.text == text
        document = choice.logprobs
        assert client.completions.create(prompt=text, **asked).choices[0].logprobs == document
        assert document is not None
        assert document.tokens is not None
        assert document.token_logprobs is not None
        assert (document.token_logprobs[0], document.top_logprobs and document.top_logprobs[0]) == (None, None)
        assert all(-50 < logprob < 0 for logprob in document.token_logprobs[1:])
        for token, offset in zip(document.tokens, document.text_offset or (), strict=True):
            assert "\ufffd" in token or text.startswith(token, offset)
        vllm = client.completions.create(model="smollm2", prompt=text, max_tokens=1, extra_body={"prompt_logprobs": 0})
        places: Any = (vllm.choices[0].model_extra or {})["prompt_logprobs"][1:]
        found = [(entry["decoded_token"], entry["logprob"]) for (entry,) in map(dict.values, places)]
        assert found == list(zip(document.tokens[1:], document.token_logprobs[1:], strict=True))
    first = TEXTS[0][:24]
    written = client.completions.create(prompt=first, temperature=0, **(asked | {"max_tokens": 12})).choices[0]
    again = client.completions.create(prompt=written.text, **asked).choices[0]
    assert written.text.startswith("The capital of France is Paris")
    assert again.logprobs == written.logprobs
    parts = client.completions.create(prompt=first, temperature=0, stream=True, **(asked | {"max_tokens": 12}))
    chunks = [chunk.choices[0].logprobs for chunk in parts]
    streamed = [logprob for chunk in chunks if chunk for logprob in chunk.token_logprobs or ()]
    assert written.logprobs is not None
    assert streamed == written.logprobs.token_logprobs


def test_the_server_starts_without_the_library_of_constraints() -> None:
    code = "import sys, rocmforge.runtime.serve; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_F101_a_constraint_that_meets_a_limit_after_its_first_token(client: openai.OpenAI) -> None:
    """Its expression is small until the model has written "Yes"; OpenAI's client would ask again after a 500."""
    beyond = {"regex": "Yes((a?){500}a{500}|b)"}
    patient = client.with_options(max_retries=2)
    with pytest.raises(openai.BadRequestError) as caught:
        patient.chat.completions.create(**QUESTION, extra_body=beyond)
    assert (caught.value.param, caught.value.type) == ("regex", "invalid_request_error")
    with pytest.raises(openai.APIError) as streamed:
        list(patient.chat.completions.create(**QUESTION, stream=True, extra_body=beyond))
    assert (streamed.value.param, streamed.value.type) == ("regex", "invalid_request_error")
    assert client.chat.completions.create(**QUESTION).choices[0].message.content
