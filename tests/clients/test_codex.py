"""Codex, OpenAI's agent for the terminal: a real `codex exec` with its prompt and tools, and requests of its shape."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.clients.common import MODEL
from rocmforge.tests.clients.forcing_proxy import ForcingProxy, forcing
from rocmforge.tests.clients.programs import node_program, offline
from rocmforge.tests.clients.scripted import MODEL as SCRIPTED
from rocmforge.tests.clients.scripted import call_of, scripted
from rocmforge.tests.support.doc_examples import DOCS, PRINTED_URL
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, rfc, serving

RUN_SECONDS = 20 * PATIENCE_SECONDS  # two prefills of some 10,000 tokens, on busy cores
ALIAS = "gpt-5.5"  # by this name Codex takes the model for one that edits by a custom tool
CONFIG = re.findall(r"```toml\n(.*?)```", (DOCS / "integrations/codex.md").read_text(), re.DOTALL)[0]
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 20}},
    "required": ["answer"],
    "additionalProperties": False,
}


ADD_FILE = """start: "*** Add File: " NAME LF ("+" LINE LF)~1..2 "*** End"
NAME: /[a-z]{1,8}/
LINE: /[a-z ]{1,20}/
%import common.LF
"""
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}


def request(*items: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A request with all that Codex 0.169 sends, in few words of our own."""

    def message(role: str, text: str) -> dict[str, Any]:
        content = [{"type": "input_text", "text": text}]
        return {"type": "message", "id": f"msg_{role}", "role": role, "content": content}

    function = {"type": "function", "description": "Say the weather.", "strict": False, "parameters": CITY}
    grammar = {"type": "grammar", "syntax": "lark", "definition": ADD_FILE}
    return {
        "model": MODEL,
        "input": [
            message("developer", "You help."),
            message("developer", "Skills: none."),
            message("user", "<environment/>"),
            message("user", "What is the weather in Paris?"),
            *items,
        ],
        "tools": [
            {**function, "name": "get_weather"},
            {"type": "custom", "name": "edit", "description": "Edit files.", "format": grammar},
            {"type": "namespace", "name": "agents", "description": "Others.", "tools": [{**function, "name": "ask"}]},
            {"type": "tool_search", "execution": "client", "description": "Find tools.", "parameters": CITY},
            {"type": "web_search", "external_web_access": False, "search_content_types": ["text", "image"]},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a202e9",
        "client_metadata": {"session_id": "01a202e9"},
        "text": {
            "verbosity": "low",
            "format": {"type": "json_schema", "strict": True, "name": "codex_output_schema", "schema": ANSWER_SCHEMA},
        },
        **changes,
    }


def ask(server: Server, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of the answer, as Codex takes them: each from the event that ends it."""
    answer = server.post("/v1/responses", body)
    assert answer.status_code == 200, answer.text
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert {"input_tokens", "output_tokens", "total_tokens"} <= events[-1]["response"]["usage"].keys()
    assert len(events[-1]["response"]["warnings"]) == 2
    return [event["item"] for event in events if event["type"] == "response.output_item.done"]


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "name": "get_weather"},
        {"type": "function", "namespace": "agents", "name": "ask"},
        {"type": "custom", "name": "edit"},
    ],
)
def test_a_request_of_its_shape_and_what_follows(server: Server, choice: dict[str, str]) -> None:
    (call,) = ask(server, request(tool_choice=choice))
    assert {key: call[key] for key in choice if key != "type"} == {k: v for k, v in choice.items() if k != "type"}
    assert call["type"] == {"function": "function_call", "custom": "custom_tool_call"}[choice["type"]]
    if choice["type"] == "custom":
        assert re.fullmatch(r"\*\*\* Add File: [a-z]{1,8}\n(\+[a-z ]{1,20}\n){1,2}\*\*\* End", call["input"])
    else:
        assert isinstance(json.loads(call["arguments"])["city"], str)
    result = {"type": f"{call['type']}_output", "id": "out_1", "call_id": call["call_id"], "output": "Sunny."}
    thought: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None}
    (message,) = ask(server, request(thought, call, result))
    assert json.loads(message["content"][0]["text"]).keys() == {"answer"}


@pytest.fixture(scope="module")
def long_server(
    smollm2_gguf: Path, build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """SmolLM2 with a context that holds Codex's prompt."""
    bundle = tmp_path_factory.mktemp("codex") / "smollm2.rfb"
    done = rfc("compile", smollm2_gguf, "-o", bundle, "--max-context", "16384", "--cache-dir", build_cache.root)
    assert done.returncode == 0, done.stderr
    with serving(bundle, "--alias", f"{ALIAS}=smollm2") as server:
        yield server


@pytest.fixture(scope="module")
def codex() -> Path:
    """The program."""
    return node_program("codex", "@openai/codex@0.169.0") / "codex"


def run(codex: Path, url: str, model: str, folder: Path, *options: str) -> list[dict[str, Any]]:
    """`codex exec` in an empty project, set up as the page says; returns what it says, a line each."""
    home, project = folder / "home", folder / "project"
    environment = offline(home, codex.parent)
    (home / ".codex").mkdir()
    project.mkdir()
    (home / ".codex/config.toml").write_text(CONFIG.replace(PRINTED_URL, url).replace("smollm2", model))
    done = subprocess.run(
        [str(codex), "exec", "--json", "--skip-git-repo-check", *options, "What is my goal?"],
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert said[-1]["type"] == "turn.completed"
    return said


def items_of(said: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The items of a kind that Codex has finished with."""
    return [line["item"] for line in said if line["type"] == "item.completed" and line["item"]["type"] == kind]


def check_requests(proxy: ForcingProxy, kinds: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check that two requests were answered, the first with tools of these kinds; returns the call and its result."""
    first, second = proxy.asked("/v1/responses")
    assert (first.status, second.status) == (200, 200)
    assert {tool["type"] for tool in first.body["tools"]} == kinds
    call, result = second.body["input"][-2:]
    assert result["call_id"] == call["call_id"]
    return call, result


PATCH = "*** Begin Patch\n*** Add File: note.txt\n+Swordfish.\n*** End Patch\n"
KINDS = {"function", "namespace", "web_search"}
KINDS_BY_ALIAS = {"function", "custom", "tool_search", "web_search"}


def test_it_runs_what_the_model_calls(codex: Path, tmp_path: Path) -> None:
    """A function, by its own name."""
    with scripted(call_of("exec_command", '{"cmd": "echo sword"}'), ["Done."]) as (url, _), forcing(url) as proxy:
        said = run(codex, proxy.url, SCRIPTED, tmp_path)
    call, result = check_requests(proxy, KINDS)
    assert (call["type"], call["arguments"]) == ("function_call", '{"cmd": "echo sword"}')
    assert result["output"].endswith("sword\n")
    assert [item["text"] for item in items_of(said, "agent_message")] == ["Done."]


def test_it_finds_the_tool_of_a_namespace(codex: Path, tmp_path: Path) -> None:
    """By the name that the model has of it, which is not Codex's."""
    reply = call_of("multi_agent_v1__close_agent", '{"target": "nobody"}')
    with scripted(reply, ["Done."]) as (url, _), forcing(url) as proxy:
        run(codex, proxy.url, SCRIPTED, tmp_path)
    call, result = check_requests(proxy, KINDS)
    assert (call["namespace"], call["name"]) == ("multi_agent_v1", "close_agent")
    assert "invalid agent id" in result["output"]  # of the tool itself: it was found


def test_it_applies_a_patch_that_is_a_text(codex: Path, tmp_path: Path) -> None:
    reply = call_of("apply_patch", json.dumps({"input": PATCH}))
    with scripted(reply, ["Done."], alias=ALIAS) as (url, _), forcing(url) as proxy:
        run(codex, proxy.url, ALIAS, tmp_path, "--sandbox", "workspace-write")
    call, result = check_requests(proxy, KINDS_BY_ALIAS)
    assert (call["type"], call["input"]) == ("custom_tool_call", PATCH)
    assert result["type"] == "custom_tool_call_output"
    assert (tmp_path / "project/note.txt").read_text() == "Swordfish.\n"


@pytest.mark.nightly
@pytest.mark.parametrize("model, kinds", [(MODEL, KINDS), (ALIAS, KINDS_BY_ALIAS)])
def test_smollm2_calls_a_tool_and_goes_on(
    codex: Path, long_server: Server, tmp_path: Path, model: str, kinds: set[str]
) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(ANSWER_SCHEMA))  # has the answer end
    choice = {"type": "function", "name": "get_goal"}
    with forcing(long_server.url, tool_choice=choice) as proxy:
        said = run(codex, proxy.url, model, tmp_path, "--output-schema", str(tmp_path / "schema.json"))
    call, result = check_requests(proxy, kinds)
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "get_goal", "{}")
    assert json.loads(result["output"])["goal"] is None  # Codex ran it
    (message,) = items_of(said, "agent_message")
    assert json.loads(message["text"]).keys() == {"answer"}
    usage = said[-1]["usage"]
    assert usage["input_tokens"] > 10_000
    assert usage["cached_input_tokens"] > 3_000  # the first prompt told of the one tool alone
