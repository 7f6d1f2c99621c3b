"""Ollama's endpoints about models."""

from __future__ import annotations

import json
from datetime import datetime

import falcon.testing
import pytest

from rocmforge import __version__
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.ollama.models import capabilities
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, fake_vector, make_app

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "8.0B",
    "quantization_level": "Q4_K_M",
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine))


@pytest.mark.parametrize("path", ["/api/tags", "/api/tags/", "/v1/api/tags"])
def test_tags(client: falcon.testing.TestClient, path: str) -> None:
    (model,) = client.simulate_get(path).json["models"]
    assert (model["name"], model["model"], model["size"]) == ("org/tiny:q4", "org/tiny:q4", 4096)
    assert datetime.fromisoformat(model["modified_at"]).timestamp() == MODEL.created
    assert len(model["digest"]) == 64
    assert model["details"] == DETAILS
    head = client.simulate_head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_ps(client: falcon.testing.TestClient) -> None:
    (model,) = client.simulate_get("/api/ps").json["models"]
    assert (model["name"], model["size"], model["size_vram"], model["context_length"]) == (
        "org/tiny:q4",
        4096,
        4096,
        128,
    )
    assert datetime.fromisoformat(model["expires_at"]).year == 9999
    assert model["details"] == DETAILS


def test_version_is_dotted_integers(client: falcon.testing.TestClient) -> None:
    version = client.simulate_get("/api/version").json["version"]
    assert all(part.isdigit() for part in version.split("."))
    assert __version__.startswith(version)


@pytest.mark.parametrize(
    ("source", "thinks"),
    [
        ("{{ messages }}", False),
        ("{% if enable_thinking %}...{% endif %}", True),
        ("{{ content.split('</think>')[0] + '<think>' }}", True),
        ("<thinking> enables nothing", False),
        ("<|channel|>analysis<|message|>", True),
        ("[TOOL_CALLS][ARGS]", False),
        ("[TOOL_CALLS][ARGS][THINK]", True),
    ],
)
def test_what_a_model_can_do(source: str, thinks: bool) -> None:
    assert capabilities(source) == ["completion", "tools", "embedding"] + ["thinking"] * thinks


@pytest.mark.parametrize("body", [{"model": "org/tiny:q4"}, {"name": "org/tiny:q4", "verbose": True}])
def test_show(client: falcon.testing.TestClient, body: dict[str, object]) -> None:
    document = client.simulate_post("/api/show", json=body).json
    assert document["details"] == DETAILS
    assert document["template"] == "{{ messages }}{{ tools }}"
    assert document["capabilities"] == ["completion", "tools", "embedding"]
    info = document["model_info"]
    assert (info["general.architecture"], info["general.parameter_count"]) == ("llama", 8_030_261_248)
    assert (info["llama.context_length"], info["llama.embedding_length"]) == (128, 4)  # of the bundle, not of the GGUF


def test_show_loads_nothing(client: falcon.testing.TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients ask it of each model of a list; Ollama's own loads none either."""
    monkeypatch.setattr(OneModel, "lease", lambda *_: pytest.fail("loaded"))
    assert client.simulate_post("/api/show", json={"model": "org/tiny:q4"}).status_code == 200


def test_show_needs_a_model_that_is_here(client: falcon.testing.TestClient) -> None:
    assert client.simulate_post("/api/show", json={}).status_code == 400
    result = client.simulate_post("/api/show", json={"model": "gpt"})
    assert (result.status_code, list(result.json)) == (404, ["error"])


def test_pull_of_what_is_here(client: falcon.testing.TestClient) -> None:
    result = client.simulate_post("/api/pull", json={"model": "org/tiny:q4"})
    statuses = [json.loads(line)["status"] for line in result.text.splitlines()]
    assert (result.headers["content-type"], statuses[-1]) == ("application/x-ndjson", "success")
    assert client.simulate_post("/api/pull", json={"name": "org/tiny:q4", "stream": False}).json == {
        "status": "success"
    }


def test_pull_of_what_is_not(client: falcon.testing.TestClient) -> None:
    result = client.simulate_post("/api/pull", json={"model": "gpt"})
    assert result.status_code == 404
    assert "rfc compile" in result.json["error"]


@pytest.mark.parametrize(
    ("method", "name"), [("POST", "create"), ("POST", "copy"), ("POST", "push"), ("DELETE", "delete")]
)
def test_models_are_not_changed_over_http(client: falcon.testing.TestClient, method: str, name: str) -> None:
    result = client.simulate_request(method, f"/api/{name}", json={"model": "org/tiny:q4"})
    assert (result.status_code, list(result.json)) == (400, ["error"])
    assert "not supported" in result.json["error"]


def test_embed(client: falcon.testing.TestClient) -> None:
    texts = ["one", "three"]
    body = {"model": "org/tiny:q4", "input": texts, "options": {"mirostat": None, "temperature": None}}
    document = client.simulate_post("/api/embed", json=body).json
    assert document["embeddings"] == [fake_vector((256, *text.encode())).tolist() for text in texts]
    assert (document["model"], document["prompt_eval_count"]) == ("org/tiny:q4", 10)
    assert document["total_duration"] >= document["load_duration"] >= 1
    one = client.simulate_post("/api/embed", json={"model": "org/tiny:q4", "input": "one"}).json
    assert one["embeddings"] == document["embeddings"][:1]


def test_embed_cuts_unless_told_not_to(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    body = {"model": "org/tiny:q4", "input": "x" * 500}
    assert client.simulate_post("/api/embed", json=body).json["prompt_eval_count"] == 128
    result = client.simulate_post("/api/embed", json={**body, "truncate": False})
    assert (result.status_code, result.json["error"].partition(":")[0]) == (400, "input")
    assert len(engine.embeddings) == 1


@pytest.mark.parametrize("value", ["", []])
def test_embed_of_nothing(client: falcon.testing.TestClient, value: object) -> None:
    document = client.simulate_post("/api/embed", json={"model": "org/tiny:q4", "input": value}).json
    assert document["embeddings"] == []


def test_embeddings(client: falcon.testing.TestClient) -> None:
    body = {"model": "org/tiny:q4", "prompt": "hi"}
    assert client.simulate_post("/api/embeddings", json=body).json == {"embedding": fake_vector((256, *b"hi")).tolist()}
    assert client.simulate_post("/api/embeddings", json={"model": "org/tiny:q4"}).json == {"embedding": []}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/embed", {"input": 3}, 400),
        ("/api/embed", {"input": "a", "dimensions": 3}, 400),
        ("/api/embed", {"input": "a", "keep_alive": "x"}, 400),
        ("/api/embed", {"input": "a", "model": "gpt"}, 404),
        ("/api/embeddings", {"prompt": [1]}, 400),
        ("/api/embeddings", {"model": "gpt"}, 404),
    ],
    ids=["F46-input", "F46-dimensions", "F46-keep_alive", "unknown", "F46-prompt", "unknown-old"],
)
def test_embeddings_refused(client: falcon.testing.TestClient, path: str, body: dict[str, object], status: int) -> None:
    result = client.simulate_post(path, json={"model": "org/tiny:q4", **body})
    assert (result.status_code, list(result.json)) == (status, ["error"])
