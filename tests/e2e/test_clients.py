"""OpenAI's own client against a real `rfc serve` of SmolLM2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

PROMPT = "The capital of France is"
GREEDY: dict[str, Any] = {"model": "smollm2", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
QUESTION: dict[str, Any] = {
    "model": "smollm2",
    "messages": [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "max_tokens": 40,
    "temperature": 0,
}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_SECONDS
    ) as connected:
        yield connected


@pytest.fixture(scope="module")
def tokenizer(smollm2_path: Path) -> Tokenizer:
    with open_bundle(smollm2_path) as bundle:
        return load_tokenizer(bundle)


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("smollm2", "model")
    assert client.models.retrieve("smollm2").id == "smollm2"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_completion_counts_its_tokens(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    answer = client.completions.create(**GREEDY)
    (choice,) = answer.choices
    assert choice.text.startswith(" Paris")
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(tokenizer.encode(PROMPT)), 12)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_completion_streams_the_same_text(client: openai.OpenAI) -> None:
    whole = client.completions.create(**GREEDY)
    chunks = list(client.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    # What was cached differs; all else is the same.
    details = {"prompt_tokens_details"}
    assert chunks[-1].usage.model_dump(exclude=details) == whole.usage.model_dump(exclude=details)
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_chat_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**QUESTION)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content is not None
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert "<|im_end|>" not in choice.message.content


def test_chat_streams_the_same_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**QUESTION)
    chunks = list(client.chat.completions.create(**QUESTION, stream=True))
    choices = [chunk.choices[0] for chunk in chunks]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + ["stop"]


def test_stop_ends_before_the_stop_string(client: openai.OpenAI) -> None:
    text = client.completions.create(**GREEDY).choices[0].text
    stop = text[6:9]  # inside the text, and across a token's border as likely as not
    expected = text[: text.index(stop)]
    choice = client.completions.create(**GREEDY, stop=stop).choices[0]
    assert (choice.text, choice.finish_reason) == (expected, "stop")
    streamed = client.completions.create(**GREEDY, stop=["never to be seen", stop], stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_a_seed_gives_the_same_text_again(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        body = GREEDY | {"temperature": 1.2, "max_tokens": 40}
        text: str = client.completions.create(**body, seed=seed).choices[0].text
        return text

    texts = [sample(seed) for seed in (7, 8, 7)]
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]  # 40 tokens at this temperature: equal texts mean that the seed is ignored


@pytest.mark.parametrize("max_tokens", [1, 5])
def test_max_tokens(client: openai.OpenAI, max_tokens: int) -> None:
    answer = client.chat.completions.create(**QUESTION | {"max_tokens": max_tokens})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == max_tokens
    assert answer.choices[0].finish_reason == "length"


WRONG: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "F46-temperature": ({"temperature": 3}, "temperature", None),
    "F46-top_p": ({"top_p": -1}, "top_p", None),
    "F46-n": ({"n": 17}, "n", None),
    "F46-stop": ({"stop": [""]}, "stop[0]", None),
    "F46-seed": ({"seed": "x"}, "seed", None),
    "F48-context": ({"max_tokens": 10_000}, "max_tokens", "context_length_exceeded"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("change", "param", "code"), WRONG.values(), ids=WRONG.keys())
def test_bad_request_names_its_parameter(
    client: openai.OpenAI, change: dict[str, Any], param: str, code: str | None, stream: bool
) -> None:
    for create, body in ((client.completions.create, GREEDY), (client.chat.completions.create, QUESTION)):
        with pytest.raises(openai.BadRequestError) as caught:
            create(**body | change, stream=stream)
        assert (caught.value.status_code, caught.value.param, caught.value.code) == (400, param, code)
    assert client.completions.create(**GREEDY).choices[0].text


def test_F48_a_conversation_past_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": "word " * 9000}])
    assert caught.value.code == "context_length_exceeded"
