"""promptfoo tests prompts: answers, JSON, tools and embeddings of SmolLM2 under its own assertions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.clients.common import CITY, MODEL, TOOL
from rocmforge.tests.clients.programs import NODE, node_program, offline
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

SILENT = {
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "true",
}


def suite(url: str) -> dict[str, Any]:
    """`promptfooconfig`: three ways to ask, and what each answer must hold. The last test of the first must fail."""
    config = {"apiBaseUrl": f"{url}/v1", "apiKey": "none", "temperature": 0, "max_tokens": 40}
    format_ = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    embedding = {"id": f"openai:embedding:{MODEL}", "config": config}

    def provider(label: str, **more: Any) -> dict[str, Any]:
        return {"id": f"openai:chat:{MODEL}", "label": label, "config": {**config, **more}}

    def test(label: str, country: str, *assertions: dict[str, Any]) -> dict[str, Any]:
        return {"vars": {"country": country}, "providers": [label], "assert": list(assertions)}

    likeness = {"type": "similar", "value": "Paris is the capital of France.", "threshold": 0.5, "provider": embedding}
    return {
        "prompts": ["What is the capital of {{country}}? One sentence."],
        "providers": [
            provider("text"),
            provider("json", response_format=format_),
            provider("tool", tools=[TOOL], tool_choice="required"),
        ],
        "tests": [
            test("text", "France", {"type": "contains", "value": "Paris"}, likeness),
            test("json", "France", {"type": "is-json", "value": CITY}),
            test("tool", "France", {"type": "is-valid-openai-tools-call"}),
            test("text", "Spain", {"type": "contains", "value": "Paris"}),
        ],
    }


@pytest.mark.nightly  # 1.6 GB to install
def test_an_evaluation(server: Server, tmp_path: Path) -> None:
    promptfoo = node_program("promptfoo", "promptfoo@0.123.1", NODE) / "promptfoo"
    (tmp_path / "promptfooconfig.json").write_text(json.dumps(suite(server.url)))
    done = subprocess.run(
        [promptfoo, "eval", "-c", "promptfooconfig.json", "--no-cache", "--no-table", "-o", "out.json"],
        cwd=tmp_path,
        env={**offline(tmp_path / "home", promptfoo.parent), **SILENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 100, done.stderr  # its word for a test that failed
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    results = sorted(found["results"], key=lambda result: result["testIdx"])
    assert [result["success"] for result in results] == [True, True, True, False], [
        (result["response"], result["gradingResult"]["reason"]) for result in results
    ]
    assert found["stats"]["errors"] == 0
    assert "Madrid" in results[3]["response"]["output"]
    usage = found["stats"]["tokenUsage"]
    assert usage["numRequests"] == 4
    assert usage["prompt"] > usage["completion"] > 0
