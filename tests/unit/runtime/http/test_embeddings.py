"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
import threading
from typing import Any

import falcon.testing
import numpy as np
import pytest

from rocmforge.runtime.http.core.embeddings import GROUP, MAX_INPUTS
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.tests.support.fake_engine import FakeEngine, fake_vector, make_app


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine))


def embed(client: falcon.testing.TestClient, **body: Any) -> falcon.testing.Result:
    return client.simulate_post("/v1/embeddings", json={"model": "org/tiny:q4", **body})


HI = (256, *b"hi")


ONE = [
    "hi",
    ["hi"],
    list(HI),
    [list(HI)],
    [256, "hi"],
    {"prompt_string": "hi"},
    {"content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
]


@pytest.mark.parametrize("given", ONE)
def test_one_text_in_any_form(client: falcon.testing.TestClient, given: object) -> None:
    document = embed(client, input=given).json
    assert document == {
        "object": "list",
        "model": "org/tiny:q4",
        "data": [{"object": "embedding", "index": 0, "embedding": fake_vector(HI).tolist()}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
@pytest.mark.parametrize("name", ["content", "input"])
def test_as_llama_cpp_has_it(client: falcon.testing.TestClient, path: str, name: str) -> None:
    given = ["hi", [256, "hi"], {"prompt_string": "ho"}]
    expected = [fake_vector(ids).tolist() for ids in (HI, HI, (256, *b"ho"))]
    document = client.simulate_post(path, json={name: given}).json
    assert document == [{"index": i, "embedding": [vector]} for i, vector in enumerate(expected)]
    error = client.simulate_post(path, json={name: "x" * 200}).json["error"]
    assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == ("exceed_context_size_error", 201, 128)
    assert "too large" in error["message"]


def test_the_least_of_the_limits_is_the_one_that_is_named() -> None:
    for most, expected in [(50, 50), (500, 128)]:
        client = falcon.testing.TestClient(make_app(FakeEngine(), HttpLimits(max_prompt_tokens=most)))
        error = client.simulate_post("/embedding", json={"content": "x" * 200}).json["error"]
        assert (error["n_prompt_tokens"], error["n_ctx"]) == (201, expected)


def test_the_text_of_a_control_token_stands_for_it(client: falcon.testing.TestClient) -> None:
    for given in ("<s>hi", ["<s>hi"]):
        assert embed(client, input=given).json["data"][0]["embedding"] == fake_vector((256, *HI)).tolist()


def test_several_texts_keep_their_order(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    texts = [f"text {i}" for i in range(GROUP + 3)]
    document = embed(client, input=texts).json
    assert [entry["index"] for entry in document["data"]] == list(range(GROUP + 3))
    for text, entry in zip(texts, document["data"], strict=True):
        assert entry["embedding"] == fake_vector((256, *text.encode())).tolist()
    assert document["usage"]["total_tokens"] == sum(1 + len(text) for text in texts)
    assert len(engine.embeddings) == GROUP + 3


def test_base64_is_little_endian_float32(client: falcon.testing.TestClient) -> None:
    numbers = embed(client, input="hi").json["data"][0]["embedding"]
    text = embed(client, input="hi", encoding_format="base64").json["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(text), "<f4").tolist() == numbers


def test_pooling(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    assert embed(client, input="hi", pooling="last").json["data"][0]["embedding"] == fake_vector(HI, "last").tolist()
    assert embed(client, input="hi", dimensions=4).status_code == 200  # as long as they are
    assert [one.request.pooling for one in engine.embeddings] == ["last", None]


WRONG: dict[str, tuple[dict[str, object], str, str | None]] = {
    "F46-none": ({}, "input", None),
    "F46-null": ({"input": None}, "input", None),
    "F46-number": ({"input": 3}, "input", None),
    "F46-empty": ({"input": []}, "input", None),
    "F46-mixed": ({"input": ["a", None]}, "input", None),
    "F46-mixed-ids": ({"input": [1, None]}, "input[1]", None),
    "F46-part": ({"input": {"content": [{"type": "image_url"}]}}, "input.content[0]", "unsupported_parameter"),
    "F46-parts": ({"input": {"content": "a"}}, "input.content", None),
    "F46-too-many": ({"input": ["a"] * (MAX_INPUTS + 1)}, "input", None),
    "F46-pooling": ({"input": "a", "pooling": "max"}, "pooling", None),
    "F46-dimensions": ({"input": "a", "dimensions": 2}, "dimensions", "unsupported_parameter"),
    "F46-format": ({"input": "a", "encoding_format": "int8"}, "encoding_format", None),
    "F48-one-of-two": ({"input": ["a", "b" * 128]}, "input", "context_length_exceeded"),
    "F49-id": ({"input": [[300]]}, "input", None),
    "F49-negative": ({"input": [-1]}, "input", None),
    "F49-empty-ids": ({"input": [[1], []]}, "input", None),
}


@pytest.mark.parametrize(("body", "parameter", "code"), WRONG.values(), ids=WRONG.keys())
def test_refused_before_anything_is_computed(
    client: falcon.testing.TestClient, engine: FakeEngine, body: dict[str, object], parameter: str, code: str | None
) -> None:
    result = embed(client, **body)
    error = result.json["error"]
    assert (result.status_code, error["param"], error["code"]) == (400, parameter, code)
    assert engine.embeddings == []
    assert embed(client, input="hi").status_code == 200


def test_unknown_model(client: falcon.testing.TestClient) -> None:
    result = embed(client, input="hi", model="gpt")
    assert (result.status_code, result.json["error"]["code"]) == (404, "model_not_found")


def test_failures_give_the_slot_back(engine: FakeEngine) -> None:
    app = make_app(engine)
    client = falcon.testing.TestClient(app)
    engine.fail_after = 0
    result = embed(client, input=["a", "b"])
    assert (result.status_code, result.json["error"]["message"]) == (500, "the device is lost")
    assert all(one.cancelled for one in engine.embeddings)
    engine.fail_after, engine.busy = None, True
    assert embed(client, input="a").status_code == 503
    assert app.admission.active == 0


def test_F55_a_client_that_left_is_noticed(engine: FakeEngine) -> None:
    app = make_app(engine)
    client = falcon.testing.TestClient(app)
    engine.prefill_seconds = 0.01
    result = client.simulate_post(
        "/v1/embeddings", json={"input": ["a", "b"]}, extras={"waitress.client_disconnected": lambda: True}
    )
    assert result.status_code == 499
    assert [one.cancelled for one in engine.embeddings] == [True, True]
    assert app.admission.active == 0


def test_texts_under_way_are_given_up_where_the_server_ends(engine: FakeEngine) -> None:
    app = make_app(engine)
    engine.prefill_seconds = 0.01
    threading.Timer(0.1, app.admission.abort).start()
    result = falcon.testing.TestClient(app).simulate_post("/v1/embeddings", json={"input": ["a", "b"]})
    assert (result.status_code, result.json["error"]["code"]) == (400, "request_cancelled")
    assert app.admission.aborted  # not before
    assert [one.cancelled for one in engine.embeddings] == [True, True]
    assert app.admission.active == 0
