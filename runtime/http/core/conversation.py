"""A chat, whichever API it came by: what is asked, and how a template is told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Literal

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError
from ...text.answer_format import JSON_ANSWERS, AnswerFormat
from ...text.call_grammar import required_call
from ...text.constraints import ConstraintSpec
from .generation_params import GenerationParams
from .schema import FunctionTool

ToolChoice = Literal["auto", "none", "required"]
Message = dict[str, object]


@dataclass(frozen=True, slots=True)
class TextTool:
    """The one tool that an answer is the input of: its name, and what the input must match."""

    name: str
    constraint: ConstraintSpec | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What to answer, and how.

    Attributes:
        messages: as chat templates read them; see `messages.read_messages`.
        params: of sampling; its constraint is that of the answer.
        tools: that the model may call; only one where a certain one is asked for.
        tool_choice: whether it may, must not or must.
        parallel_tool_calls: whether it may call several at once.
        template_variables: further variables of the chat template.
        text_tool: the tool that must be called, where it takes a text.
        continue_final: the last message is the assistant's, and the answer goes on with it.
        generation_prompt: whether the template opens the assistant's turn.
    """

    messages: tuple[Message, ...]
    params: GenerationParams = field(default_factory=GenerationParams)
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    template_variables: Mapping[str, object] = field(default_factory=dict)
    text_tool: TextTool | None = None
    continue_final: bool = False
    generation_prompt: bool = True

    @property
    def begins_at_once(self) -> bool:
        """Whether a constraint leaves no room for reasoning before the answer."""
        if self.tool_choice == "required":
            return self.text_tool is None or self.text_tool.constraint is not None
        return self.params.constraint is not None

    @property
    def usable_tools(self) -> tuple[FunctionTool, ...]:
        """Tools that an answer may call."""
        return () if self.tool_choice == "none" else self.tools

    def constrained(self, answers: AnswerFormat = JSON_ANSWERS) -> GenerationParams:
        """The parameters, with the constraint that makes the model call a tool where it must, in its own form.

        A format of the answer gives way to it; an expression or a grammar was meant for this very text.

        Raises:
            RequestError: it must and there is none, or the text has another constraint.
        """
        if self.tool_choice != "required":
            return self.params
        if not self.tools:
            raise RequestError("tool_choice", "expected tools beside it, found none")
        given = self.params.constraint
        if given is not None and given.kind in ("regex", "grammar"):
            raise RequestError(given.parameter, f"expected no {given.kind} beside a required tool")
        if self.text_tool is not None:
            return replace(self.params, constraint=self.text_tool.constraint)
        return replace(self.params, constraint=required_call(answers, self.tools))


def choose_tool(
    tools: Sequence[FunctionTool], choice: str | None, name: str | None, parameter: str
) -> tuple[tuple[FunctionTool, ...], ToolChoice]:
    """Tools and choice, as `Conversation` has them.

    Args:
        tools: of the request.
        choice: auto, none or required; None: auto.
        name: the one tool that must be called, or None.
        parameter: that names it, for messages.

    Raises:
        RequestError: no tool has that name.
    """
    if name is None:
        return tuple(tools), "none" if choice == "none" else "required" if choice == "required" else "auto"
    named = tuple(tool for tool in tools if tool.name == name)
    if not named:
        raise RequestError(parameter, "expected the name of one of the tools")
    return named, "required"


def thinking_variables(effort: str | None) -> dict[str, object]:
    """Variables by which chat templates of reasoning models are told how much to think; None: as they like."""
    if effort is None:
        return {}
    return {"reasoning_effort": effort, "enable_thinking": effort not in ("none", "minimal")}


def read_arguments(arguments: object, where: str) -> dict[str, object]:
    """Arguments of an earlier call, which come as an object or as its text.

    Raises:
        RequestError: they are neither.
    """
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise RequestError(f"{where}.function.arguments", "expected the text of a JSON object") from None
    arguments = arguments or {}
    if not isinstance(arguments, dict):
        raise RequestError(f"{where}.function.arguments", "expected a JSON object")
    return arguments
