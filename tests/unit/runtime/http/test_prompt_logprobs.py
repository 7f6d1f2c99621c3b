"""Log-probabilities of prompts on /v1: with `echo`, as vLLM's `prompt_logprobs`, in streams, and what is refused."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest

from rocmforge.runtime.http.core import logprobs as logprobs_module
from rocmforge.runtime.http.openai.completion_logprobs import CompletionLogprobsWriter
from rocmforge.runtime.http.openai.completions import MAX_PROMPTS
from rocmforge.tests.support.fake_engine import FakeEngine, FakeTokenizer, make_app
from rocmforge.tests.support.openai_requests import chat, complete, stream_of


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine))


# "hi" is BOS, whose text no echo has, and two bytes.
ECHOED: dict[str, list[Any]] = {
    "tokens": ["", "h", "i", "d"],
    "token_logprobs": [None, -1.0, -2.0, -0.5],
    "top_logprobs": [None, {"Z": -0.25}, {"Z": -0.25}, {"d": -0.5}],
    "text_offset": [0, 0, 1, 2],
}


def without_output(document: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {key: values[:3] for key, values in document.items()}


def test_as_many_prompts_as_may_be(client: falcon.testing.TestClient) -> None:
    for count, status in ((MAX_PROMPTS, 200), (MAX_PROMPTS + 1, 400)):
        asked = {"prompt": ["a"] * count, "max_tokens": 1}
        assert client.simulate_post("/v1/completions", json=asked).status_code == status


def test_echo_with_logprobs(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    (choice,) = complete(client, echo=True, logprobs=1, max_tokens=1).json["choices"]
    assert choice == {"text": "hi Paris", "index": 0, "finish_reason": "length", "logprobs": ECHOED}
    assert (engine.last.request.logprobs, engine.last.request.prompt_logprobs) == (1, 1)
    complete(client, logprobs=1)
    complete(client, echo=True)
    assert [one.request.prompt_logprobs for one in engine.generations[1:]] == [None, None]


@pytest.mark.parametrize("prompt", ["hi", ["hi"], [256, 104, 105], [[256, 104, 105]]])
def test_a_prompt_alone(client: falcon.testing.TestClient, prompt: object) -> None:
    """As text and as token ids."""
    result = complete(client, prompt=prompt, echo=True, logprobs=1, max_tokens=0).json
    (choice,) = result["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hi", "length")
    assert choice["logprobs"] == without_output(ECHOED)
    assert result["usage"]["completion_tokens"] == 0


def test_no_alternatives(client: falcon.testing.TestClient) -> None:
    document = complete(client, echo=True, logprobs=0, max_tokens=0).json["choices"][0]["logprobs"]
    assert (document["token_logprobs"], document["top_logprobs"]) == ([None, -1.0, -2.0], [None, {}, {}])


def test_several_prompts_several_times(client: falcon.testing.TestClient) -> None:
    choices = complete(client, prompt=["ab", "xyz"], n=2, echo=True, logprobs=0, max_tokens=1).json["choices"]
    assert [choice["logprobs"]["tokens"] for choice in choices] == [["", *"abd"]] * 2 + [["", *"xyzd"]] * 2
    assert [choice["logprobs"]["text_offset"][-1] for choice in choices] == [2, 2, 3, 3]


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_a_stream_says_the_same(client: falcon.testing.TestClient, max_tokens: int) -> None:
    """The prompt is there when its log-probabilities are, before the first token."""
    asked = {"prompt": ["hi", "abc"], "echo": True, "logprobs": 2, "max_tokens": max_tokens}
    whole = complete(client, **asked).json["choices"]
    chunks = [chunk["choices"][0] for chunk in stream_of(complete(client, stream=True, **asked))[:-1]]
    for index, choice in enumerate(whole):
        own = [chunk for chunk in chunks if chunk["index"] == index]
        assert "".join(chunk["text"] for chunk in own) == choice["text"]
        assert own[0]["text"] == ("hi", "abc")[index]
        parts = [chunk["logprobs"] for chunk in own if chunk["logprobs"]]
        assert {key: [item for part in parts for item in part[key]] for key in ECHOED} == choice["logprobs"]
        assert own[-1]["finish_reason"] == choice["finish_reason"]


def test_a_stream_that_fails_says_nothing_of_its_prompt(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.fail_after = 0
    chunks = stream_of(complete(client, stream=True, echo=True, logprobs=1))
    assert [list(chunk) for chunk in chunks] == [["error"]]
    assert complete(client, echo=True, logprobs=1).status_code == 500


@pytest.mark.parametrize("echo", [False, True])
def test_the_token_that_ends_the_text_is_among_them(
    client: falcon.testing.TestClient, engine: FakeEngine, echo: bool
) -> None:
    """lm-eval asks for one token beyond the prompt and drops the last entry, whatever the token was."""
    engine.reply, engine.end_token = [" Paris"], 90
    asked: dict[str, Any] = {"logprobs": 1, "echo": echo, "max_tokens": 4}
    (choice,) = complete(client, **asked).json["choices"]
    text, before = ("hi Paris", ["", "h", "i"]) if echo else (" Paris", [])
    assert (choice["text"], choice["finish_reason"]) == (text, "stop")
    assert choice["logprobs"]["tokens"] == [*before, "d", "Z"]
    assert choice["logprobs"]["token_logprobs"][-2:] == [-0.5, -0.5]
    chunks = [chunk["choices"][0] for chunk in stream_of(complete(client, stream=True, **asked))[:-1]]
    parts = [chunk["logprobs"] for chunk in chunks if chunk["logprobs"]]
    assert {key: [item for part in parts for item in part[key]] for key in ECHOED} == choice["logprobs"]
    entries = chat(client, logprobs=True, max_tokens=4).json["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in entries] == ["d"]


def at(token: int, logprob: float, rank: int) -> tuple[str, dict[str, object]]:
    text = chr(token) if token < 256 else ""
    return str(token), {"logprob": logprob, "rank": rank, "decoded_token": text}


def test_prompt_logprobs_as_vllm_has_them(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    """With those of `echo` beside them, of another number."""
    (choice,) = complete(client, prompt="hZ", prompt_logprobs=3, max_tokens=1).json["choices"]
    likeliest = [at(90, -0.25, 1), at(122, -0.5, 2), at(65, -9999.0, 3)]
    # Of the token that stands there, once, and first.
    z = dict([at(90, -2.0, 3), *likeliest[1:]])
    assert choice["prompt_logprobs"] == [None, dict([at(104, -1.0, 3), *likeliest]), z]
    assert list(choice["prompt_logprobs"][2]) == ["90", "122", "65"]
    assert (choice["text"], choice["logprobs"], engine.last.request.prompt_logprobs) == (" Paris", None, 3)
    (choice,) = complete(client, prompt_logprobs=0, logprobs=1, echo=True, max_tokens=1).json["choices"]
    assert choice["prompt_logprobs"] == [None, dict([at(104, -1.0, 3)]), dict([at(105, -2.0, 3)])]
    assert choice["logprobs"] == ECHOED
    assert "prompt_logprobs" not in complete(client).json["choices"][0]


def test_prompt_logprobs_of_a_chat(client: falcon.testing.TestClient) -> None:
    document = chat(client, prompt_logprobs=1, n=2).json
    assert len(document["choices"]) == 2
    assert len(document["prompt_logprobs"]) == document["usage"]["prompt_tokens"]
    first, second, *_ = document["prompt_logprobs"]
    assert (first, next(iter(second.values()))["logprob"]) == (None, -1.0)
    assert "prompt_logprobs" not in chat(client).json


@pytest.mark.parametrize("call", [chat, complete])
@pytest.mark.parametrize("value", [-1, 21, "3", 1.5])
def test_F46_prompt_logprobs_out_of_range(client: falcon.testing.TestClient, call: Any, value: object) -> None:
    result = call(client, prompt_logprobs=value)
    assert (result.status_code, result.json["error"]["param"]) == (400, "prompt_logprobs")
    result = call(client, prompt_logprobs=1, stream=True)
    assert (result.status_code, result.json["error"]["code"]) == (400, "unsupported_parameter")


def test_answers_are_bounded(client: falcon.testing.TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 tokens with 1 alternative: 6 log-probabilities a prompt."""
    monkeypatch.setattr(logprobs_module, "MAX_SCORES", 12)
    asked: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 0}
    assert complete(client, prompt=["hi"] * 2, **asked).status_code == 200
    result = complete(client, prompt=["hi"] * 3, **asked)
    assert (result.status_code, result.json["error"]["param"]) == (400, "prompt")
    assert result.json["error"]["message"] == (
        "prompt: expected prompts of at most 12 log-probabilities in all, found 18: ask for less"
    )
    assert complete(client, prompt=["hi"] * 3, logprobs=1, max_tokens=0).status_code == 200


class SpecialTokenizer(FakeTokenizer):
    """Token 256 is special, and spelt <s>."""

    def token_bytes(self, token_id: int, skip_special: bool = True) -> bytes:
        return b"" if skip_special and token_id == 256 else b"<s>" if token_id == 256 else bytes([token_id])


@pytest.mark.parametrize(
    "echo, ids, offsets",
    [
        ("hi", [256, 104, 105], [0, 0, 1]),
        ("<s>hi", [256, 104, 105], [0, 3, 4]),
        ("h<s>i<s>", [256, 104, 256, 105, 256], [0, 0, 1, 4, 5]),
        ("\u00e4\u20acx", [*"\u00e4\u20acx".encode()], [0, 1, 1, 2, 2, 2]),
    ],
    ids=["added", "spelt-out", "both", "characters-of-several-tokens"],
)
def test_offsets_are_those_of_the_text(echo: str, ids: list[int], offsets: list[int]) -> None:
    writer = CompletionLogprobsWriter(SpecialTokenizer(), 0, echo)
    assert writer.write(ids).text_offset == offsets
    after = writer.write([65]).text_offset
    assert after == [len(echo)]
