"""Bad bodies and parameters: a 400 in the shape of the path, and the next request is served."""

from __future__ import annotations

import json
import re

import falcon.testing
import pytest

from rocmforge.runtime.http.app import HttpLimits
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

CHAT = "/v1/chat/completions"
HELLO = {"role": "user", "content": "hello"}


@pytest.fixture
def client() -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(FakeEngine(), HttpLimits(max_body_bytes=100_000)))


def check_400(client: falcon.testing.TestClient, path: str, body: bytes, parameter: str) -> str:
    """Send it, check shape and parameter, see that the server goes on; return the message."""
    result = client.simulate_post(path, body=body)
    assert result.status_code == 400, result.text
    if path.startswith("/v1/"):
        error = result.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert re.fullmatch(rf"{re.escape(parameter)}(\[\d+\])?", error["param"])  # it, or one item of it
        message = error["message"]
    else:
        assert result.json["status"] == "error"
        message = result.json["error"]
    assert re.match(rf"{re.escape(parameter)}(\[\d+\])?: ", message)
    assert message.isprintable()
    assert client.simulate_post("/generate", json={"prompt": "x"}).status_code == 200
    return str(message)


F44 = {
    "empty": b"",
    "truncated": b'{"prompt": "x"',
    "trailing": b'{"prompt": "x"} x',
    "array": b"[]",
    "string": b'"x"',
    "utf8": b'{"prompt": "\xff"}',
    "nan": b'{"prompt": "x", "temperature": NaN}',
    "infinity": b'{"prompt": "x", "temperature": -Infinity}',
    "1e400": b'{"prompt": "x", "temperature": 1e400}',
    "digits": b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
    "form": b"prompt=x",
    "control": b'{"prompt": "\x00"}',
}


@pytest.mark.parametrize("path", ["/generate", "/generate/stream", "/v1/completions", CHAT])
@pytest.mark.parametrize("body", F44.values(), ids=F44.keys())
def test_F44_a_body_that_is_no_json(client: falcon.testing.TestClient, path: str, body: bytes) -> None:
    check_400(client, path, body, "body")


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [101, 10_000])
@pytest.mark.parametrize("path", ["/generate", CHAT])
def test_F45_deep_nesting(client: falcon.testing.TestClient, path: str, depth: int, opening: str, closing: str) -> None:
    body = '{"prompt": "x", "a": ' + opening * depth + "1" + closing * depth + "}"
    assert "deep" in check_400(client, path, body.encode(), "body")
    check_400(client, path, (opening * depth).encode(), "body")


def test_F45_nesting_within_the_bound_is_read(client: falcon.testing.TestClient) -> None:
    body = '{"prompt": "x", "a": ' + "[" * 99 + "]" * 99 + "}"
    assert client.simulate_post("/generate", body=body).status_code == 200


F46: list[tuple[str, list[object]]] = [
    ("max_tokens", [-1, 0, 1.5, "5", True, [], {}, 2**31, 10**40, -(10**40)]),
    ("temperature", [-0.1, 2.1, "hot", True, [], 10**400]),
    ("top_p", [-1, 1.1, "x"]),
    ("top_k", [-2, 2**31, 1.5, "x", False]),
    ("min_p", [-1, 2]),
    ("repetition_penalty", [0, -1, 11]),
    ("presence_penalty", [-2.1, 2.1]),
    ("frequency_penalty", [-2.1, 2.1]),
    ("seed", [2**64, -(2**63) - 1, 0.5, "x"]),
    ("stop", ["", [""], ["a"] * 17, 5, [5], {}, "x" * 1025]),
]
MEANT = {("/v1/completions", "max_tokens", "0"), *((path, "max_tokens", "-1") for path in ("/v1/completions", CHAT))}
F46_CASES = [
    (path, name, value)
    for path in ("/generate", "/v1/completions", CHAT)
    for name, values in F46
    for value in values
    if (path, name, repr(value)) not in MEANT
]


@pytest.mark.parametrize("path, name, value", F46_CASES, ids=lambda v: repr(v)[:20])
def test_F46_parameters_out_of_range_or_of_a_wrong_type(
    client: falcon.testing.TestClient, path: str, name: str, value: object
) -> None:
    base = {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    check_400(client, path, json.dumps({**base, name: value}).encode(), name)


V1 = [
    ("n", 0),
    ("n", 10**30),
    ("stream", "yes"),
    ("stream_options", 5),
    ("stream_options.include_usage", 1),
]


@pytest.mark.parametrize("path", ["/v1/completions", CHAT])
@pytest.mark.parametrize("name, value", V1)
def test_F46_parameters_of_v1(client: falcon.testing.TestClient, path: str, name: str, value: object) -> None:
    outer, _, inner = name.partition(".")
    body: dict[str, object] = {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    body[outer] = {inner: value} if inner else value
    check_400(client, path, json.dumps(body).encode(), name)


MESSAGES = [
    (None, "messages"),
    ([], "messages"),
    ("hi", "messages"),
    (["hi"], "messages[0]"),
    ([{"content": "x"}], "messages[0].role"),
    ([{"role": "king", "content": "x"}], "messages[0].role"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": [5]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
    ([{"role": "user", "content": "x", "name": 5}], "messages[0].name"),
    ([{"role": "assistant", "tool_calls": 5}], "messages[0].tool_calls"),
]


@pytest.mark.parametrize("messages, parameter", MESSAGES)
def test_F46_messages(client: falcon.testing.TestClient, messages: object, parameter: str) -> None:
    check_400(client, CHAT, json.dumps({"messages": messages}).encode(), parameter)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", 'messages: expected array, found the string "hi"'),
        ([{"role": "user", "content": 5}], "messages[0].content: expected str | array | null, found 5"),
        (
            [HELLO, {"role": "user", "content": [{"type": "text", "text": [1]}]}],
            "messages[1].content[0].text: expected str | null, found an array",
        ),
        ([{"role": "assistant", "content": "x"}], "messages: chat template: the user begins"),
    ],
)
def test_F46_what_was_found_is_said(client: falcon.testing.TestClient, messages: object, message: str) -> None:
    answer = client.simulate_post(CHAT, json={"messages": messages, "model": "org/tiny:q4"})
    assert answer.json["error"]["message"] == message


@pytest.mark.parametrize("limit", ["", "x", "-1", "\u0665", "1234567890"])
def test_F46_a_number_of_traces(client: falcon.testing.TestClient, limit: str) -> None:
    result = client.simulate_get("/traces", params={"limit": limit})
    assert result.status_code == 400
    assert "expected a whole number" in str(result.json)
    assert client.simulate_get("/traces", params={"limit": "123456789"}).status_code == 200


@pytest.mark.parametrize("prompt", [None, 5, ["x"], {"a": 1}, True])
def test_F46_a_native_prompt_is_a_string(client: falcon.testing.TestClient, prompt: object) -> None:
    check_400(client, "/generate", json.dumps({"prompt": prompt}).encode(), "prompt")


def test_F47_an_oversized_body(client: falcon.testing.TestClient) -> None:
    body = json.dumps({"prompt": "x" * 100_000})
    native = client.simulate_post("/generate", body=body)
    assert (native.status_code, native.json["status"]) == (413, "error")
    v1 = client.simulate_post("/v1/completions", body=body)
    assert (v1.status_code, v1.json["error"]["type"]) == (413, "invalid_request_error")
    assert "100000 bytes" in v1.json["error"]["message"]


@pytest.mark.parametrize(
    "method, path, allowed",
    [("GET", "/generate", "POST"), ("POST", "/health", "GET"), ("DELETE", "/v1/models", "GET")],
)
def test_F51_a_wrong_method(client: falcon.testing.TestClient, method: str, path: str, allowed: str) -> None:
    result = client.simulate_request(method, path)
    assert result.status_code == 405
    assert allowed in result.headers["allow"]
    assert isinstance(result.json["error"], dict) == path.startswith("/v1")


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_F51_a_wrong_encoding_and_no_growth_of_labels(client: falcon.testing.TestClient) -> None:
    result = client.simulate_post("/generate", body=b"x", headers={"Content-Encoding": "gzip"})
    assert (result.status_code, result.json["status"]) == (415, "error")
    client.simulate_request("PATCH", "/nowhere")
    client.simulate_request("FORGE", "/nowhere")
    client.simulate_get("/metrics")  # from now on it counts itself
    before = client.simulate_get("/metrics").text.count("\n")
    for i in range(20):
        client.simulate_request("PATCH", f"/nowhere/{i}")
        client.simulate_request(f"FORGE{i}", "/nowhere")
    assert client.simulate_get("/metrics").text.count("\n") == before


@pytest.mark.parametrize(
    "path, shape",
    [("/v1/nowhere", dict), ("/v1", dict), ("/api/nowhere", str), ("/nowhere", str), ("/v1x", str)],
)
def test_an_unknown_path_has_the_shape_of_its_api(client: falcon.testing.TestClient, path: str, shape: type) -> None:
    result = client.simulate_get(path)
    assert result.status_code == 404
    assert isinstance(result.json["error"], shape)
    assert ("status" in result.json) == (path in ("/nowhere", "/v1x"))
    assert "title" not in result.json
