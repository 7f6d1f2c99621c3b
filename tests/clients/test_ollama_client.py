"""Ollama's own Python client against a real server of SmolLM2."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import ollama
import pytest

from rocmforge import __version__
from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

MODEL = "smollm2"
GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 30}
QUESTION = [{"role": "user", "content": "What is the capital of France? One sentence."}]
ENDS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(server.url, timeout=PATIENCE_SECONDS) as connected:
        yield connected


def test_models(client: ollama.Client, smollm2: Bundle) -> None:
    (listed,) = client.list().models
    assert listed.model == "smollm2:latest"
    assert listed.size == sum(entry.n_bytes for entry in smollm2.manifest.files.values())
    assert f"sha256:{listed.digest}" == smollm2.manifest.bundle_digest
    assert listed.modified_at is not None
    assert listed.modified_at.tzinfo is not None
    (running,) = client.ps().models
    assert (running.model, running.context_length) == ("smollm2:latest", smollm2.layout.max_seq_len)
    assert running.expires_at is not None
    for model in (listed, running):
        assert model.details is not None
        assert (model.details.family, model.details.parameter_size) == ("llama", "134.52M")
        assert model.details.quantization_level == "Q4_1"


@pytest.mark.parametrize("name", ["smollm2", "smollm2:latest"])
def test_show(client: ollama.Client, smollm2: Bundle, name: str) -> None:
    shown = client.show(name)
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["general.parameter_count"] == smollm2.manifest.model.parameters
    assert shown.modelinfo["llama.context_length"] == smollm2.layout.max_seq_len
    assert shown.template == smollm2.read("chat_template.jinja").decode()
    assert shown.capabilities is not None
    assert {"completion", "tools"} <= set(shown.capabilities)
    assert shown.parameters is not None
    assert shown.parameters.split() == ["num_ctx", str(smollm2.layout.max_seq_len)]


def test_chat(client: ollama.Client) -> None:
    answer = client.chat(MODEL, QUESTION, options=GREEDY)
    assert answer.message.role == "assistant"
    assert answer.message.content is not None
    assert "Paris" in answer.message.content
    assert (answer.done, answer.done_reason, answer.model) == (True, "stop", MODEL)
    assert answer.eval_count is not None
    assert 1 <= answer.eval_count <= 30
    assert all(answer[name] >= 1 for name in ENDS)


def test_chat_streams_the_same_text(client: ollama.Client) -> None:
    whole = client.chat(MODEL, QUESTION, options=GREEDY)
    parts = list(client.chat(MODEL, QUESTION, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert (last.done_reason, last.eval_count) == ("stop", whole.eval_count)
    assert last.prompt_eval_count == whole.prompt_eval_count
    assert len(parts) > 3


def test_generate(client: ollama.Client) -> None:
    body: dict[str, Any] = {"system": "Be brief.", "options": GREEDY}
    whole = client.generate(MODEL, QUESTION[0]["content"], **body)
    assert whole.response is not None
    assert "Paris" in whole.response
    parts = list(client.generate(MODEL, QUESTION[0]["content"], stream=True, **body))
    assert "".join(part.response or "" for part in parts) == whole.response
    assert all(part.context == [] for part in parts)
    chat = client.chat(MODEL, [{"role": "system", "content": "Be brief."}, *QUESTION], options=GREEDY)
    assert chat.message.content == whole.response  # a prompt is a chat of one message


def test_raw_is_not_wrapped(client: ollama.Client, smollm2: Bundle) -> None:
    prompt = "The capital of France is"
    answer = client.generate(MODEL, prompt, raw=True, options=GREEDY | {"num_predict": 8})
    assert answer.response is not None
    assert answer.response.startswith(" Paris")
    assert (answer.done_reason, answer.eval_count) == ("length", 8)
    assert answer.prompt_eval_count == len(load_tokenizer(smollm2).encode(prompt))


def test_stop_and_seed(client: ollama.Client) -> None:
    text = client.generate(MODEL, "Count to ten.", options=GREEDY).response or ""
    stop = text[5:8]
    stopped = client.generate(MODEL, "Count to ten.", options=GREEDY | {"stop": [stop]})
    assert (stopped.response, stopped.done_reason) == (text[: text.index(stop)], "stop")
    wild = {"temperature": 1.2, "num_predict": 40}
    texts = [client.generate(MODEL, "Tell a story.", options=wild | {"seed": seed}).response for seed in (7, 8, 7)]
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]  # 40 tokens at this temperature: equal texts mean that the seed is ignored


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


def test_a_schema_is_kept(client: ollama.Client) -> None:
    answer = client.chat(MODEL, QUESTION, format=SCHEMA, options={"temperature": 1.0, "seed": 3, "num_predict": 100})
    found = json.loads(answer.message.content or "")
    assert set(found) == {"city", "people"}
    assert isinstance(found["city"], str)
    assert isinstance(found["people"], int)


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: where.
    """
    return f"sunny in {city}"


def test_tools_and_their_results_are_taken(client: ollama.Client) -> None:
    """A model of this size calls nothing by itself: what must hold is that each turn is read and answered."""
    first = client.chat(MODEL, QUESTION, tools=[weather], options=GREEDY)
    assert first.message.role == "assistant"
    without = client.chat(MODEL, QUESTION, options=GREEDY)
    assert first.prompt_eval_count is not None
    assert without.prompt_eval_count is not None
    assert first.prompt_eval_count > without.prompt_eval_count  # the model was told of the tool
    call = ollama.Message.ToolCall(
        function=ollama.Message.ToolCall.Function(name="weather", arguments={"city": "Paris"})
    )
    messages: list[Any] = [
        *QUESTION,
        ollama.Message(role="assistant", tool_calls=[call]),
        ollama.Message(role="tool", tool_name="weather", content="sunny in Paris"),
    ]
    second = client.chat(MODEL, messages, tools=[weather], think=False, options=GREEDY)
    assert second.done


def test_logprobs(client: ollama.Client) -> None:
    answer = client.chat(MODEL, QUESTION, logprobs=True, top_logprobs=3, options=GREEDY | {"num_predict": 4})
    assert answer.logprobs is not None
    assert len(answer.logprobs) == 4
    for entry in answer.logprobs:
        assert entry.top_logprobs is not None
        assert len(entry.top_logprobs) == 3
        assert entry.token == entry.top_logprobs[0].token  # greedy: the likeliest
        assert sum(math.exp(one.logprob) for one in entry.top_logprobs) <= 1 + 1e-6
    assert "".join(entry.token for entry in answer.logprobs) == answer.message.content


def test_embeddings(client: ollama.Client) -> None:
    texts = ["The cat sat on the mat.", "A kitten was sitting on the rug.", "Quarterly revenue rose by 4%."]
    answer = client.embed(MODEL, texts, options={"temperature": None})
    vectors = np.array(answer.embeddings)
    assert vectors.shape == (3, 576)
    # Each component was rounded to float32, which moves the length of 1 by at most 2**-24.
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=2**-23)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    alone = client.embed(MODEL, texts[0])
    assert np.array(alone.embeddings[0]) == pytest.approx(vectors[0], abs=1e-5)
    old = client.embeddings(MODEL, texts[0])
    assert list(old.embedding) == list(alone.embeddings[0])
    assert answer.prompt_eval_count is not None
    assert answer.prompt_eval_count > 0
    assert client.embed(MODEL, texts[0], dimensions=576).embeddings == alone.embeddings


def test_loading_and_pulling(client: ollama.Client) -> None:
    assert client.generate(MODEL).done_reason == "load"
    assert client.chat(MODEL, keep_alive="5m").done_reason == "load"
    assert client.pull(MODEL).status == "success"
    assert [progress.status for progress in client.pull(MODEL, stream=True)][-1] == "success"
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    assert client.ps().models == []
    assert client.chat(MODEL, QUESTION, options=GREEDY, keep_alive="10m").done  # loaded again
    (running,) = client.ps().models
    assert running.expires_at is not None
    assert running.expires_at - datetime.now(UTC) < timedelta(minutes=10)
    assert client.generate(MODEL).done_reason == "load"
    (running,) = client.ps().models
    assert running.expires_at is not None
    assert running.expires_at.year == 9999


def test_errors_by_status(client: ollama.Client) -> None:
    def refused(status: int, *parts: str) -> Any:
        return pytest.raises(ollama.ResponseError, match=".*".join(parts) + rf".*\(status code: {status}\)")

    with refused(404, "llama3"):
        client.chat("llama3", QUESTION)
    with refused(404, "llama3"):
        client.show("llama3")
    with refused(404, "llama3", "rfc compile"):
        client.pull("llama3")
    with refused(400, "prompt: ", "8192"):
        client.generate(MODEL, "word " * 9000)
    with refused(400, "options.temperature"):
        client.chat(MODEL, QUESTION, options={"temperature": -1})
    with refused(400, "not supported"):
        client.create("mine", from_=MODEL)
    with refused(400, "not supported"):
        client.push(MODEL)
    with refused(400, "not supported"):
        client.delete(MODEL)
    with refused(400, "not supported"):
        client.copy(MODEL, "mine")
    with refused(400, "dimensions"):
        client.embed(MODEL, "a", dimensions=7)
    assert client.chat(MODEL, QUESTION, options=GREEDY).done


def test_errors_of_streams(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat("llama3", QUESTION, stream=True))
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.generate(MODEL, "word " * 9000, stream=True))
    assert caught.value.status_code == 400


def test_a_client_that_leaves_a_stream(client: ollama.Client, server: Server) -> None:
    stream = client.generate(MODEL, "Tell a long story.", options={"num_predict": 2000}, stream=True)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]  # a generator, called an iterator
    server.wait_until_idle()


def test_version(server: Server) -> None:
    assert __version__.startswith(server.get("/api/version").json()["version"])
