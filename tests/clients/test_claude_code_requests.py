"""Requests of the form of Claude Code's, cut short: all that it sends is served or passed over."""

from __future__ import annotations

import json
from typing import Any

import requests

from rocmforge.tests.clients.common import MODEL
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server

CACHED = {"cache_control": {"type": "ephemeral"}}
BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "mid-conversation-tool-changes-2026-07-01,advanced-tool-use-2025-11-20,effort-2025-11-24"
)
HEADERS = {
    "authorization": "Bearer none",
    "anthropic-beta": BETAS,
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-version": "2023-06-01",
    "user-agent": "claude-cli/2.1.330 (external, sdk-cli)",
    "x-app": "cli",
    "x-stainless-retry-count": "0",
}


def tool(name: str, *fields: str, **more: Any) -> dict[str, Any]:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {field: {"description": f"The {field}", "type": "string", "maxLength": 12} for field in fields},
        "required": list(fields),
        "additionalProperties": False,
    }
    return {"name": name, "description": f"{name} what is asked for.", "input_schema": schema, **more}


READ, FETCH = tool("Read", "file_path"), tool("WebFetch", "url", defer_loading=True)
PLACEHOLDER = {
    "name": "Placeholder",
    "description": "x",
    "input_schema": {"type": "object", "properties": {}},
    "defer_loading": True,
}
FIRST: list[dict[str, Any]] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "<system-reminder>\nSign nothing.\n</system-reminder>\n"},
            {"type": "text", "text": "Read the note.", **CACHED},
        ],
    },
    {"role": "system", "content": "# Environment\n - Platform: linux"},
]
BODY: dict[str, Any] = {
    "model": MODEL,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.330.111; cc_entrypoint=sdk-cli;"},
        {"type": "text", "text": "You are an agent.", **CACHED},
        {"type": "text", "text": "Be brief.", **CACHED},
    ],
    "messages": FIRST,
    "tools": [READ, tool("ToolSearch", "query"), PLACEHOLDER],
    "metadata": {"user_id": '{"device_id":"4e9a","account_uuid":"","session_id":"63ab"}'},
    "max_tokens": 64,
    "thinking": {"type": "adaptive", "display": "omitted"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "temperature": 0,
}


def post(server: Server, path: str, body: dict[str, Any]) -> requests.Response:
    answer = requests.post(f"{server.url}{path}?beta=true", json=body, headers=HEADERS, timeout=PATIENCE_SECONDS)
    assert answer.status_code == 200, answer.text
    return answer


def stream(server: Server, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of an answer, their names checked."""
    blocks = post(server, "/v1/messages", body | {"stream": True}).text.split("\n\n")
    events = []
    for name, data in (block.split("\n") for block in blocks if block):
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def prompt_of(usage: dict[str, int]) -> int:
    return usage["input_tokens"] + usage["cache_read_input_tokens"]


def counted(server: Server, body: dict[str, Any]) -> int:
    fields = ("model", "system", "messages", "tools", "thinking", "output_config", "context_management")
    count: int = post(server, "/v1/messages/count_tokens", {name: body[name] for name in fields}).json()["input_tokens"]
    return count


def test_a_tool_is_called_and_its_result_is_answered(server: Server) -> None:
    events = stream(server, BODY | {"tool_choice": {"type": "tool", "name": "Read"}})
    start = next(event["content_block"] for event in events if event["type"] == "content_block_start")
    assert (start["type"], start["name"], events[-2]["delta"]["stop_reason"]) == ("tool_use", "Read", "tool_use")
    deltas = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    arguments = json.loads("".join(deltas))
    assert arguments.keys() == {"file_path"}
    thought = {"type": "thinking", "thinking": "", "signature": ""}
    results = [
        {"type": "tool_result", "tool_use_id": start["id"], "content": "1\thello", "is_error": False, **CACHED},
        {"type": "text", "text": "<system-reminder>Go on.</system-reminder>"},
    ]
    after = [
        *FIRST,
        {"role": "assistant", "content": [thought, {**start, "input": arguments}]},
        {"role": "user", "content": results},
    ]
    events = stream(server, BODY | {"messages": after})
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    usage = events[-2]["usage"]
    assert prompt_of(usage) == counted(server, BODY | {"messages": after}) > counted(server, BODY)
    assert next(event for event in events if event["type"] == "message_start")["message"]["usage"]["input_tokens"] > 0


def test_a_tool_that_was_searched_for_is_in_the_prompt(server: Server) -> None:
    """Nothing of a deferred one is, before; what the search found is all that its result says."""
    tools = [*BODY["tools"], FETCH]
    assert counted(server, BODY | {"tools": tools}) == counted(server, BODY)
    call = {"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {"query": "select:WebFetch"}}
    found = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "tool_reference", "tool_name": "WebFetch"}],
    }
    after = [*FIRST, {"role": "assistant", "content": [call]}, {"role": "user", "content": [found]}]
    asked = BODY | {"messages": after, "tools": tools}
    plain = {**found, "content": "WebFetch"}
    without = [*after[:-1], {"role": "user", "content": [plain]}]
    assert counted(server, asked) > counted(server, asked | {"messages": without})
    made = post(server, "/v1/messages", asked | {"tool_choice": {"type": "tool", "name": "WebFetch"}}).json()
    assert (made["content"][0]["name"], made["stop_reason"]) == ("WebFetch", "tool_use")


def test_a_title(server: Server) -> None:
    """What it asks a small model for beside a conversation: no tools, JSON by a schema."""
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string", "maxLength": 20}},
        "required": ["title"],
        "additionalProperties": False,
    }
    asked = {
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
        "messages": [{"role": "user", "content": "Read the note."}],
        "tools": [],
        "thinking": {"type": "disabled"},
    }
    made = post(server, "/v1/messages", BODY | asked).json()
    assert json.loads(made["content"][0]["text"]).keys() == {"title"}


def test_it_looks_whether_the_server_is_there(server: Server) -> None:
    assert requests.head(server.url, timeout=PATIENCE_SECONDS).status_code == 200
    assert requests.head(f"{server.url}/api/hello", timeout=PATIENCE_SECONDS).status_code == 404  # any answer will do
