"""Each case of llama.cpp's tests read as a server of ours reads it: its prompt rendered, its text streamed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rocmforge.runtime.text.answer_reader import AnswerReader, AnswerStart
from rocmforge.runtime.text.call_turns import ToolCall, Turn, join_calls
from rocmforge.runtime.text.chat import ChatTemplate, rendered
from rocmforge.runtime.text.chat_formats import format_of
from rocmforge.runtime.text.chat_prompt import render_chat
from rocmforge.runtime.text.control_text import ControlTexts
from rocmforge.runtime.text.template_process import ChatTemplateError
from rocmforge.runtime.text.template_worker import SandboxedTemplate, describe

from .expectations import Case

BOS, EOS = "<BOS>", "<EOS>"


@dataclass(frozen=True, slots=True)
class CaseTool:
    """A tool of a case."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a case's text."""

    reasoning: str
    content: str
    calls: tuple[ToolCall, ...]


class Rendering:
    """A chat template that renders in this process; see `ChatTemplate`."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.takes_tools = ChatTemplate(source, BOS, EOS).takes_tools
        self._sandboxed = SandboxedTemplate(source)

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        **extra: object,
    ) -> str:
        """Return the prompt of a conversation."""

        def ask(variables: Mapping[str, object]) -> str:
            try:
                return self._sandboxed.render({"bos_token": BOS, "eos_token": EOS, **variables})
            except Exception as error:  # whatever a template raises
                raise ChatTemplateError(describe(error)) from None

        return rendered(ask, messages, tools, add_generation_prompt, extra)


@cache
def rendering(path: Path) -> Rendering:
    """The template of a file."""
    return Rendering(path.read_text())


def _messages(case: Case) -> list[dict[str, Any]]:
    given = case.conditions.get("messages")
    if given is None:
        return [{"role": "user", "content": "Hey there!"}]
    read: list[dict[str, Any]] = []
    for one in given:
        message: dict[str, Any] = {"role": one.role, "content": one.content}
        if one.reasoning_content:
            message["reasoning_content"] = one.reasoning_content
        if one.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "id": call[2], "function": {"name": call[0], "arguments": json.loads(call[1])}}
                for call in one.tool_calls
            ]
        if one.tool_call_id:
            message["tool_call_id"] = one.tool_call_id
        read.append(message)
    return read


def read_case(case: Case, sources: Path, pieces: Sequence[str] | None = None) -> Reading:
    """Read the text of a case, whole or in pieces; what the assistant had begun to say is a part of the result."""
    template = rendering(sources / case.template)
    tools = [CaseTool(name, what, json.loads(schema)) for name, what, schema in case.conditions.get("tools", ())]
    messages = _messages(case)
    begun = messages.pop() if "continue_final_message" in case.conditions else None
    variables = {"enable_thinking": case.conditions.get("enable_thinking", True)}
    try:
        inside = render_chat(messages, tools, variables, template, ControlTexts(()), begun).inside_reasoning
    except (
        Exception
    ):  # whatever a template raises: it does not take the conversation, and answers are read all the same
        inside = False
    reader = AnswerReader(format_of(template.source), tools, AnswerStart(inside, begun is not None))
    parts = [reader.push(piece) for piece in pieces or [case.text]]
    parts.append(reader.flush("is_partial" in case.conditions))
    turns: list[Turn] = [turn for _, found in parts for turn in found]
    said = begun or {}
    return Reading(
        said.get("reasoning_content", "") + "".join(reasoning for reasoning, _ in parts),
        said.get("content", "") + "".join(turn for turn in turns if isinstance(turn, str)),
        tuple(join_calls(turns)),
    )


def same_arguments(ours: str, expected: str) -> bool:
    """Whether arguments are the same JSON, or the same beginning of it but for white space."""
    try:
        return bool(json.loads(ours or "{}") == json.loads(expected or "{}"))
    except ValueError:
        return "".join(ours.split()) == "".join(expected.split())
