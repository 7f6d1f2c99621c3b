"""Open WebUI before `rfc serve`, as OpenAI's API and as Ollama's: its own API, as its page uses it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from rocmforge.tests.clients.common import ANSWER, EMBEDDING_LENGTH, MODEL, QUESTION, cosine, user
from rocmforge.tests.clients.programs import python_program
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, wait_until

pytestmark = pytest.mark.nightly  # 1.7 GB of packages


class WebUi:
    """A running Open WebUI, and its first user, the administrator."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._headers: dict[str, str] = {}

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return requests.get(f"{self._url}/health", timeout=PATIENCE_SECONDS).ok
        except requests.ConnectionError:
            return False

    def sign_up(self) -> None:
        """Become its user."""
        account = {"name": "A", "email": "a@example.org", "password": "a long password"}
        self._headers = {"Authorization": f"Bearer {self.post('/api/v1/auths/signup', json=account).json()['token']}"}

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        answer = requests.get(self._url + path, headers=self._headers, timeout=PATIENCE_SECONDS)
        assert answer.ok, answer.text
        return answer.json()

    def post(self, path: str, **options: Any) -> requests.Response:
        """The answer to a POST."""
        answer = requests.post(self._url + path, headers=self._headers, timeout=2 * PATIENCE_SECONDS, **options)
        assert answer.ok, answer.text
        return answer


@contextlib.contextmanager
def running(server: Server, home: Path) -> Iterator[WebUi]:
    """Open WebUI for a while."""
    program = python_program("open-webui", "open-webui==0.12.4", without=("torch",)) / "open-webui"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "DATA_DIR": str(home / "data"),
        "WEBUI_SECRET_KEY": "secret",
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "ENABLE_OLLAMA_API": "true",
        "OLLAMA_BASE_URLS": server.url,
        "OPENAI_API_BASE_URLS": f"{server.url}/v1",
        "OPENAI_API_KEYS": "none",
        "RAG_EMBEDDING_ENGINE": "openai",
        "RAG_OPENAI_API_BASE_URL": f"{server.url}/v1",
        "RAG_OPENAI_API_KEY": "none",
        "RAG_EMBEDDING_MODEL": MODEL,
        "ANONYMIZED_TELEMETRY": "false",
    }
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=settings,
            cwd=home,
            stdout=log,
            stderr=log,
        )
    try:
        page = WebUi(port)
        wait_until(lambda: process.poll() is not None or page.ready(), "Open WebUI is up")
        assert process.poll() is None, (home / "log").read_text()
        page.sign_up()
        yield page
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def web_ui(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUi]:
    with running(server, tmp_path_factory.mktemp("open-webui")) as page:
        yield page


def test_the_model_is_found_by_both_apis(web_ui: WebUi) -> None:
    models = {model["id"]: model["owned_by"] for model in web_ui.get("/api/models")["data"]}
    assert models == {MODEL: "openai", f"{MODEL}:latest": "ollama"}
    assert [model["name"] for model in web_ui.get("/ollama/api/tags")["models"]] == [f"{MODEL}:latest"]


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}:latest"], ids=["openai", "ollama"])
def test_a_chat_whole_and_streamed(web_ui: WebUi, model: str) -> None:
    # What is for Ollama it takes from `options`.
    body = {"model": model, "messages": user(QUESTION), "temperature": 0, "options": {"temperature": 0}}
    whole = web_ui.post("/api/chat/completions", json=body | {"stream": False}).json()
    assert whole["choices"][0]["message"]["content"] == ANSWER
    streamed = web_ui.post("/api/chat/completions", json=body | {"stream": True}).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    pieces = [choice["delta"].get("content") or "" for event in events for choice in event.get("choices", ())]
    assert "".join(pieces) == ANSWER
    assert len([piece for piece in pieces if piece]) > 3


def test_its_own_door_to_ollama_and_its_messages(web_ui: WebUi) -> None:
    body = {"model": f"{MODEL}:latest", "messages": user(QUESTION), "stream": False, "options": {"temperature": 0}}
    assert web_ui.post("/ollama/api/chat", json=body).json()["message"]["content"] == ANSWER
    message = web_ui.post(
        "/api/v1/messages", json={"model": MODEL, "messages": user(QUESTION), "max_tokens": 30, "temperature": 0}
    ).json()
    assert message["content"][0]["text"] == ANSWER


def test_embeddings_and_a_file_that_is_found_by_them(web_ui: WebUi) -> None:
    body = {"model": MODEL, "input": ["A cat sleeps.", "A kitten is asleep.", "The stock exchange fell."]}
    cat, kitten, market = (entry["embedding"] for entry in web_ui.post("/api/v1/embeddings", json=body).json()["data"])
    assert len(cat) == EMBEDDING_LENGTH
    assert cosine(cat, kitten) > cosine(cat, market)
    text = "The cat of the house is called Minka. She sleeps on the sofa."
    uploaded = web_ui.post("/api/v1/files/", files={"file": ("notes.txt", text.encode(), "text/plain")}).json()
    status = f"/api/v1/files/{uploaded['id']}/process/status"
    wait_until(lambda: web_ui.get(status)["status"] == "completed", "the file is read")
    asked = {"collection_name": f"file-{uploaded['id']}", "query": "Who sleeps on the sofa?", "k": 1}
    found = web_ui.post("/api/v1/retrieval/query/doc", json=asked).json()
    assert found["documents"] == [[text]]
