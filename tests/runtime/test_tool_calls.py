"""Calls of tools in the forms of the model families, whole and cut in every way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.runtime.tool_calls import ToolCall, ToolCallParser

NAMES = ("get_weather", "read")


def parse(pieces: list[str]) -> tuple[str, list[ToolCall]]:
    parser = ToolCallParser(NAMES)
    parts = [*(parser.push(piece) for piece in pieces), parser.flush()]
    return "".join(content for content, _ in parts), [call for _, calls in parts for call in calls]


ROME = ToolCall("get_weather", '{"city": "Rome"}')
READ = ToolCall("read", '{"path": "a </tool_call> b"}')
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
HERMES_READ = '<tool_call>{"name": "read", "arguments": {"path": "a </tool_call> b"}}</tool_call>'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Rome"}}'
KNOWN = [
    pytest.param(HERMES, "", [ROME], id="hermes"),
    pytest.param(f"Let me look.\n{HERMES}\n{HERMES_READ}\n", "Let me look.\n", [ROME, READ], id="hermes-two"),
    pytest.param(f"[TOOL_CALLS] [{LLAMA}, {LLAMA}]", "", [ROME, ROME], id="mistral"),
    pytest.param(LLAMA, "", [ROME], id="llama"),
    pytest.param(f"<|python_tag|>{LLAMA}; {LLAMA}", "", [ROME, ROME], id="llama-two"),
    pytest.param('{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}', "", [ROME], id="string"),
    pytest.param('{"name": "Ann", "arguments": {}}', '{"name": "Ann", "arguments": {}}', [], id="answer-in-json"),
    pytest.param("[1, 2]", "[1, 2]", [], id="array"),
    pytest.param("a < b and [x]", "a < b and [x]", [], id="text"),
    pytest.param("<tool_call>nonsense</tool_call>", "<tool_call>nonsense</tool_call>", [], id="malformed"),
    pytest.param('<tool_call>{"name": "read"', '<tool_call>{"name": "read"', [], id="cut-short"),
    pytest.param("[" * 100_000, "[" * 100_000, [], id="deep"),
    pytest.param("", "", [], id="nothing"),
]


@pytest.mark.parametrize("text, content, calls", KNOWN)
def test_known_forms(text: str, content: str, calls: list[ToolCall]) -> None:
    assert parse([text]) == (content, calls)
    if len(text) < 1000:
        assert parse(list(text)) == (content, calls)


def test_a_call_is_given_when_it_is_complete() -> None:
    parser = ToolCallParser(NAMES)
    assert parser.push(f"Wait. {HERMES[:-1]}") == ("Wait. ", [])
    assert parser.push(HERMES[-1]) == ("", [ROME])


MARKERS = ["<tool_call>", " <tool_call>", "</tool_call>", "[TOOL_CALLS]", "<tool", "_call>"]
PIECE = st.sampled_from([*MARKERS, " ", "[", "x", LLAMA, HERMES, f" {HERMES}"])


@settings(max_examples=1500, deadline=None)
@given(st.lists(PIECE, max_size=8))
def test_any_text_cut_in_any_way(pieces: list[str]) -> None:
    whole = parse(["".join(pieces)])
    assert parse(pieces) == parse(list("".join(pieces))) == whole
    assert all(isinstance(json.loads(call.arguments), dict) for call in whole[1])
