"""The pages about clients and other servers: their code runs as printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocmforge.tests.support.doc_examples import DOCS, PRINTED_URL, check_answer, read_examples, run_example
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, environment, serving

PAGES = DOCS / "integrations"
_CODE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
PROGRAMS = _CODE.findall((PAGES / "langchain.md").read_text())


@pytest.mark.parametrize("program, printed", PROGRAMS, ids=range(len(PROGRAMS)))
def test_langchain_prints_what_is_printed(server: Server, program: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program.replace(PRINTED_URL, server.url)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == printed.splitlines()


def test_every_program_of_langchain_is_run() -> None:
    assert len(PROGRAMS) == (PAGES / "langchain.md").read_text().count("```python\n") > 3


@pytest.fixture(scope="module")
def front(small_bundle: Path, server: Server) -> Iterator[Server]:
    """A server of another model, with that of SmolLM2 as an Ollama behind it."""
    with serving(small_bundle, "--integration", f"ollama={server.url}") as running:
        yield running


def test_other_servers_behind_answer_as_printed(front: Server) -> None:
    for example in read_examples(PAGES / "backends.md"):
        status, text = run_example(example, front.url)
        assert status == example.status, f"{example.command}\n{text}"
        check_answer(example, text)


def test_a_server_of_openais_api_behind(small_bundle: Path, server: Server) -> None:
    with serving(small_bundle, "--integration", f"other={server.url}/v1") as front:
        assert [model["id"] for model in front.get("/v1/models").json()["data"]] == ["small", "smollm2"]
        body = {"model": "smollm2", "input": "What is the capital of France? One sentence.", "temperature": 0}
        answers = [each.post("/v1/responses", body | {"stream": False}).json()["output"] for each in (front, server)]
        texts = [output[0]["content"][0]["text"] for output in answers]
        assert texts[0] == texts[1] == "The capital of France is Paris."
        assert front.post("/api/chat", {"model": "smollm2", "messages": []}).status_code == 404


def test_opencodes_configuration_names_the_model_as_the_list_does(server: Server) -> None:
    (text,) = re.findall(r"```json\n(.*?)```", (PAGES / "opencode.md").read_text(), re.DOTALL)
    settings = json.loads(text)
    provider, _, model = settings["model"].partition("/")
    listed = server.get("/v1/models").json()["data"][0]
    limits = settings["provider"][provider]["models"][model]["limit"]
    assert (model, limits["context"]) == (listed["id"], listed["meta"]["n_ctx"])
    assert settings["provider"][provider]["options"]["baseURL"] == f"{PRINTED_URL}/v1"
