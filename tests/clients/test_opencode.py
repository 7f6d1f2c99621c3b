"""opencode, an agent for the terminal, answers a real `run`: its own prompt and tools fill most of the context.

The model is SmolLM2 without most of its layers: what counts here is how much is read and found again, not what is said.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.clients.common import MODEL, QUESTION
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, serving
from rocmforge.tests.support.programs import LEVELS, compiled
from rocmforge.tests.support.shallow import first_layers

MAX_TOKENS = 32
LAYERS = 1


@pytest.fixture(scope="module")
def server(smollm2_gguf: Path, build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`rfc serve` of the first layer of SmolLM2, under its name: all of them take a minute for some 7,700 tokens."""
    model = first_layers(smollm2_gguf, tmp_path_factory.mktemp("shallow") / f"{MODEL}.gguf", LAYERS)
    # As the product builds it: all those kernels are SmolLM2's own.
    with compiled(model, build_cache, levels=LEVELS, flags={}) as bundle, serving(bundle.path) as running:
        yield running


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
    project.mkdir(exist_ok=True)
    home.mkdir(exist_ok=True)
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
        timeout=PATIENCE_SECONDS,
        check=False,
    )


def tokens_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Check that a run was answered; return its count of tokens."""
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [event for event in events if event["type"] == "error"], events
    assert (events[0]["type"], events[-1]["type"]) == ("step_start", "step_finish")
    assert [event for event in events if event["type"] in {"text", "tool_use"}], events
    tokens: dict[str, Any] = events[-1]["part"]["tokens"]
    assert 1 <= tokens["output"] <= MAX_TOKENS
    return tokens


def prompt_of(tokens: dict[str, Any]) -> int:
    """Tokens of a prompt: opencode counts those that were cached apart."""
    return int(tokens["input"] + tokens["cache"]["read"])


def test_a_run_is_answered_and_continued(server: Server, node_folder: Path, tmp_path: Path) -> None:
    first = tokens_of(run(server.url, node_folder, tmp_path, QUESTION))
    assert 6000 < prompt_of(first) < 8192 - MAX_TOKENS  # its whole prompt was read: nothing was cut
    before = server.counter("prefix_cache_hit_tokens")
    second = tokens_of(run(server.url, node_folder, tmp_path, "--continue", "And of Spain?"))
    assert prompt_of(second) > prompt_of(first)
    # Its prompt begins as the first did, up to the first's question: that lies in the cache, and opencode is told.
    assert second["cache"]["read"] > 6000
    assert server.counter("prefix_cache_hit_tokens") - before > 6000
