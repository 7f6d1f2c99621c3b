"""The beginning of an answer, gone on with: by the clients of three APIs, and as the same text to the plain model."""

from __future__ import annotations

from typing import Any

import ollama
import openai
import pytest

from rocmforge.tests.clients.common import MODEL
from rocmforge.tests.support.process import Server

MESSAGES: list[Any] = [
    {"role": "user", "content": "What is the capital of France? One sentence."},
    {"role": "assistant", "content": "In France, the capital"},
]
# As SmolLM2 was trained on it, up to where the answer stops.
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France? One sentence.<|im_end|>\n"
    "<|im_start|>assistant\nIn France, the capital"
)
TOKENS = 12


@pytest.fixture(scope="module")
def expected(server: Server) -> str:
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": TOKENS}
    text: str = server.post("/v1/completions", body).json()["choices"][0]["text"]
    assert "Paris" in text
    return text


def test_the_prompt_ends_with_what_was_said(server: Server) -> None:
    assert server.post("/apply-template", {"messages": MESSAGES}).json()["prompt"] == PROMPT


def test_openai(server: Server, expected: str) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        for extra in ({}, {"continue_final_message": True, "add_generation_prompt": False}):
            made = client.chat.completions.create(
                model=MODEL, messages=MESSAGES, temperature=0, max_tokens=TOKENS, extra_body=extra
            )
            assert made.choices[0].message.content == expected


def test_anthropic(server: Server, expected: str) -> None:
    import anthropic  # noqa: PLC0415 - a second and more, of each process that collects tests

    asked: Any = {"model": MODEL, "messages": MESSAGES, "max_tokens": TOKENS, "extra_body": {"temperature": 0}}
    with anthropic.Anthropic(base_url=server.url, api_key="none") as client, client.messages.stream(**asked) as stream:
        assert stream.get_final_text() == expected


def test_ollama(server: Server, expected: str) -> None:
    with ollama.Client(server.url) as client:
        options = {"temperature": 0, "num_predict": TOKENS}
        assert client.chat(MODEL, MESSAGES, options=options).message.content == expected
