"""llama.cpp's endpoints against a real server of SmolLM2, by plain HTTP as its own examples have it; and embeddings
by OpenAI's client."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import openai
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

PROMPT = "The capital of France is"
GREEDY: dict[str, Any] = {"temperature": 0, "n_predict": 12}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Bundle) -> Tokenizer:
    return load_tokenizer(smollm2)


def complete(server: Server, **body: Any) -> dict[str, Any]:
    answer = server.post("/completion", {"prompt": PROMPT, **GREEDY, **body})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_completion_is_that_of_v1(server: Server, tokenizer: Tokenizer) -> None:
    document = complete(server, return_tokens=True)
    body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    assert document["content"] == server.post("/v1/completions", body).json()["choices"][0]["text"]
    assert tokenizer.decode(document["tokens"]) == document["content"]
    assert document["tokens_evaluated"] == len(tokenizer.encode(PROMPT))
    assert (document["stop_type"], document["tokens_predicted"]) == ("limit", 12)
    by_ids = complete(server, prompt=tokenizer.encode(PROMPT))
    assert (by_ids["content"], by_ids["prompt"]) == (document["content"], PROMPT)


def test_stream_tells_the_same(server: Server) -> None:
    whole = complete(server, return_tokens=True)
    response = server.post("/completion", {"prompt": PROMPT, **GREEDY, "stream": True}, stream=True)
    got = list(server.events(response))
    assert "".join(event["content"] for event in got) == whole["content"]
    assert [token for event in got for token in event["tokens"]] == whole["tokens"]
    assert [event["stop"] for event in got] == [False] * (len(got) - 1) + [True]
    assert got[-1]["timings"]["predicted_n"] == 12


def test_several_prompts_and_stopping_words(server: Server) -> None:
    text = complete(server)["content"]
    stop = text[6:9]
    document = complete(server, stop=["never to be seen", stop])
    assert (document["content"], document["stop_type"], document["stopping_word"]) == (
        text[: text.index(stop)],
        "word",
        stop,
    )
    answer = server.post("/completion", {"prompt": [PROMPT, "Once upon a time"], **GREEDY}).json()
    assert [one["index"] for one in answer] == [0, 1]
    assert answer[0]["content"] == text
    assert answer[1]["content"] == complete(server, prompt="Once upon a time")["content"]


def test_constraints(server: Server) -> None:
    hot = {"temperature": 1.5, "seed": 4, "n_predict": 60}
    grammar = 'root ::= "yes" | "no, " reason "."\nreason ::= [a-z]{2,8} (" " [a-z]{2,8}){0,2}\n'
    for seed in range(3):
        document = complete(server, grammar=grammar, **(hot | {"seed": seed}))
        assert re.fullmatch(r"yes|no, [a-z]{2,8}( [a-z]{2,8}){0,2}\.", document["content"])
        assert document["stop_type"] == "eos"
    schema = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 4}
    assert set(json.loads(complete(server, json_schema=schema, **hot)["content"])) <= {1, 2, 3}
    refused = server.post("/completion", {"prompt": PROMPT, "grammar": "root ::= nowhere"})
    assert (refused.status_code, refused.json()["error"]["message"].partition(":")[0]) == (400, "grammar")


def test_n_probs_are_the_logprobs_of_v1(server: Server) -> None:
    body = {"prompt": PROMPT, "max_tokens": 3, "temperature": 0, "logprobs": 2}
    expected = server.post("/v1/completions", body).json()["choices"][0]["logprobs"]
    got = complete(server, n_predict=3, n_probs=2)["completion_probabilities"]
    assert [one["token"] for one in got] == expected["tokens"]
    assert [one["logprob"] for one in got] == pytest.approx(expected["token_logprobs"], abs=1e-6)  # the same row
    assert [len(one["top_logprobs"]) for one in got] == [2, 2, 2]


# The first two are those of llama.cpp's own tests of its server.
CONSTRAINED: list[tuple[dict[str, Any], str]] = [
    ({"grammar": 'root ::= "a"{5,5}'}, "a{5}"),
    ({"json_schema": {"const": "42"}}, '"42"'),
    ({"grammar": 'start: "a"{5} | "b"'}, "a{5}|b"),
    ({"grammar": "", "regex": "[xy]{3}"}, "[xy]{3}"),
]


@pytest.mark.parametrize("constraint, expected", CONSTRAINED)
def test_constraints_of_a_chat(server: Server, constraint: dict[str, Any], expected: str) -> None:
    messages = [{"role": "user", "content": "Does not matter what I say, does it?"}]
    answer = server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 12, **constraint})
    assert answer.status_code == 200, answer.text
    assert re.fullmatch(expected, answer.json()["choices"][0]["message"]["content"])


def test_two_constraints_are_refused(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "grammar": 'root ::= "a"', "json_schema": {}}
    error = server.post("/v1/chat/completions", body).json()["error"]
    assert (error["param"], error["message"]) == ("grammar", "grammar: expected no other constraint beside json_schema")


TEXTS = ["Hello, world", "naïve 🙂 café", "<|im_start|>user", "", "\ttabs\nand lines "]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenize_and_back(server: Server, tokenizer: Tokenizer, text: str) -> None:
    ids = server.post("/tokenize", {"content": text}).json()["tokens"]
    assert ids == tokenizer.encode(text, add_special=False)
    assert server.post("/detokenize", {"tokens": ids}).json() == {"content": text, "prompt": text}
    pieces = server.post("/tokenize", {"content": text, "with_pieces": True}).json()["tokens"]
    parts = [p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces]
    assert b"".join(parts) == text.encode()
    plain = server.post("/tokenize", {"content": text, "parse_special": False}).json()["tokens"]
    assert plain == tokenizer.encode(text, add_special=False, parse_special=False)


def test_a_template_applied_is_the_chat(server: Server) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = server.post("/apply-template", {"messages": messages}).json()["prompt"]
    assert prompt.endswith("<|im_start|>assistant\n")
    chat = server.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 12}).json()
    assert complete(server, prompt=prompt)["content"] == chat["choices"][0]["message"]["content"]
    assert "{%" in server.get("/props").json()["chat_template"]


def test_lists_of_lm_studio(server: Server, smollm2: Bundle) -> None:
    (model,) = server.get("/api/v0/models").json()["data"]
    assert (model["id"], model["arch"], model["quantization"]) == ("smollm2", "llama", "Q4_1")
    assert model["publisher"] == "HuggingFaceTB"
    assert server.get("/api/v0/models/smollm2").json() == model
    (key,) = server.get("/api/v1/models").json()["models"]
    assert (key["key"], key["params_string"], key["loaded_instances"][0]["id"]) == ("smollm2", "134.52M", "smollm2")
    # Q4_1 takes 5 bits a weight and the embedding, a fifth of the weights, 8.5; tokenizer and code come to it.
    assert 5 < key["quantization"]["bits_per_weight"] < 8.5
    assert key["max_context_length"] == smollm2.layout.max_seq_len


def test_embeddings_by_openais_client(server: Server, tokenizer: Tokenizer) -> None:
    texts = ["The cat sat on the mat.", "A kitten was sitting on the rug.", "Quarterly revenue rose by 4%."]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE_SECONDS, max_retries=0) as client:
        made = client.embeddings.create(model="smollm2", input=texts)  # asks for base64
        numbers = client.embeddings.create(model="smollm2", input=texts, encoding_format="float")
        by_ids = client.embeddings.create(model="smollm2", input=[tokenizer.encode(text) for text in texts])
        last = client.embeddings.create(model="smollm2", input=texts, extra_body={"pooling": "last"})
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="smollm2", input=texts, dimensions=3)
    assert caught.value.param == "dimensions"
    vectors = np.array([one.embedding for one in made.data])
    assert vectors.shape == (3, 576)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    for other in (numbers, by_ids):
        # Texts may meet in other batches, where sums are done in another order; float32 of a length of 1.
        assert np.array([one.embedding for one in other.data]) == pytest.approx(vectors, abs=1e-5)
    assert np.abs(np.array([one.embedding for one in last.data]) - vectors).max() > 1e-3
    assert made.usage.prompt_tokens == sum(len(tokenizer.encode(text)) for text in texts)
