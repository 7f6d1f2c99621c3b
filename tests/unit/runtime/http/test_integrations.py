"""Other servers' models: asked of a scripted HTTP server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

import falcon.testing
import pytest

from rocmforge.artifacts.errors import UsageError
from rocmforge.runtime.http.proxy import manager as integrations
from rocmforge.runtime.http.proxy.manager import (
    KEEP_SECONDS,
    OLLAMA_URL,
    BaseIntegration,
    Forwarded,
    Health,
    IntegrationError,
    IntegrationManager,
    OllamaIntegration,
    OpenAIIntegration,
    parse_integration,
)
from rocmforge.tests.support.backends import EVENTS, Backend, client_of


@pytest.fixture
def backend() -> Iterator[tuple[str, list[tuple[str, Any, str | None]]]]:
    class Handler(Backend):
        asked: ClassVar[list[tuple[str, Any, str | None]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Handler.asked
        server.shutdown()


@pytest.fixture
def client(backend: tuple[str, Any]) -> falcon.testing.TestClient:
    manager = IntegrationManager()
    manager.add_integration("ollama", OllamaIntegration(backend[0]))
    manager.add_integration("other", OpenAIIntegration(backend[0] + "/v1", api_key="theirs"))
    manager.add_integration("gone", OllamaIntegration("http://127.0.0.1:9"))
    return client_of(manager)


def test_models_of_all_are_listed(client: falcon.testing.TestClient) -> None:
    data = {model["id"]: model for model in client.simulate_get("/v1/models").json["data"]}
    assert list(data) == ["org/tiny:q4", "deepcoder:14b", "gpt"]
    assert data["deepcoder:14b"]["owned_by"] == "ollama"
    assert data["deepcoder:14b"]["details"] == {"size": "8.4GB", "family": "unknown", "parameter_size": "14.8B"}
    assert client.simulate_get("/v1/models/deepcoder:14b").json == data["deepcoder:14b"]
    checked = client.simulate_post("/v1/models/check", json={"models": ["gpt", "org/tiny:q4", "none"]}).json["models"]
    assert [checked[name]["available"] for name in ("gpt", "org/tiny:q4", "none")] == [True, True, False]


def test_how_they_are(client: falcon.testing.TestClient) -> None:
    assert client.simulate_get("/v1/integrations").json == {
        "integrations": ["ollama", "other", "gone"],
        "available": ["ollama", "other"],
    }
    assert client.simulate_get("/v1/integrations/health").json == {
        "ollama": {"available": True, "version": "0.11.5", "status": "healthy"},
        "other": {"available": True, "version": None, "status": "healthy"},
        "gone": {"available": False, "version": None, "status": "unhealthy"},
    }


def test_requests_for_their_models_go_there(client: falcon.testing.TestClient, backend: tuple[str, Any]) -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "odd": [1]}
    headers = {"Authorization": "Bearer ours"}
    answer = client.simulate_post("/v1/chat/completions", json=body, headers=headers)
    assert (answer.status_code, answer.json, answer.headers.get("X-Secret")) == (200, {"here": "gpt"}, None)
    streamed = client.simulate_post("/v1/completions", json={"model": "deepcoder:14b", "stream": True})
    assert (streamed.content, streamed.headers["Content-Type"]) == (EVENTS, "text/event-stream")
    client.simulate_post("/api/chat", json={"model": "deepcoder:14b"})
    busy = client.simulate_post("/v1/completions", json={"model": "gpt", "busy": True})
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "7")
    assert [(path, key) for path, _, key in backend[1]] == [
        ("/v1/chat/completions", "Bearer theirs"),  # never the client's
        ("/v1/completions", None),
        ("/api/chat", None),
        ("/v1/completions", "Bearer theirs"),
    ]
    assert backend[1][0][1] == body


def test_a_stream_is_logged_when_it_has_ended(
    client: falcon.testing.TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[int] = []

    def chunks(forwarded: Forwarded) -> Iterator[bytes]:
        for part in (b"data: {}\n\n", b"data: [DONE]\n\n"):
            logged.append(len(caplog.records))
            yield part

    monkeypatch.setattr(Forwarded, "chunks", chunks)
    with caplog.at_level(logging.INFO, "rocmforge.access"):
        client.simulate_post("/v1/completions", json={"model": "gpt", "stream": True})
    assert (logged, len(caplog.records)) == ([0, 0], 1)


def test_what_older_clients_call_a_model(client: falcon.testing.TestClient, backend: tuple[str, Any]) -> None:
    for body in ({"name": "deepcoder:14b"}, {"model": "", "name": "deepcoder:14b"}):
        client.simulate_post("/api/show", json=body)
        assert backend[1].pop()[:2] == ("/api/show", body)
    assert client.simulate_post("/api/show", json={"name": "org/tiny:q4"}).json["details"]
    assert client.simulate_post("/v1/completions", json={"name": "gpt", "prompt": "x"}).status_code == 200
    assert backend[1] == []


def test_our_own_are_answered_here(client: falcon.testing.TestClient, backend: tuple[str, Any]) -> None:
    for model in ("org/tiny:q4", "org/tiny:q4:latest", None):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        answer = client.simulate_post("/v1/chat/completions", json=body)
        assert answer.json["choices"][0]["message"]["content"] == " Paris, in France."
    assert client.simulate_post("/v1/completions", json={"model": "none", "prompt": "x"}).status_code == 404
    assert client.simulate_post("/v1/completions", body=b"nonsense").status_code == 400
    assert backend[1] == []


def test_one_that_goes_away(backend: tuple[str, Any]) -> None:
    manager = IntegrationManager()
    integration = OllamaIntegration(backend[0])
    manager.add_integration("ollama", integration)
    client = client_of(manager)
    assert len(client.simulate_get("/v1/models").json["data"]) == 2
    integration._parts = OllamaIntegration("http://127.0.0.1:9")._parts
    answer = client.simulate_post("/v1/completions", json={"model": "deepcoder:14b", "prompt": "x"})
    assert (answer.status_code, answer.json["error"]["type"]) == (502, "server_error")
    assert "Connection refused" in answer.json["error"]["message"]
    assert client.simulate_post("/v1/completions", json={"prompt": "x"}).status_code == 200
    paths = client.simulate_get("/openapi.json").json["paths"]
    told = {path for path, entry in paths.items() if "502" in entry.get("post", {"responses": ()})["responses"]}
    of_openai = {f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses")}
    assert told == of_openai | {f"/api/{name}" for name in ("chat", "generate", "embed", "embeddings", "show")}


@pytest.mark.parametrize("text", ["", "x", "x=", "x=ftp://a", "x=http://", "a b=http://a", "other"])
def test_what_is_no_integration(text: str) -> None:
    with pytest.raises(UsageError, match="--integration"):
        parse_integration(text)


def test_kinds_and_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "10.0.0.1:11434")
    monkeypatch.setenv("ROCMFORGE_INTEGRATION_KEY_VLLM", "k")
    name, ollama = parse_integration("ollama")
    assert (name, ollama.url, type(ollama)) == ("ollama", "http://10.0.0.1:11434", OllamaIntegration)
    name, other = parse_integration("vllm=https://h/v1/")
    assert (name, other.url, type(other)) == ("vllm", "https://h/v1", OpenAIIntegration)


def test_the_speed_that_memory_allows(client: falcon.testing.TestClient) -> None:
    document = client.simulate_get("/v1/throughput", params={"bandwidth_gbps": 960}).json
    assert document["estimated_tokens_per_second"] == round(960e9 / document["bytes_per_token"], 2)
    for bad in ("x", "nan", "-1", "0"):
        assert client.simulate_get("/v1/throughput", params={"bandwidth_gbps": bad}).status_code == 400
    assert client.simulate_get("/v1/throughput", params={"model": "none"}).status_code == 404


class Counted(OpenAIIntegration):
    """Answers by itself, or fails."""

    def __init__(self, *models: str) -> None:
        super().__init__("http://h/v1")
        self.models, self.asked, self.broken = models, 0, False

    def get_models(self) -> list[dict[str, Any]]:
        self.asked += 1
        if self.broken:
            raise IntegrationError("gone")
        return [{"id": name} for name in self.models]

    def get_version(self) -> str | None:
        if self.broken:
            raise IntegrationError("gone")
        return "1"


def test_a_list_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(integrations, "time", SimpleNamespace(monotonic=lambda: now[0]))
    manager, first, second = IntegrationManager(), Counted("a", "b"), Counted("c")
    assert (manager.names(), manager.get_all_models(), manager.find("a")) == ([], [], None)
    manager.add_integration("first", first)
    manager.add_integration("second", second)
    with pytest.raises(UsageError, match=r"^--integration: there are two of the name first$"):
        manager.add_integration("first", second)
    assert manager.names() == ["first", "second"]
    assert manager.get_all_models() == [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    assert [manager.find(model) for model in ("b", "c", "d")] == [first, second, None]
    assert manager.health_check() == {"first": Health(True, "1"), "second": Health(True, "1")}
    assert (first.asked, second.asked) == (1, 1)
    first.broken = True
    now[0] = KEEP_SECONDS - 0.5
    assert (manager.find("b"), first.asked) == (first, 1)
    now[0] = KEEP_SECONDS
    assert (manager.find("b"), first.asked, second.asked) == (None, 2, 2)
    assert (manager.get_models_from("first"), first.asked) == ([], 2)  # not asked again for each request
    assert [record.message for record in caplog.records] == ["integration first: gone"]
    assert manager.health_check()["first"] == Health(False, None, "gone")
    first.broken = False
    now[0] = 2 * KEEP_SECONDS
    assert manager.find("b") is first


def test_a_model_of_an_ollama_without_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients leave `latest` out; the request goes there as it is, for Ollama knows both names."""
    manager, ollama, other = IntegrationManager(), OllamaIntegration("http://h"), Counted("gpt:latest", "org/b:latest")
    tags = [{"id": name} for name in ("llama3:latest", "org/a:latest", "qwen:7b")]
    monkeypatch.setattr(ollama, "get_models", lambda: tags)
    manager.add_integration("other", other)
    manager.add_integration("ollama", ollama)
    for name in ("llama3", "llama3:latest", "org/a", "org/a:latest", "qwen:7b"):
        assert manager.find(name) is ollama
    for name in ("qwen", "llama3:8b", "gpt", "org/b", "", ":latest"):
        assert manager.find(name) is None
    assert manager.find("gpt:latest") is other


@pytest.mark.parametrize(
    "text, environ, kind, url, key",
    [
        ("ollama", {}, OllamaIntegration, OLLAMA_URL, None),
        ("ollama", {"OLLAMA_HOST": "http://h:1/"}, OllamaIntegration, "http://h:1", None),
        ("ollama=h2:5", {"OLLAMA_HOST": "h"}, OllamaIntegration, "http://h2:5", None),
        ("a=http://h/v1", {"ROCMFORGE_INTEGRATION_KEY_A": "k"}, OpenAIIntegration, "http://h/v1", "k"),
        ("a=http://h/v1x", {"ROCMFORGE_INTEGRATION_KEY_A": "k"}, OllamaIntegration, "http://h/v1x", "k"),
        ("a=http://h", {"ROCMFORGE_INTEGRATION_KEY_B": "k"}, OllamaIntegration, "http://h", None),
    ],
)
def test_what_an_argument_means(
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    environ: dict[str, str],
    kind: type[BaseIntegration],
    url: str,
    key: str | None,
) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    name, made = parse_integration(text)
    assert (name, type(made), made.url, made._api_key) == (text.partition("=")[0], kind, url, key)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("other", "--integration: expected ollama, or NAME=URL, found other"),
        ("a=", "--integration: expected ollama, or NAME=URL, found a="),
        ("a-b=http://h", "--integration: expected ollama, or NAME=URL, found a-b=http://h"),
        ("a=ftp://h", "--integration: expected an http or https URL, found ftp://h"),
        ("a=http:///x", "--integration: expected an http or https URL, found http:///x"),
    ],
)
def test_what_is_said_of_what_is_none(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_integration(text)
    assert str(caught.value) == problem
