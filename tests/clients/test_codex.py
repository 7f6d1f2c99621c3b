"""Codex, OpenAI's agent for the terminal: a real `codex exec` with its prompt and tools, and requests of its shape."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from rocmforge.tests.clients.common import MODEL
from rocmforge.tests.clients.programs import node_program
from rocmforge.tests.end_to_end.process import PATIENCE_SECONDS, Server, rfc, serving
from rocmforge.tests.end_to_end.test_api_docs import DOCS, PRINTED_URL

CODEX = "@openai/codex@0.169.0"
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


class Forcing(ThreadingHTTPServer):
    """Hands requests on, the first with a tool that must be called: SmolLM2 is too small to choose one."""

    daemon_threads = True

    def __init__(self, url: str, choice: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = url
        self.choice = choice
        self.seen: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Forcing

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        if not any(item["type"].endswith("_output") for item in body["input"]):
            body = {**body, "tool_choice": self.server.choice}
        with requests.post(self.server.url + self.path, json=body, stream=True, timeout=RUN_SECONDS) as answer:
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.end_headers()
            for chunk in answer.iter_content(None):
                self.wfile.write(chunk)
                self.wfile.flush()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def long_server(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SmolLM2 with a context that holds Codex's prompt."""
    bundle = tmp_path_factory.mktemp("codex") / "smollm2.rfb"
    done = rfc("compile", smollm2_gguf, "-o", bundle, "--max-context", "16384")
    assert done.returncode == 0, done.stderr
    with serving(bundle, "--alias", f"{ALIAS}=smollm2") as server:
        yield server


def run(url: str, model: str, folder: Path) -> list[dict[str, Any]]:
    """`codex exec` in an empty project with a home of its own; returns what it says, a line each."""
    home, project = folder / "home", folder / "project"
    (home / ".codex").mkdir(parents=True)
    project.mkdir()
    (folder / "schema.json").write_text(json.dumps(ANSWER_SCHEMA))
    (home / ".codex/config.toml").write_text(CONFIG.replace(PRINTED_URL, url).replace("smollm2", model))
    codex = node_program("codex", CODEX) / "codex"
    options = ["--json", "--skip-git-repo-check", "--output-schema", str(folder / "schema.json")]
    done = subprocess.run(
        [str(codex), "exec", *options, "What is my goal?"],
        cwd=project,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.nightly
@pytest.mark.parametrize("model", [MODEL, ALIAS])
def test_codex_calls_a_tool_and_goes_on(long_server: Server, tmp_path: Path, model: str) -> None:
    """With its default tools: a namespace and a search among them, and by the alias a custom one."""
    with Forcing(long_server.url, {"type": "function", "name": "get_goal"}) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        said = run(f"http://127.0.0.1:{proxy.server_address[1]}", model, tmp_path)
        proxy.shutdown()
    first, second = proxy.seen
    kinds = {tool["type"] for tool in first["tools"]}
    assert kinds == (
        {"function", "namespace", "web_search"}
        if model == MODEL
        else {"function", "custom", "tool_search", "web_search"}
    )
    call, result = second["input"][-2:]
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "get_goal", "{}")
    assert (result["type"], result["call_id"]) == ("function_call_output", call["call_id"])
    assert json.loads(result["output"])["goal"] is None  # Codex ran it
    message = next(line["item"] for line in said if line.get("item", {}).get("type") == "agent_message")
    assert json.loads(message["text"]).keys() == {"answer"}
    usage = said[-1]["usage"]
    assert said[-1]["type"] == "turn.completed"
    assert usage["input_tokens"] > 10_000
    assert usage["cached_input_tokens"] > 3_000  # the first prompt told of the one tool alone
