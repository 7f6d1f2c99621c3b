"""Simon Willison's `llm`, its command, with our server among its OpenAI models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.clients.common import ANSWER, QUESTION
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

MODELS = """\
- model_id: smollm2
  model_name: smollm2
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
- model_id: smollm2-text
  model_name: smollm2
  api_base: {url}/v1
  completion: true
"""
LEGS: dict[str, Any] = {
    "type": "object",
    "properties": {"legs": {"type": "integer"}},
    "required": ["legs"],
    "additionalProperties": False,
}
GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "40")


@pytest.fixture(scope="module")
def user_path(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of settings with our models."""
    folder = tmp_path_factory.mktemp("llm")
    (folder / "extra-openai-models.yaml").write_text(MODELS.format(url=server.url))
    return folder


def llm(user_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env={**os.environ, "LLM_USER_PATH": str(user_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("--no-stream",)], ids=["streamed", "whole"])
def test_a_prompt_and_what_follows(user_path: Path, options: tuple[str, ...]) -> None:
    done = llm(user_path, "-m", "smollm2", QUESTION, *GREEDY, *options, "--usage")
    assert done.stdout.strip() == ANSWER, done.stderr
    assert "40 input, 8 output" in done.stderr
    after = llm(user_path, "--continue", "And of Spain?", *GREEDY, *options)
    assert "Madrid" in after.stdout, after.stderr


def test_a_completion(user_path: Path) -> None:
    done = llm(user_path, "-m", "smollm2-text", "The capital of France is", *GREEDY)
    assert done.stdout.startswith(" Paris"), done.stderr


def test_a_schema(user_path: Path) -> None:
    done = llm(user_path, "-m", "smollm2", "--schema", json.dumps(LEGS), "Describe a dog.", *GREEDY)
    assert isinstance(json.loads(done.stdout)["legs"], int), done.stderr


def test_an_error_is_shown(user_path: Path) -> None:
    done = llm(user_path, "-m", "smollm2", QUESTION, "-o", "max_tokens", "100000")
    assert done.returncode == 1
    assert "max_tokens" in done.stderr
