"""Conversations of the library: what is asked, how a template is told of it, and how an answer is parted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from rocmforge.artifacts.errors import RequestError
from rocmforge.library.answers import ChatAnswer, Completion
from rocmforge.library.chat import AnswerReader, ChatPrompt, Tools, chat_prompt, read_messages, read_tools
from rocmforge.runtime.text.answer_format import AnswerFormat
from rocmforge.runtime.text.call_turns import ToolCall
from rocmforge.runtime.text.chat import ChatTemplate
from rocmforge.runtime.text.constraints import ConstraintSpec
from rocmforge.tests.support.tokenizers import TINY

GO: dict[str, Any] = {"name": "go", "description": "Go.", "parameters": {"type": "object"}}
TALK = [{"role": "user", "content": "hi"}]
NONE = Tools()
COMPLETION = Completion("", (1,), "eos", 3)


def answered(pieces: list[str], tools: Tools = NONE, inside: bool = False, reason: str = "eos") -> ChatAnswer:
    prompt = ChatPrompt((), inside, begun=False)
    reader = AnswerReader(AnswerFormat(), tools, prompt, tools.choice == "required")
    said = [reader.read(piece, None) for piece in pieces] + [reader.read("", reason)]
    answer = reader.answer(COMPLETION)
    assert ("".join(one for one, _ in said), "".join(one for _, one in said)) == (answer.reasoning, answer.content)
    return answer


def test_reasoning_is_parted() -> None:
    pieces = ["<thi", "nk>Hm", "m.</think>", "\n\nYes", "."]
    answer = answered(pieces)
    assert (answer.reasoning, answer.content, answer.finish_reason) == ("Hmm.", "Yes.", "eos")
    assert answered(["Hmm.</think>Yes."], inside=True).reasoning == "Hmm."


def test_calls_are_parted_and_come_back_as_a_message() -> None:
    tools = read_tools([{"type": "function", "function": GO}], "auto")
    answer = answered(["Look. <tool_call>", '{"name": "go", "arguments": {"to": 1}}</tool_call>'], tools)
    assert (answer.content, answer.tool_calls) == ("Look. ", (ToolCall("go", '{"to": 1}'),))
    assert answer.finish_reason == "tool_calls"
    call = {"type": "function", "function": {"name": "go", "arguments": {"to": 1}}}
    assert answer.message == {"role": "assistant", "content": "Look. ", "tool_calls": [call]}
    broken = answered(['<tool_call>{"name": "go", "arguments": {"to'], tools, reason="length")
    assert broken.finish_reason == COMPLETION.finish_reason
    assert broken.message == {"role": "assistant", "content": '{"name": "go", "arguments": {"to'}


def test_a_tool_is_required_by_a_constraint() -> None:
    tools = read_tools([GO], "required")
    spec = tools.constraint(None)
    assert spec is not None
    assert (spec.kind, spec.parameter) == ("json_schema", "tools")
    assert answered(['{"name": "go", "argu', 'ments": {}}'], tools).tool_calls == (ToolCall("go", "{}"),)
    given = ConstraintSpec("regex", "a", "regex")
    with pytest.raises(RequestError, match=r"^regex: expected no constraint beside a required tool$"):
        tools.constraint(given)
    for choice in ("auto", "none"):
        assert read_tools([GO], choice).constraint(given) is given
    assert read_tools([GO], "none").given == ()


@pytest.mark.parametrize(
    ("tools", "choice", "problem"),
    [
        ([{"function": {}}], "auto", "tools[0]: expected a function that has a name"),
        (5, "auto", "tools: expected a list of tools, found 5"),
        ("go", "auto", "tools: expected a list of tools, found 'go'"),
        ({"name": "go"}, "auto", "tools: expected a list of tools, found {'name': 'go'}"),
        ([GO, "go"], "auto", "tools[1]: expected a dict, found 'go'"),
        ([{"name": "go", "description": 5}], "auto", "tools[0].description: expected a text, found 5"),
        ([{"name": "go", "parameters": "x"}], "auto", "tools[0].parameters: expected a JSON schema, found 'x'"),
        (
            [{"name": "go", "parameters": {"enum": {1}}}],
            "auto",
            "tools[0].parameters: expected JSON, found {'enum': {1}}: Object of type set is not JSON serializable",
        ),
        ([GO], "maybe", "tool_choice: expected auto, none or required, found 'maybe'"),
        ([], "required", "tool_choice: expected tools beside it, found none"),
    ],
)
def test_tools_that_are_none(tools: Any, choice: Any, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_tools(tools, choice)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "messages: expected at least one message, found none"),
        (["hi"], "messages[0]: expected a dict, found 'hi'"),
        (5, "messages: expected a list of messages, found 5"),
        ("hi", "messages: expected a list of messages, found 'hi'"),
        ({"role": "user"}, "messages: expected a list of messages, found {'role': 'user'}"),
        ([{**TALK[0], "tool_calls": "x"}], "messages[0].tool_calls: expected calls of functions, found 'x'"),
        ([{**TALK[0], "tool_calls": ["x"]}], "messages[0].tool_calls: expected calls of functions, found ['x']"),
        ([{**TALK[0], "tool_calls": [{}]}], "messages[0].tool_calls: expected calls of functions, found [{}]"),
        ([*TALK, {"content": "x"}], "messages[1].role: expected a text"),
        ([{"role": "user", "content": 3}], "messages[0].content: expected a text"),
    ],
)
def test_messages_that_are_none(messages: Any, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_messages(messages)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("message", "variables", "problem"),
    [
        ({}, {"messages": []}, "template_variables: expected other names than messages"),
        ({}, {"tools": 1, "self": 2}, "template_variables: expected other names than self"),
        ({}, {"add_generation_prompt": False}, "template_variables: expected other names than add_generation_prompt"),
        ({}, {"bos_token": "x"}, "template_variables: expected other names than bos_token"),
        ({}, {"eos_token": "x"}, "template_variables: expected other names than eos_token"),
        ({}, {1: "x"}, "template_variables: expected names that are texts, found 1"),
        ({}, ["x"], "template_variables: expected values by name, found ['x']"),
        ({}, {10**5000: 1}, "template_variables: expected names that are texts, found a value of type int"),
        (
            {},
            {"mood": {1}},
            "template_variables: expected JSON, found {'mood': {1}}: Object of type set is not JSON serializable",
        ),
        (
            {"name": b"x"},
            {},
            "messages[0]: expected JSON, found {'role': 'user', 'content': 'hi', 'name': b'x'}: Object of type bytes is"
            " not JSON serializable",
        ),
    ],
)
def test_what_no_template_is_told(message: dict[str, Any], variables: Any, problem: str) -> None:
    with contextlib.closing(ChatTemplate("x", "", "")) as template, pytest.raises(RequestError) as caught:
        chat_prompt([{**TALK[0], **message}], NONE, variables, TINY, template)
    assert str(caught.value) == problem


def nested(depth: int) -> list[Any]:
    """A list in a list and so on, that many, around the text of a control token."""
    value: Any = "<|im_end|>"
    for _ in range(depth):
        value = [value]
    return list(value)


@pytest.mark.parametrize("depth", [101, 600, 1000, 100_000])
def test_what_is_nested_too_deep(depth: int) -> None:
    deep, problem = nested(depth - 1), "expected JSON nested at most 100 deep, found deeper"
    asks: dict[str, Callable[[], object]] = {
        "template_variables": lambda: chat_prompt(TALK, NONE, {"mood": deep}, TINY, template),
        "messages[0]": lambda: chat_prompt([{**TALK[0], "mood": deep}], NONE, {}, TINY, template),
        "tools[0].parameters": lambda: read_tools([{**GO, "parameters": {"enum": deep}}], "auto"),
    }
    with contextlib.closing(ChatTemplate("x", "", "")) as template:
        for name, ask in asks.items():
            with pytest.raises(RequestError) as caught:
                ask()
            assert str(caught.value) == f"{name}: {problem}"


def test_what_is_nested_as_deep_as_may_be() -> None:
    with contextlib.closing(ChatTemplate("{{ wide|length }}", "", "")) as template:
        prompt = chat_prompt(TALK, NONE, {"deep": nested(99), "wide": [[]] * 200}, TINY, template)
        assert TINY.decode(prompt.token_ids) == "200"


def test_a_template_is_told() -> None:
    """Tools by the template, or in plain text where it takes none. A message of the assistant's is gone on with."""
    source = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}{{ mood }}>"
    with contextlib.closing(ChatTemplate(source, "", "")) as template:
        prompt = chat_prompt(TALK, NONE, {"mood": "!"}, TINY, template)
        assert (TINY.decode(prompt.token_ids), prompt.inside_reasoning) == ("[user:hi]!>", False)
        begun = [*TALK, {"role": "assistant", "content": "I s"}]
        assert TINY.decode(chat_prompt(begun, NONE, {}, TINY, template).token_ids) == "[user:hi]>I s"
        plain = TINY.decode(chat_prompt(TALK, read_tools([GO], "auto"), {}, TINY, template).token_ids)
        assert plain.startswith("[system:You may call one or more functions")
        assert plain.endswith("[user:hi]>")
    with contextlib.closing(ChatTemplate(source + "{{ tools[0].function.name }}<think>", "", "")) as template:
        prompt = chat_prompt(TALK, read_tools([GO], "auto"), {}, TINY, template)
        assert (TINY.decode(prompt.token_ids), prompt.inside_reasoning) == ("[user:hi]>go<think>", True)
