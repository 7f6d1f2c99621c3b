"""Continue's command `cn`, a coding agent, on SmolLM2, and on a model that calls tools."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.clients import common
from rocmforge.tests.clients.forcing_proxy import forcing
from rocmforge.tests.clients.programs import NODE, node_program, offline
from rocmforge.tests.clients.scripted import MODEL, call_of, scripted
from rocmforge.tests.support.doc_examples import DOCS, PRINTED_URL
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

SAID = ["The", " note", " is", " written", "."]
# As the page has it, and so that answers can be compared.
CONFIG = re.findall(r"```yaml\n(.*?)```", (DOCS / "integrations/programs.md").read_text(), re.DOTALL)[0]
GREEDY = "    defaultCompletionOptions: {temperature: 0, maxTokens: 64}\n"


@pytest.fixture(scope="module")
def cn() -> Path:
    """The program."""
    return node_program("continue", "@continuedev/cli@1.5.47", NODE) / "cn"


def run(cn: Path, url: str, model: str, project: Path, prompt: str, *arguments: str) -> dict[str, Any]:
    """`cn -p`, which may do what it likes; returns what it reports."""
    project.mkdir()
    config = project.parent / "config.yaml"
    config.write_text(CONFIG.replace(PRINTED_URL, url).replace("model: model", f"model: {model}") + GREEDY)
    home = project.parent / "home"
    done = subprocess.run(
        [cn, "-p", prompt, "--config", config, "--auto", "--format", "json", *arguments],
        cwd=project,
        env={**offline(home, cn.parent), "CONTINUE_TELEMETRY_ENABLED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_a_tool_is_called_and_its_result_goes_back(cn: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    arguments = json.dumps({"filepath": str(project / "note.txt"), "content": "Swordfish."})
    with scripted(call_of("Write", arguments), SAID) as (url, _), forcing(url) as proxy:
        report = run(cn, proxy.url, MODEL, project, "Write the note.")
    assert (project / "note.txt").read_text() == "Swordfish."
    assert (report["status"], report["response"]) == ("success", "".join(SAID))
    first, second = proxy.asked("/v1/chat/completions")
    assert (first.status, second.status) == (200, 200)
    assert "tool" in [message["role"] for message in second.body["messages"]]


def test_smollm2_answers(cn: Path, server: Server, tmp_path: Path) -> None:
    with forcing(server.url) as proxy:
        report = run(cn, proxy.url, common.MODEL, tmp_path / "project", common.QUESTION)
    assert report["status"] == "success"
    asked = proxy.asked("/v1/chat/completions")[0]
    assert (asked.status, asked.body["max_tokens"], asked.body["temperature"]) == (200, 64, 0)
    assert len(asked.body["tools"]) > 5
    usage = asked.events()[-1]["usage"]
    assert 1000 < usage["prompt_tokens"] < 8192
