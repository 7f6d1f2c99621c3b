"""qwen-code, a coding agent, with the tools that it brings: some 76 kB of prompt and tools."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.clients.forcing_proxy import forcing
from rocmforge.tests.clients.programs import NODE, node_program, offline
from rocmforge.tests.clients.scripted import MODEL, call_of, scripted
from rocmforge.tests.support.process import PATIENCE_SECONDS

SAID = ["The", " note", " is", " written", "."]


@pytest.fixture(scope="module")
def qwen() -> Path:
    """The program."""
    return node_program("qwen-code", "@qwen-code/qwen-code@0.24.4", NODE) / "qwen"


def run(qwen: Path, url: str, project: Path, **settings: str) -> list[dict[str, Any]]:
    """`qwen -p`, which may do what it likes; returns what it reports, message by message."""
    project.mkdir()
    env = {
        **offline(project.parent / "home", qwen.parent),
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "none",
        "OPENAI_MODEL": MODEL,
        **settings,
    }
    done = subprocess.run(
        [qwen, "-p", "Write the note.", "--auth-type", "openai", "--approval-mode", "yolo", "-o", "json"],
        cwd=project,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.stdout.startswith("["), done.stderr
    lines: list[dict[str, Any]] = json.loads(done.stdout)
    return lines


def test_a_tool_is_called_and_its_result_goes_back(qwen: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    arguments = json.dumps({"file_path": str(project / "note.txt"), "content": "Swordfish."})
    with scripted(call_of("write_file", arguments), SAID) as (url, _), forcing(url) as proxy:
        lines = run(qwen, proxy.url, project)
    assert (project / "note.txt").read_text() == "Swordfish."
    assert (lines[-1]["subtype"], lines[-1]["result"]) == ("success", "".join(SAID))
    first, second = proxy.asked("/v1/chat/completions")
    assert (first.status, second.status) == (200, 200)
    assert [message["role"] for message in second.body["messages"]] == ["system", "user", "assistant", "tool"]
    ends = [exchange.events()[-1]["usage"] for exchange in (first, second)]
    assert lines[-1]["usage"]["input_tokens"] == sum(end["prompt_tokens"] for end in ends)


def test_it_asks_for_what_the_page_says(qwen: Path, tmp_path: Path) -> None:
    """The prompt leaves less than the 32,000 tokens that it would ask for otherwise."""
    with scripted(SAID, max_context=60_000) as (url, _), forcing(url) as proxy:
        lines = run(qwen, proxy.url, tmp_path / "project", QWEN_CODE_MAX_OUTPUT_TOKENS="1024")
    assert lines[-1]["result"] == "".join(SAID)
    assert {exchange.body["max_tokens"] for exchange in proxy.asked("/v1/chat/completions")} == {1024}


def test_a_prompt_that_does_not_fit_is_told(qwen: Path, tmp_path: Path) -> None:
    with scripted(SAID, max_context=8192) as (url, _):
        lines = run(qwen, url, tmp_path / "project")
    assert lines[-1]["is_error"]
    assert "context size of 8192" in json.dumps(lines[-1])
