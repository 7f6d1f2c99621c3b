"""LM Studio's lists of models."""

from __future__ import annotations

import falcon.testing
import pytest

from rocmforge.tests.support.fake_engine import FakeEngine, make_app

V0 = {
    "id": "org/tiny:q4",
    "object": "model",
    "type": "llm",
    "publisher": "unknown",
    "arch": "llama",
    "compatibility_type": "gguf",
    "quantization": "Q4_K_M",
    "state": "loaded",
    "max_context_length": 128,
    "loaded_context_length": 128,
    "capabilities": ["tool_use"],
}


@pytest.fixture
def client() -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(FakeEngine()))


def test_v0(client: falcon.testing.TestClient) -> None:
    assert client.simulate_get("/api/v0/models").json == {"object": "list", "data": [V0]}
    assert client.simulate_get("/api/v0/models/org/tiny:q4").json == V0


def test_v0_of_a_model_that_is_not_here(client: falcon.testing.TestClient) -> None:
    result = client.simulate_get("/api/v0/models/gpt")
    assert (result.status_code, list(result.json)) == (404, ["error"])


def test_v1(client: falcon.testing.TestClient) -> None:
    (model,) = client.simulate_get("/api/v1/models").json["models"]
    assert model == {
        "type": "llm",
        "publisher": "unknown",
        "key": "org/tiny:q4",
        "display_name": "Tiny",
        "architecture": "llama",
        "quantization": {"name": "Q4_K_M", "bits_per_weight": 0.0},  # 4096 bytes are made up
        "size_bytes": 4096,
        "params_string": "8.0B",
        "loaded_instances": [{"id": "org/tiny:q4", "config": {"context_length": 128}}],
        "max_context_length": 128,
        "format": "gguf",
        "capabilities": {"vision": False, "trained_for_tool_use": True},
        "description": None,
    }
