"""Faults of a request that show late or deep: each API answers a 4xx that names the parameter."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import falcon.testing
import pytest

from rocmforge.runtime.engine.failure import Failure
from rocmforge.tests.support.fake_engine import FakeEngine, FakeTemplate, make_app

MESSAGES = [{"role": "user", "content": "hi"}]
# A request of each API that generates text, and what in its body asks for a stream.
GENERATING: dict[str, dict[str, object]] = {
    "/generate": {"prompt": "hi"},
    "/generate/stream": {"prompt": "hi"},
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/api/generate": {"model": "org/tiny:q4", "prompt": "hi"},
    "/api/chat": {"model": "org/tiny:q4", "messages": MESSAGES},
    "/completion": {"prompt": "hi"},
}
TOO_COMPLEX = "response_format: too complex"
OF_LLAMA_CPP = {"code": 400, "message": TOO_COMPLEX, "type": "invalid_request_error"}


@pytest.fixture
def client() -> falcon.testing.TestClient:
    """Of an engine whose constraints meet a limit after two tokens."""
    engine = FakeEngine(fail_after=2, failure=Failure(TOO_COMPLEX, "response_format"))
    return falcon.testing.TestClient(make_app(engine))


@pytest.mark.parametrize("path", [path for path in GENERATING if not path.endswith("/stream")])
def test_F101_a_constraint_that_meets_a_limit_midway_is_a_400(client: falcon.testing.TestClient, path: str) -> None:
    answer = client.simulate_post(path, json={**GENERATING[path], "stream": False})
    assert answer.status_code == 400, answer.text
    error = answer.json["error"]
    if path == "/completion":
        assert error == OF_LLAMA_CPP
        return
    if not path.startswith("/v1/"):
        assert error == TOO_COMPLEX
        return
    assert (error["message"], error["type"], error["param"]) == (
        TOO_COMPLEX,
        "invalid_request_error",
        "response_format",
    )


@pytest.mark.parametrize("path", [path for path in GENERATING if path != "/generate"])
def test_F101_and_in_a_stream_an_error_that_says_so(client: falcon.testing.TestClient, path: str) -> None:
    answer = client.simulate_post(path, json={**GENERATING[path], "stream": True})
    assert answer.status_code == 200
    *_, last = filter(None, answer.text.replace("data: ", "").split("\n"))
    document = json.loads(last)
    if path == "/v1/responses":
        assert (document["type"], document["response"]["status"]) == ("response.failed", "failed")
        assert document["response"]["error"] == {"code": "invalid_prompt", "message": TOO_COMPLEX}
    elif path == "/generate/stream":
        assert (document["finish_reason"], document["error"]) == ("failed", TOO_COMPLEX)
    elif path.startswith("/v1/"):
        error = document["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "response_format")
    else:
        assert document["error"] == (OF_LLAMA_CPP if path == "/completion" else TOO_COMPLEX)


def test_a_failure_that_is_not_the_requests_stays_a_500() -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine(fail_after=2)))
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat", "/generate"):
        assert client.simulate_post(path, json={**GENERATING[path], "stream": False}).status_code == 500


SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "enum": ["x"]}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "x"}'}}
CHAT = [
    {"role": "system", "content": "s", "name": "n"},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {"role": "assistant", "content": "x", "reasoning_content": "r", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "result"},
]
RESPONSE_TOOL = {"type": "function", **FUNCTION}
# Requests that fill in what takes a string, beside those above.
FULL: dict[str, dict[str, object]] = {
    "/generate": {"prompt": "hi", "stop": ["z"]},
    "/v1/completions": {"model": "org/tiny:q4", "prompt": ["hi", "ho"], "stop": "z", "user": "u", "echo": True},
    "/v1/chat/completions": {
        "model": "org/tiny:q4",
        "messages": CHAT,
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": "auto",
        "reasoning_effort": "low",
        "chat_template_kwargs": {"a": "b"},
        "metadata": {"k": "v"},
        "user": "u",
    },
    "/v1/responses": {
        "model": "org/tiny:q4",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "x"},
        ],
        "instructions": "i",
        "tools": [RESPONSE_TOOL],
        "tool_choice": "auto",
        "metadata": {"k": "v"},
        "reasoning": {"effort": "low"},
        "include": ["message.output_text.logprobs"],
    },
    "/v1/messages": {
        "model": "org/tiny:q4",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "b"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["z"],
        "metadata": {"user_id": "u"},
    },
    "/v1/embeddings": {"model": "org/tiny:q4", "input": ["a"], "encoding_format": "base64", "user": "u"},
    "/v1/models/check": {"models": ["a"]},
    "/api/chat": {
        "model": "org/tiny:q4",
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": "b"}}}]},
            {"role": "tool", "content": "r", "tool_name": "f"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}],
        "options": {"stop": ["z"]},
        "keep_alive": "5m",
        "think": "low",
    },
    "/api/generate": {"model": "org/tiny:q4", "prompt": "hi", "system": "s", "keep_alive": "5m"},
    "/api/embed": {"model": "org/tiny:q4", "input": ["a"]},
    "/api/show": {"model": "org/tiny:q4"},
    "/api/pull": {"model": "org/tiny:q4", "stream": False},
    "/completion": {"prompt": ["hi", 5], "stop": ["z"], "model": "org/tiny:q4"},
    "/tokenize": {"content": "hi", "with_pieces": True},
    "/apply-template": {"messages": CHAT},
}
HOSTILE = {"half an emoji": "\ud83d", "NUL": "h\0i"}


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where strings stand in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from [(*path, key)] if isinstance(item, str) else places(item, (*path, key))


def changed(value: Any, path: tuple[str | int, ...], text: str, name: bool) -> Any:
    """The value with another string at a place, or with another name there."""
    copied = at = copy.deepcopy(value)
    *way, last = path
    for step in way:
        at = at[step]
    if name:
        at[text] = at.pop(last)
    else:
        at[last] = text
    return copied


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("path", FULL)
def test_F100_no_string_is_an_internal_error(path: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine()))
    assert client.simulate_post(path, json=FULL[path]).status_code == 200
    asked = 0
    for place in places(FULL[path]):
        for name in (False, True)[: 1 + isinstance(place[-1], str)]:
            body = json.dumps(changed(FULL[path], place, text, name))
            answer = client.simulate_post(path, body=body)
            assert answer.status_code in {200, 400, 404}, (place, name, answer.text)
            assert "\0" not in answer.text
            asked += 1
    assert asked
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize(
    "path, place, parameter",
    [
        ("/v1/chat/completions", ("messages", 1, "role"), "messages[1].role"),
        ("/v1/messages", ("messages", 0, "role"), "messages[0].role"),
        ("/api/chat", ("messages", 0, "role"), "messages[0].role"),
        ("/v1/responses", ("tool_choice",), "tool_choice"),
        ("/v1/embeddings", ("encoding_format",), "encoding_format"),
    ],
)
def test_F100_a_word_that_is_none_of_those_known_is_a_400_that_names_the_field(
    path: str, place: tuple[str | int, ...], parameter: str, text: str
) -> None:
    client = falcon.testing.TestClient(make_app(FakeEngine()))
    answer = client.simulate_post(path, body=json.dumps(changed(FULL[path], place, text, False)))
    assert answer.status_code == 400
    error = answer.json["error"]
    assert (error["message"] if path.startswith("/v1/") else error).startswith(f"{parameter}: ")


def test_half_an_emoji_in_a_text_is_read_as_a_replacement_character() -> None:
    engine, template = FakeEngine(), FakeTemplate()
    client = falcon.testing.TestClient(make_app(engine, template=template))
    for escaped, read in (
        (r"cut \ud83d", "cut \ufffd"),
        (r"\udf89\uD83D!", "\ufffd\ufffd!"),
        (r"whole \ud83c\udf89", "whole \U0001f389"),
        (r"no escape: \\ud83d", r"no escape: \ud83d"),
    ):
        body = f'{{"messages": [{{"role": "user", "content": "{escaped}"}}]}}'
        assert client.simulate_post("/v1/chat/completions", body=body).status_code == 200
        assert template.messages[0]["content"] == read
    body = r'{"model": "org/tiny:q4", "input": "x", "metadata": {"k\ud83d": "v\ude00"}}'
    assert client.simulate_post("/v1/responses", body=body).json["metadata"] == {"k\ufffd": "v\ufffd"}
