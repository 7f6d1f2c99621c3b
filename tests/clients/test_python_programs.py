"""Libraries of Python's that build agents and typed answers on OpenAI's API, in environments of their own.

Those that take the same version of OpenAI's client share one: to install it, and to compile and import its thousand
modules, takes longer than all that is asked here.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rocmforge.tests.clients.common import ANSWER, MODEL, QUESTION, WEATHER
from rocmforge.tests.clients.programs import python_program
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

SCRIPTS = Path(__file__).parent / "python"
AGENTS = ("openai-agents==0.24.0", "pydantic-ai-slim[openai]==2.68.0")
TYPED = ("dspy==3.4.1", "instructor==1.17.0", "smolagents[openai]==1.26.0")
OLDER = ("llama-index-llms-openai-like==0.8.1",)


def report(server: Server, script: str, tmp_path: Path, libraries: tuple[str, ...]) -> dict[str, Any]:
    """What a script reports that drives a library against the server."""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [
            python_program("libraries", *libraries) / "python",
            SCRIPTS / f"{script}.py",
            server.url,
            MODEL,
            QUESTION,
            WEATHER,
        ],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_openai_agents(server: Server, tmp_path: Path) -> None:
    found = report(server, "openai_agents_run", tmp_path, AGENTS)
    assert found.keys() == {"chat", "responses"}
    for run in found.values():
        assert run["answer"] == ANSWER
        assert run["input_tokens"] > 30
        assert run["cities"] == ["Paris", "Paris"]
        assert run["items"] == ["tool_call_item", "tool_call_output_item", "message_output_item"]
        assert run["streamed"] == ["tool_called", "tool_output", "message_output_created"]
        assert all("sunny" in output for output in run["outputs"])  # the tool's result was read


def test_pydantic_ai(server: Server, tmp_path: Path) -> None:
    found = report(server, "pydantic_ai_run", tmp_path, AGENTS)
    assert found.keys() == {"chat", "responses"}
    for run in found.values():
        assert run["answer"] == "".join(run["pieces"]) == ANSWER
        assert len(run["pieces"]) > 3
        assert run["by_tool"] == run["streamed"]
        assert run["by_tool"]["city"] == run["by_schema"]["city"] == "Paris"


def test_instructor(server: Server, tmp_path: Path) -> None:
    found = report(server, "instructor_modes", tmp_path, TYPED)
    assert found.keys() == {"TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"}
    for mode, run in found.items():
        assert run["made"]["city"] == run["partial"]["city"] == "Paris"
        assert run["partial"].keys() == run["made"].keys()
        assert run["num_partial"] > 3
        assert run["reason"] == ("stop" if mode == "JSON_SCHEMA" else "tool_calls")


def test_dspy(server: Server, tmp_path: Path) -> None:
    found = report(server, "dspy_predict", tmp_path, TYPED)
    assert found["answer"] == [ANSWER]
    assert found["json"] == "Paris"
    assert found["tokens"] > 3
    assert found["text"][0].strip()


def test_smolagents(server: Server, tmp_path: Path) -> None:
    found = report(server, "smolagents_run", tmp_path, TYPED)
    assert found["answer"] == ANSWER
    assert found["errors"] == []
    assert all(name in {"get_weather", "final_answer"} for step in found["calls"] for name in step)
    assert [len(step) for step in found["calls"]] == [1] * len(found["calls"])
    assert found["streamed"] == found["calls"][: len(found["streamed"])]


def test_llama_index(server: Server, tmp_path: Path) -> None:
    found = report(server, "llama_index_llm", tmp_path, OLDER)
    assert found["answer"] == "".join(found["pieces"]) == ANSWER
    assert found["text"] == "".join(found["text_pieces"])
    assert found["calls"] == [[["get_weather", {"city": "Paris"}]]] * 2
    assert found["place"]["city"] == "Paris"
