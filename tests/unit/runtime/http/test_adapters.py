"""Adapters over HTTP: by the name of a model in every API, by llama.cpp's `lora`, and set for all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import falcon.testing
import pytest

from rocmforge.runtime.engine.embeddings import AdapterScales
from rocmforge.runtime.http.core.access import Scope
from rocmforge.runtime.http.transport.auth import ApiKey, KeyRing, Security
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, make_app

ADAPTED = replace(MODEL, name="tiny", adapters=("sql", "style"), aliases=("gpt",), defaults=type(MODEL.defaults)())
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> falcon.testing.TestClient:
    ADAPTED.defaults.scales = ()
    return falcon.testing.TestClient(make_app(engine, model=ADAPTED))


def used(engine: FakeEngine) -> AdapterScales:
    return engine.generations[-1].request.adapters


# Each API: its path and body, and where the answer has the model's name.
ASKED: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {
    "openai": ("/v1/chat/completions", {"messages": CHAT}, lambda found: found["model"]),
    "completions": ("/v1/completions", {"prompt": "hi"}, lambda found: found["model"]),
    "responses": ("/v1/responses", {"input": "hi"}, lambda found: found["model"]),
    "anthropic": ("/v1/messages", {"messages": CHAT, "max_tokens": 5}, lambda found: found["model"]),
    "ollama": ("/api/chat", {"messages": CHAT, "stream": False}, lambda found: found["model"]),
    "ollama-generate": ("/api/generate", {"prompt": "hi", "stream": False}, lambda found: found["model"]),
    "llama.cpp": ("/completion", {"prompt": "hi"}, lambda found: found["model"]),
}


@pytest.mark.parametrize("api", ASKED)
@pytest.mark.parametrize("name", ["tiny:style", "gpt:style", "tiny:style:latest"])
def test_the_name_of_a_model_chooses_one(
    client: falcon.testing.TestClient, engine: FakeEngine, api: str, name: str
) -> None:
    path, body, model = ASKED[api]
    result = client.simulate_post(path, json=body | {"model": name})
    assert result.status_code == 200, result.text
    assert used(engine) == (("style", 1.0),)
    assert model(result.json) in (None, "tiny:style", name)
    client.simulate_post(path, json=body | {"model": "tiny"})
    assert used(engine) == ()


@pytest.mark.parametrize("api", ASKED)
def test_an_adapter_that_nobody_has_is_a_404(client: falcon.testing.TestClient, engine: FakeEngine, api: str) -> None:
    path, body, _ = ASKED[api]
    result = client.simulate_post(path, json=body | {"model": "tiny:other"})
    assert result.status_code == 404
    assert "model tiny:other not found; here: tiny, tiny:sql, tiny:style" in result.text
    assert engine.generations == []


def test_the_native_api_has_a_field_for_it(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    assert client.simulate_post("/generate", json={"prompt": "hi", "adapter": "sql"}).status_code == 200
    assert used(engine) == (("sql", 1.0),)
    result = client.simulate_post("/generate", json={"prompt": "hi", "adapter": "other"})
    assert (result.status_code, "model tiny:other not found" in result.text) == (404, True)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/api/embed", "/embedding"])
def test_embeddings(client: falcon.testing.TestClient, engine: FakeEngine, path: str) -> None:
    assert client.simulate_post(path, json={"model": "tiny:sql", "input": "hi"}).status_code == 200
    assert engine.embeddings[-1].request.adapters == (("sql", 1.0),)


def test_lists_of_models_have_each_adapter(client: falcon.testing.TestClient) -> None:
    names = ["tiny", "tiny:sql", "tiny:style"]
    aliases = ["gpt", "gpt:sql", "gpt:style"]
    listed = client.simulate_get("/v1/models").json["data"]
    assert [one["id"] for one in listed] == [*names, *aliases]
    assert client.simulate_get("/v1/models/tiny:sql").json["id"] == "tiny:sql"
    tags = client.simulate_get("/api/tags").json["models"]
    assert [one["name"] for one in tags] == ["tiny:latest", "tiny:sql", "tiny:style"]
    lm_studio = client.simulate_get("/api/v0/models").json["data"]
    assert [(one["id"], one["state"]) for one in lm_studio] == [(name, "loaded") for name in names]
    assert len(client.simulate_get("/models").json["models"]) == 1
    assert client.simulate_post("/api/show", json={"model": "tiny:sql"}).status_code == 200
    assert [one["name"] for one in client.simulate_get("/api/ps").json["models"]] == ["tiny:latest"]


@pytest.mark.parametrize("path", ["/completion", "/v1/chat/completions", "/v1/completions", "/generate"])
def test_lora_of_a_request(client: falcon.testing.TestClient, engine: FakeEngine, path: str) -> None:
    """It overrules the model's name; an adapter that it does not name is not used."""
    body = {"prompt": "hi", "messages": CHAT, "model": "tiny:sql", "adapter": "sql"}
    both = [{"id": 1, "scale": 0.5}, {"id": 0, "scale": 1.1}]
    assert client.simulate_post(path, json=body | {"lora": both}).status_code == 200
    assert dict(used(engine)) == {"style": 0.5, "sql": 1.1}
    client.simulate_post(path, json=body | {"lora": [{"id": 1, "scale": 2}]})
    assert dict(used(engine)) == {"style": 2.0}
    client.simulate_post(path, json=body | {"lora": []})
    assert used(engine) == (("sql", 1.0),)
    for wrong, problem in (
        ([{"id": 2, "scale": 1}], "lora[0].id: expected 0 to 1, found 2"),
        ([{"id": -1, "scale": 1}], "lora[0].id: expected int"),
        ([{"scale": 1}], "lora[0].id: expected it to be there, found nothing"),
        ([{"id": 0, "scale": 1e9}], "lora[0].scale: expected float"),
        ({"id": 0}, "lora: expected array"),
    ):
        result = client.simulate_post(path, json=body | {"lora": wrong})
        assert (result.status_code, problem in result.text) == (400, True), result.text


def test_a_model_without_adapters(engine: FakeEngine) -> None:
    client = falcon.testing.TestClient(make_app(engine))
    body = {"prompt": "hi", "lora": [{"id": 0, "scale": 1}]}
    result = client.simulate_post("/completion", json=body)
    assert result.status_code == 400
    assert result.json["error"]["message"] == "lora[0].id: expected none, as the model has no adapters, found 0"
    assert "lora" not in client.simulate_post("/completion", json={"prompt": "hi"}).json["generation_settings"]


def test_adapters_of_requests_that_choose_none(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    assert client.simulate_get("/lora-adapters").json == [
        {"id": 0, "path": "sql", "scale": 0.0},
        {"id": 1, "path": "style", "scale": 0.0},
    ]
    result = client.simulate_post("/lora-adapters", json=[{"id": 1, "scale": 0.25}])
    assert (result.status_code, result.json) == (200, {"success": True})
    assert [one["scale"] for one in client.simulate_get("/lora-adapters?model=tiny").json] == [0.0, 0.25]
    found = client.simulate_post("/completion", json={"prompt": "hi"}).json
    assert used(engine) == (("style", 0.25),)
    assert found["generation_settings"]["lora"] == [{"id": 1, "scale": 0.25}]
    client.simulate_post("/v1/embeddings", json={"input": "hi"})
    assert engine.embeddings[-1].request.adapters == (("style", 0.25),)
    client.simulate_post("/completion", json={"prompt": "hi", "model": "tiny:sql"})
    assert used(engine) == (("sql", 1.0),)
    client.simulate_post("/completion", json={"prompt": "hi", "lora": [{"id": 1, "scale": 0}]})
    assert used(engine) == (("style", 0.0),)
    client.simulate_post("/lora-adapters", json=[])
    client.simulate_post("/completion", json={"prompt": "hi"})
    assert used(engine) == ()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"id": 0}, "body: expected array, found an object"),
        ([3], "[0]: expected object, found 3"),
        ([{"id": 5, "scale": 1}], "lora[0].id: expected 0 to 1, found 5"),
    ],
)
def test_what_cannot_be_set(client: falcon.testing.TestClient, body: object, problem: str) -> None:
    result = client.simulate_post("/lora-adapters", json=body)
    assert (result.status_code, result.json["error"]["message"]) == (400, problem)
    assert client.simulate_get("/lora-adapters?model=tiny:other").status_code == 404


def test_only_an_owner_sets_what_holds_for_all(engine: FakeEngine) -> None:
    keys = [
        ApiKey(hashlib.sha256(name.encode()).digest(), scopes, name)
        for name, scopes in (("user", frozenset({Scope.USE})), ("owner", frozenset(Scope)))
    ]
    app = make_app(engine, model=ADAPTED, security=Security(KeyRing(keys)))
    client = falcon.testing.TestClient(app)
    for name, status in (("user", 403), ("owner", 200)):
        headers = {"Authorization": f"Bearer {name}"}
        assert client.simulate_post("/lora-adapters", json=[], headers=headers).status_code == status
        assert client.simulate_get("/lora-adapters", headers=headers).status_code == 200
