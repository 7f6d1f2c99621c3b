"""opencode, an agent for the terminal, answers a real `run`: its own prompt and tools fill most of the context."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rocmforge.tests.clients.common import MODEL, QUESTION
from rocmforge.tests.end_to_end.process import PATIENCE_SECONDS, Server

MAX_TOKENS = 32
# Prefill of some 7,700 tokens on a CPU: about a minute on two idle cores, much more on busy ones.
RUN_SECONDS = 10 * PATIENCE_SECONDS


def settings(url: str) -> dict[str, Any]:
    """`opencode.json`: our server as a provider, with its model."""
    model = {"name": "SmolLM2", "tool_call": True, "limit": {"context": 8192, "output": MAX_TOKENS}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "ROCmForge",
        "options": {"baseURL": f"{url}/v1", "apiKey": "none", "timeout": False},
        "models": {MODEL: model},
    }
    name = f"rocmforge/{MODEL}"
    return {"model": name, "small_model": name, "share": "disabled", "provider": {"rocmforge": provider}}


def run(url: str, node_folder: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`opencode run` in an empty project, with a home of its own."""
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    home.mkdir()
    (project / "opencode.json").write_text(json.dumps(settings(url)))
    return subprocess.run(
        [node_folder / "node_modules/.bin/opencode", "run", *arguments, "--format", "json"],
        cwd=project,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )


def test_a_run_is_answered(server: Server, node_folder: Path, tmp_path: Path) -> None:
    done = run(server.url, node_folder, tmp_path, QUESTION)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [event for event in events if event["type"] == "error"], events
    assert events[0]["type"] == "step_start"
    said = [event["part"] for event in events if event["type"] in {"text", "tool_use"}]
    assert said, events
    tokens = events[-1]["part"]["tokens"]
    assert events[-1]["type"] == "step_finish"
    assert 6000 < tokens["input"] < 8192 - MAX_TOKENS  # its whole prompt was read: nothing was cut
    assert 1 <= tokens["output"] <= MAX_TOKENS
