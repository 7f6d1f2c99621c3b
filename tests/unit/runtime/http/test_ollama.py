"""Ollama's API: chat and generate, at once and as JSON lines."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import falcon.testing
import pytest

from rocmforge.artifacts.errors import RequestError
from rocmforge.runtime.http.app import HttpLimits, create_app
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.http.ollama.requests import keep_seconds
from rocmforge.runtime.http.transport.auth import Security, load_keys
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer, make_app

HELLO = [{"role": "user", "content": "hi"}]
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def template() -> FakeTemplate:
    return FakeTemplate()


@pytest.fixture
def client(engine: FakeEngine, template: FakeTemplate) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine, template=template))


def chat(client: falcon.testing.TestClient, **body: Any) -> falcon.testing.Result:
    return client.simulate_post("/api/chat", json={"model": "org/tiny:q4", "messages": HELLO, **body})


def generate(client: falcon.testing.TestClient, **body: Any) -> falcon.testing.Result:
    return client.simulate_post("/api/generate", json={"model": "org/tiny:q4", "prompt": "hi", **body})


def lines(result: falcon.testing.Result) -> list[dict[str, Any]]:
    assert result.headers["content-type"] == "application/x-ndjson"
    assert result.text.endswith("\n")
    return [json.loads(line) for line in result.text.splitlines()]


def check_end(line: dict[str, Any], reason: str, prompt_tokens: int, tokens: int) -> None:
    """Counts and durations of a last line."""
    assert (line["done"], line["done_reason"]) == (True, reason)
    assert (line["prompt_eval_count"], line["eval_count"]) == (prompt_tokens, tokens)
    parts = [line[name] for name in DURATIONS]
    assert all(isinstance(part, int) and part >= 1 for part in parts)
    assert sum(parts[1:]) <= parts[0] + 3  # each is at least 1


def test_chat(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    document = chat(client, stream=False).json
    assert document["model"] == "org/tiny:q4"
    assert document["message"] == {"role": "assistant", "content": " Paris, in France."}
    assert datetime.fromisoformat(document["created_at"]).tzinfo is not None
    check_end(document, "stop", 9, 5)
    sampling = engine.last.request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.8, 40, 0.9)  # as Ollama documents
    assert engine.last.request.max_tokens == 128 - 9


def test_chat_streams_unless_told_not_to(client: falcon.testing.TestClient) -> None:
    got = lines(chat(client, options={"num_predict": 2}))
    assert [line["message"] for line in got] == [
        {"role": "assistant", "content": " Paris"},
        {"role": "assistant", "content": ","},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in got] == [False, False, True]
    assert all(not set(line) & {*DURATIONS, "done_reason", "eval_count"} for line in got[:-1])
    check_end(got[-1], "length", 9, 2)


def test_options_become_conditions(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    options = {
        "temperature": 0,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repeat_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.4,
        "seed": 5,
        "stop": ["x"],
        "num_predict": 3,
    }
    chat(client, options=options)
    sampling = engine.last.request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.0, 7, 0.5)
    assert (sampling.min_p, sampling.typical_p, sampling.repetition_penalty) == (0.1, 0.9, 1.2)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.seed) == (0.3, 0.4, 5)
    assert (engine.last.request.stop, engine.last.request.max_tokens) == (("x",), 3)


@pytest.mark.parametrize("seed, drawn", [(-1, None), (0, 0), (1, 1)])
def test_a_seed_below_0_is_none(
    client: falcon.testing.TestClient, engine: FakeEngine, seed: int, drawn: int | None
) -> None:
    chat(client, options={"seed": seed})
    assert engine.last.request.sampling.seed == drawn


@pytest.mark.parametrize("last, penalty", [(0, 1.0), (64, 1.2), (-1, 1.2), (None, 1.2)])
def test_a_penalty_of_the_last_0_tokens_is_none(
    client: falcon.testing.TestClient, engine: FakeEngine, last: int | None, penalty: float
) -> None:
    chat(client, options={"repeat_penalty": 1.2, "repeat_last_n": last})
    assert engine.last.request.sampling.repetition_penalty == penalty


def test_options_full_of_nulls_and_of_loading(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    names = ["mirostat", "num_ctx", "num_gpu", "num_thread", "tfs_z", "temperature", "stop", "seed", "num_predict"]
    assert chat(client, options=dict.fromkeys(names)).status_code == 200
    assert chat(client, options={"num_ctx": 8192, "num_gpu": 99, "num_keep": 4}).status_code == 200
    assert engine.last.request.sampling.temperature == 0.8


@pytest.mark.parametrize("num_predict", [-2, -1, 0, 4096])
def test_num_predict_ends_with_the_context(
    client: falcon.testing.TestClient, engine: FakeEngine, num_predict: int
) -> None:
    assert chat(client, options={"num_predict": num_predict, "seed": -1}).status_code == 200
    assert engine.last.request.max_tokens == 128 - 9
    assert engine.last.request.sampling.seed is None


@pytest.mark.parametrize("num_predict", [-3, 10**12])
def test_num_predict_out_of_range(client: falcon.testing.TestClient, engine: FakeEngine, num_predict: int) -> None:
    result = chat(client, options={"num_predict": num_predict})
    assert result.status_code == 400
    assert "num_predict" in result.json["error"]
    assert not engine.generations


def test_the_ai_sdks_provider_puts_numbers_at_the_top(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    body = {"temperature": 0.1, "top_p": 0.2, "max_output_tokens": 4, "think": False, "tools": []}
    assert chat(client, **body).status_code == 200
    request = engine.last.request
    assert (request.sampling.temperature, request.sampling.top_p, request.max_tokens) == (0.1, 0.2, 4)
    chat(client, **body, options={"temperature": 0.7, "num_predict": 2})
    request = engine.last.request
    assert (request.sampling.temperature, request.max_tokens) == (0.7, 2)


def test_messages_reach_the_template(client: falcon.testing.TestClient, template: FakeTemplate) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}, "index": 0}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi", "images": []},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_name": "f"},
    ]
    assert chat(client, messages=messages, think="high").status_code == 200
    assert list(template.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Hm.",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "42", "name": "f"},
    ]
    assert template.extra == {"enable_thinking": True, "reasoning_effort": "high"}
    chat(client, think=False)
    assert template.extra == {"enable_thinking": False}


TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Now.", "parameters": {"type": "object", "properties": {}}},
}
CALLING = ["<tool_call>", '{"name": "weather", ', '"arguments": {"city": "Zürich"}}', "</tool_call>"]


@pytest.mark.parametrize("stream", [True, False])
def test_tool_calls_have_objects_for_arguments(stream: bool, template: FakeTemplate) -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(reply=CALLING * 2), template=template))
    result = chat(client, tools=[TOOL], stream=stream)
    got = lines(result) if stream else [result.json]
    calls = [call for line in got for call in line["message"].get("tool_calls", ())]
    assert [call["function"] for call in calls] == [
        {"index": 0, "name": "weather", "arguments": {"city": "Zürich"}},
        {"index": 1, "name": "weather", "arguments": {"city": "Zürich"}},
    ]
    assert len({call["id"] for call in calls}) == 2
    assert "".join(line["message"]["content"] for line in got) == ""
    assert got[-1]["done_reason"] == "stop"
    assert template.tools == [TOOL]


@pytest.mark.parametrize("stream", [True, False])
def test_a_call_that_breaks_off_is_content(stream: bool) -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(reply=[*CALLING[:2], '"arguments": {"city', '": "Bern"'])))
    result = chat(client, tools=[TOOL], stream=stream, options={"num_predict": 4})
    got = lines(result) if stream else [result.json]
    assert not [line for line in got if "tool_calls" in line["message"]]
    assert "".join(line["message"]["content"] for line in got) == '{"name": "weather", "arguments": {"city": "Bern"'
    assert got[-1]["done_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_reasoning_is_told_apart(stream: bool) -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(reply=["<think>", "Hm", ".", "</think>", "Yes", "!"])))
    for send in (chat, generate):
        result = send(client, stream=stream)
        got = [line.get("message", line) for line in (lines(result) if stream else [result.json])]
        assert "".join(part.get("thinking", "") for part in got) == "Hm."
        assert "".join(part.get("content", part.get("response", "")) for part in got) == "Yes!"


def test_logprobs(client: falcon.testing.TestClient) -> None:
    document = chat(client, stream=False, logprobs=True, top_logprobs=2, options={"num_predict": 1}).json
    assert document["logprobs"] == [
        {
            "token": "d",
            "logprob": -0.5,
            "bytes": [100],
            "top_logprobs": [
                {"token": "d", "logprob": -0.5, "bytes": [100]},
                {"token": "A", "logprob": -9999.0, "bytes": [65]},
            ],
        }
    ]
    assert "logprobs" not in chat(client, stream=False).json


@pytest.mark.parametrize(("body", "done_reason"), [({}, "load"), ({"keep_alive": 0}, "unload")])
def test_without_a_prompt_the_model_is_loaded(
    client: falcon.testing.TestClient, engine: FakeEngine, body: dict[str, Any], done_reason: str
) -> None:
    got = chat(client, messages=[], **body).json
    assert (got["done"], got["done_reason"], got["message"]) == (
        True,
        done_reason,
        {"role": "assistant", "content": ""},
    )
    got = generate(client, prompt="", **body).json
    assert (got["done"], got["done_reason"], got["response"]) == (True, done_reason, "")
    assert engine.generations == []


def test_generate(client: falcon.testing.TestClient, template: FakeTemplate) -> None:
    document = generate(client, stream=False, system="Be brief.").json
    assert (document["response"], document["context"]) == (" Paris, in France.", [])
    check_end(document, "stop", len("system:Be brief.\nuser:hi\n") + 1, 5)
    assert template.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
    )


def test_generate_streams_with_a_context_in_every_line(client: falcon.testing.TestClient) -> None:
    got = lines(generate(client))
    assert "".join(line["response"] for line in got) == " Paris, in France."
    assert all(line["context"] == [] for line in got)  # the AI SDK's provider drops the text without
    check_end(got[-1], "stop", 9, 5)


def test_raw_prompts_meet_no_template_and_no_reader(engine: FakeEngine, client: falcon.testing.TestClient) -> None:
    engine.reply = ["<think>", "a"]
    document = generate(client, raw=True, stream=False).json
    assert (document["response"], document.get("thinking")) == ("<think>a", None)
    assert engine.last.request.prompt_token_ids == (256, *b"hi")


@pytest.mark.parametrize("value", ["json", {"type": "object"}])
def test_format_constrains_the_answer(client: falcon.testing.TestClient, value: object) -> None:
    # This server has no compiler of constraints: it says which parameter it cannot honour.
    result = chat(client, format=value)
    assert (result.status_code, result.json["error"]) == (400, "format: not supported yet")
    assert chat(client, format="").status_code == 200


WRONG: dict[str, tuple[str, dict[str, object], str]] = {
    "F46-temperature": ("chat", {"options": {"temperature": -1}}, "options.temperature: "),
    "F46-top-level": ("chat", {"temperature": "hot"}, "temperature: "),
    "F46-num_predict": ("chat", {"options": {"num_predict": -3}}, "options.num_predict: "),
    "F46-mirostat": ("chat", {"options": {"mirostat": 2}}, "options.mirostat: "),
    "F46-format": ("chat", {"format": "yaml"}, "format: "),
    "F46-think": ("generate", {"think": "hard"}, "think: "),
    "F46-keep_alive": ("generate", {"keep_alive": "five minutes"}, "keep_alive: "),
    "F46-role": ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role: "),
    "F46-images": (
        "chat",
        {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]},
        "messages[0].images: ",
    ),
    "F46-arguments": (
        "chat",
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}]},
        "messages[0].tool_calls[0].function.arguments: ",
    ),
    "F46-no-model": ("chat", {"model": ""}, "model: "),
    "F46-suffix": ("generate", {"suffix": "end"}, "suffix: "),
    "F46-context": ("generate", {"context": [1, 2]}, "context: "),
    "F48-chat": ("chat", {"messages": [{"role": "user", "content": "x" * 200}]}, "prompt: "),
    "F48-generate": ("generate", {"prompt": "x" * 200}, "prompt: "),
    "F48-raw": ("generate", {"prompt": "x" * 200, "raw": True}, "prompt: "),
    "F50-template": ("generate", {"template": "{{ .Prompt }}"}, "template: "),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body", "beginning"), WRONG.values(), ids=WRONG.keys())
def test_refused(
    client: falcon.testing.TestClient,
    engine: FakeEngine,
    path: str,
    body: dict[str, object],
    beginning: str,
    stream: bool,
) -> None:
    result = {"chat": chat, "generate": generate}[path](client, stream=stream, **body)
    assert result.status_code == 400
    assert list(result.json) == ["error"]
    assert result.json["error"].startswith(beginning)
    assert engine.generations == []
    assert chat(client).status_code == 200


@pytest.mark.parametrize(
    ("keep_alive", "seconds"),
    [
        (None, None),
        (0, 0.0),
        (5, 5.0),
        (1.5, 1.5),
        (-1, math.inf),
        ("0", 0.0),
        ("300", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("-1s", math.inf),
    ],
)
def test_keep_alive_in_all_forms(
    client: falcon.testing.TestClient, keep_alive: float | str | None, seconds: float | None
) -> None:
    """Numbers are seconds, text is a duration of Go, and what is negative is for ever."""
    assert keep_seconds(keep_alive) == seconds
    assert lines(chat(client, keep_alive=keep_alive))[-1]["done"] is True


@pytest.mark.parametrize("keep_alive", ["", " ", "m", "5x", "1h-5m", "--5", "5 m"])
def test_no_keep_alive(keep_alive: str) -> None:
    with pytest.raises(RequestError, match=r"^keep_alive: "):
        keep_seconds(keep_alive)


def test_the_registry_is_told_how_long_a_model_stays(engine: FakeEngine) -> None:
    service = Service(engine, FakeTokenizer(), FakeTemplate(), MODEL)
    told: list[float | None] = []

    class Registry(OneModel):
        def keep(self, name: str | None, seconds: float | None) -> None:
            assert name == "org/tiny:q4"
            told.append(seconds)

    client = falcon.testing.TestClient(create_app(Registry(service), Metrics(), HttpLimits(poll_seconds=0.02)))
    for keep_alive in ("10m", None, 0):
        chat(client, keep_alive=keep_alive)
        generate(client, keep_alive=keep_alive)
        chat(client, keep_alive=keep_alive, messages=[])
        client.simulate_post("/api/embed", json={"model": "org/tiny:q4", "input": "a", "keep_alive": keep_alive})
    assert told == [600] * 4 + [None] * 4 + [0] * 4


def test_unknown_model(client: falcon.testing.TestClient) -> None:
    for result in (chat(client, model="gpt"), generate(client, model="gpt"), chat(client, model="gpt", messages=[])):
        assert result.status_code == 404
        assert result.json["error"].startswith("model gpt not found")


@pytest.mark.parametrize("path", ["chat", "generate"])
def test_a_failure_midway_is_a_line(client: falcon.testing.TestClient, engine: FakeEngine, path: str) -> None:
    engine.fail_after = 1
    send = {"chat": chat, "generate": generate}[path]
    got = lines(send(client))
    assert [line.get("done") for line in got] == [False, None]
    assert got[-1] == {"error": "the device is lost"}
    result = send(client, stream=False)
    assert (result.status_code, result.json) == (500, {"error": "the device is lost"})


def test_busy(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.busy = True
    result = chat(client)
    assert (result.status_code, result.headers["retry-after"]) == (503, "1")
    assert result.json == {"error": "the queue is full"}


def test_F58_a_key_that_is_only_for_use_does_not_unload(engine: FakeEngine, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("plain-key-of-alice use alice\nother-key-of-root admin root\n")
    ring = load_keys(keys, None)
    client = falcon.testing.TestClient(make_app(engine, security=Security(ring)))
    body = {"model": MODEL.name, "keep_alive": 0}
    statuses = []
    for key in ("plain-key-of-alice", "other-key-of-root"):
        headers = {"Authorization": f"Bearer {key}"}
        statuses.append(client.simulate_post("/api/generate", json=body, headers=headers).status_code)
    assert statuses == [403, 200]
