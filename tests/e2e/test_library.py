"""The library against a server of the same bundle: the same tokens, texts, vectors and likelihoods, by another way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rocmforge
from rocmforge import GenerationParams, Model, RequestError, RocmforgeError
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.process import Server

PROMPTS = ["The capital of France is", "Once upon a time", "def fibonacci(n):", "1, 2, 3,"]
DATA = Path(__file__).parents[1] / "data"
TOKENS = "smollm2_token_ids.json"
GREEDY = GenerationParams(max_tokens=16, temperature=0.0)
DRAWN: dict[str, Any] = {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "seed": 5}
PENALTIES: dict[str, Any] = {"repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of Italy? <|im_end|>"},
]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Iterator[Model]:
    with rocmforge.load(smollm2_path, device="host") as loaded:
        yield loaded


def served(server: Server, prompt: str, **body: Any) -> dict[str, Any]:
    answer = server.post("/completion", {"prompt": prompt, "return_tokens": True, "n_predict": 16, **body})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, DRAWN, {**DRAWN, "typical_p": 0.7}, {**DRAWN, **PENALTIES}])
def test_tokens_are_those_of_the_server(model: Model, server: Server, sampling: dict[str, Any]) -> None:
    asked = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, **sampling}
    asked["repeat_penalty"] = asked.pop("repetition_penalty", 1.0)
    found = model.generate(PROMPTS, GenerationParams(max_tokens=16, **sampling))
    for prompt, one in zip(PROMPTS, found, strict=True):
        document = served(server, prompt, **asked)
        assert (one.text, len(one.token_ids)) == (document["content"], document["tokens_predicted"])
        assert list(one.token_ids)[: len(document["tokens"])] == document["tokens"]
        assert one.prompt_tokens == document["tokens_evaluated"]


def test_a_list_is_its_inputs_alone(model: Model) -> None:
    params = GenerationParams(max_tokens=12, **DRAWN)
    alone = [model.generate(prompt, params) for prompt in PROMPTS]
    together = model.generate(PROMPTS, params)
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert model.generate([model.encode(PROMPTS[0])], params)[0].text == alone[0].text
    assert model.decode(model.encode(PROMPTS[0])) == PROMPTS[0]


def test_a_stream_is_the_same_in_pieces(model: Model) -> None:
    pieces = list(model.stream(PROMPTS, GREEDY))
    for index, one in enumerate(model.generate(PROMPTS, GREEDY)):
        mine = [piece for piece in pieces if piece.index == index]
        assert "".join(piece.text for piece in mine) == one.text
        assert tuple(piece.token_id for piece in mine) == one.token_ids
        assert [piece.finish_reason for piece in mine] == [None] * (len(mine) - 1) + [one.finish_reason]


def test_a_stream_that_is_closed_computes_no_more(model: Model) -> None:
    stream = model.stream("One, two, three,", GenerationParams(temperature=0.0, ignore_eos=True))
    next(stream)
    assert model.stats().active == 1
    stream.close()
    model.generate("x", GREEDY)  # a step later it is gone
    assert model.stats().active == 0


def test_threads_share_a_model(model: Model) -> None:
    expected = [one.text for one in model.generate(PROMPTS, GREEDY)]
    found: dict[int, str] = {}

    def ask(index: int) -> None:
        found[index] = model.generate(PROMPTS[index], GREEDY).text

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(len(PROMPTS))] == expected


def chat_served(server: Server, messages: list[dict[str, Any]], **body: Any) -> dict[str, Any]:
    asked = {"messages": messages, "max_tokens": 32, "temperature": 0, **body}
    answer = server.post("/v1/chat/completions", asked)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def test_chats_are_those_of_the_server(model: Model, server: Server) -> None:
    """Also what a message says that reads as a control token is text to both."""
    other = [{"role": "user", "content": "Say hello."}]
    params = GenerationParams(max_tokens=32, temperature=0.0)
    answers = model.chat([TALK, other], params)
    for messages, one in zip((TALK, other), answers, strict=True):
        choice = chat_served(server, messages)
        reason = "stop" if one.finish_reason == "eos" else one.finish_reason
        assert (one.content, reason) == (choice["message"]["content"], choice["finish_reason"])
    longer = [*TALK, answers[0].message, {"role": "user", "content": "And of Spain?"}]
    again = model.chat(longer, params)
    assert again.content == chat_served(server, longer)["message"]["content"]
    begun = [*TALK, {"role": "assistant", "content": "The capital is"}]
    assert model.chat(begun, params).content == chat_served(server, begun)["message"]["content"]
    pieces = list(model.stream_chat(longer, params))
    assert ("".join(piece.content for piece in pieces), pieces[-1].answer) == (again.content, again)


def test_calls_of_tools_are_those_of_the_server(model: Model, server: Server) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "How is the weather in Oslo?"}]
    params = GenerationParams(max_tokens=32, temperature=0.0)
    asked = model.chat(messages, params, tools=[WEATHER], tool_choice="required")
    choice = chat_served(server, messages, tools=[WEATHER], tool_choice="required")
    (call,), (theirs,) = asked.tool_calls, choice["message"]["tool_calls"]
    assert (call.name, call.arguments) == (theirs["function"]["name"], theirs["function"]["arguments"])
    assert (asked.finish_reason, choice["finish_reason"]) == ("tool_calls", "tool_calls")
    assert json.loads(call.arguments).keys() == {"city"}
    longer = [*messages, asked.message, {"role": "tool", "content": "sunny"}]
    for choice_of in ("auto", "none"):
        mine = model.chat(longer, params, tools=[WEATHER], tool_choice=choice_of)
        found = chat_served(server, longer, tools=[WEATHER], tool_choice=choice_of)
        assert mine.content == (found["message"]["content"] or "")


def test_vectors_are_those_of_the_server(model: Model, server: Server) -> None:
    vectors = model.embed(PROMPTS)
    document = server.post("/v1/embeddings", {"model": "smollm2", "input": PROMPTS}).json()
    for vector, theirs in zip(vectors, document["data"], strict=True):
        assert vector.tobytes() == np.array(theirs["embedding"], np.float32).tobytes()
    assert model.embed(PROMPTS[0], "last").shape == vectors[0].shape


def test_scores_are_the_servers_log_probabilities(model: Model, server: Server) -> None:
    ids = model.encode(PROMPTS[0] + " Paris, and of Italy it is Rome.")
    body = {"prompt": list(ids), "max_tokens": 1, "echo": True, "logprobs": 0, "temperature": 0}
    theirs = server.post("/v1/completions", body).json()["choices"][0]["logprobs"]["token_logprobs"]
    score = model.score(ids[:5], ids[5:])
    assert score.token_ids == ids[5:]
    assert score.logprobs == pytest.approx(theirs[5 : len(ids)], abs=1e-6)
    pair = model.score(PROMPTS[:2], [" Paris", " there"])
    assert pair[0] == model.score(PROMPTS[0], " Paris")
    assert pair[0].total == pytest.approx(score.logprobs[0])


def test_scores_are_near_those_of_the_reference(model: Model, smollm2_gguf: Path) -> None:
    """That is float32 in NumPy. The error of logits is rms 0.371 at most: see `test_accuracy`."""
    ids = model.encode("The capital of France is Paris, and that of Italy is Rome. Water boils at 100 degrees.")
    logits = ReferenceModel(smollm2_gguf).forward(list(ids)).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    errors = np.array(model.score(ids[:1], ids[1:]).logprobs) - logprobs[np.arange(len(ids) - 1), ids[1:]]
    assert np.sqrt(np.mean(errors**2)) <= 0.371


def test_texts_have_llama_cpps_tokens(model: Model) -> None:
    texts, golden = (json.loads((DATA / name).read_text("utf-8")) for name in ("hard_strings.json", TOKENS))
    assert len(texts) == len(golden) > 50
    for text, ids in zip(texts, golden, strict=True):
        assert list(model.encode(text, add_special=False)) == ids


def test_output_obeys_what_it_must_match(model: Model) -> None:
    for seed in range(3):
        hot = GenerationParams(max_tokens=40, temperature=1.5, seed=seed, regex="(red|green) [0-9]{3}")
        text = model.generate("A colour: ", hot).text
        assert text.split()[0] in ("red", "green")
        assert text.split()[1].isdigit()


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"temperature": 3.0}, "temperature: expected a number from 0.0 to 2.0, found 3.0"),
        ({"top_k": 1.5}, "top_k: expected an integer from -1 to 2147483647, found 1.5"),
        ({"min_p": float("nan")}, "min_p: expected a number from 0.0 to 1.0, found nan"),
        ({"seed": -1}, "seed: expected an integer from 0 to 18446744073709551615, found -1"),
        ({"stop": ("",)}, "stop: expected texts that are not empty, found ('',)"),
        ({"logit_bias": ((49152, 1.0),)}, "logit_bias: expected an integer from 0 to 49151, found 49152"),
        ({"max_tokens": 10**6}, "max_tokens: prompt (1) and max_tokens (1000000) exceed a context of 8192"),
        ({"regex": "a", "grammar": "b"}, "grammar: expected no other constraint beside regex"),
    ],
)
def test_what_cannot_be_computed_is_named(model: Model, params: dict[str, Any], problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        model.generate("x", GenerationParams(**params))
    assert (str(caught.value), caught.value.parameter) == (problem, problem.partition(":")[0])


def test_inputs_that_are_none(model: Model) -> None:
    wrong: Any
    for wrong in ([], 3, ""):
        with pytest.raises(RequestError, match=r"^prompt: expected"):
            model.generate(wrong)
    with pytest.raises(RequestError, match=r"^messages\[0\].role: expected a text$"):
        model.chat([{"content": "x"}])
    with pytest.raises(RequestError, match=r"^continuation: expected 2, one for each prompt, found 1$"):
        model.score(["a", "b"], ["c"])


def test_a_closed_model_ends_what_runs(smollm2_path: Path) -> None:
    with rocmforge.load(smollm2_path, device="host", contexts=1) as model:
        stream = model.stream("x", GenerationParams(ignore_eos=True))
        next(stream)
    with pytest.raises(RocmforgeError, match=r"^generation failed: the model was closed$"):
        list(stream)
    with pytest.raises(RocmforgeError, match="stopping"):
        model.generate("x")


def test_a_model_reads_texts_without_its_bundle(small_bundle: Path, tmp_path: Path) -> None:
    """Longer ones than the tables of the bundle are for: while it is loaded, and once it was closed."""
    text = "the and of " * 2000
    for closed in (False, True):
        bundle = Path(shutil.copytree(small_bundle, tmp_path / "small.rfb"))
        with rocmforge.load(bundle, device="host", threads=1) as model:
            shutil.rmtree(bundle)
            if not closed:
                assert model.decode(model.encode(text)) == text
        assert model.decode(model.encode(text)) == text


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, rocmforge; print([m for m in sys.modules if m.startswith(('rocmforge.', 'numpy'))]);"
        "rocmforge.load; unused = ('rocmforge.compiler', 'rocmforge.runtime.http', 'gguf');"
        "print([m for m in sys.modules if m.startswith(unused)]);"
        "print(sorted(set(rocmforge.__all__) - set(dir(rocmforge))), hasattr(rocmforge, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "[]", "[] False", ""]
