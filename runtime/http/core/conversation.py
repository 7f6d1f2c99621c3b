"""A chat, whichever API it came by: how it becomes a prompt, and how the model's tokens become an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ....artifacts.errors import RequestError
from ...engine.generation import FINISH_CANCELLED, FINISH_FAILED, FINISH_LENGTH, Failure, TokenEvent
from ...engine.logprobs import TokenLogprobs
from ...text.constraints import ConstraintSpec
from ...text.reasoning import ReasoningSplitter
from ...text.text_tools import TextCallParser
from ...text.tool_calls import CallPiece, ToolCall, ToolCallParser, Turn, join_calls
from .conditions import Conditions
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
        conditions: of sampling; its constraint is that of the answer.
        tools: that the model may call; only one where a certain one is asked for.
        tool_choice: whether it may, must not or must.
        parallel_tool_calls: whether it may call several at once.
        template_variables: further variables of the chat template.
        text_tool: the tool that must be called, where it takes a text.
        continue_final: the last message is the assistant's, and the answer goes on with it.
        generation_prompt: whether the template opens the assistant's turn.
    """

    messages: tuple[Message, ...]
    conditions: Conditions = field(default_factory=Conditions)
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
        return self.conditions.constraint is not None

    @property
    def usable_tools(self) -> tuple[FunctionTool, ...]:
        """Tools that an answer may call."""
        return () if self.tool_choice == "none" else self.tools

    def constrained(self) -> Conditions:
        """The conditions, with the constraint that makes the model call a tool where it must.

        A format of the answer gives way to it; an expression or a grammar was meant for this very text.

        Raises:
            RequestError: it must and there is none, or the text has another constraint.
        """
        if self.tool_choice != "required":
            return self.conditions
        if not self.tools:
            raise RequestError("tool_choice", "expected tools beside it, found none")
        given = self.conditions.constraint
        if given is not None and given.kind in ("regex", "grammar"):
            raise RequestError(given.parameter, f"expected no {given.kind} beside a required tool")
        if self.text_tool is not None:
            return replace(self.conditions, constraint=self.text_tool.constraint)
        spec = ConstraintSpec("json_schema", call_schema(self.tools), "tools")
        return replace(self.conditions, constraint=spec)


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


def call_schema(tools: Sequence[FunctionTool]) -> dict[str, object]:
    """JSON schema of a call of one of the tools: `{"name": ..., "arguments": {...}}`."""
    if len(tools) == 1:
        return _one_call(tools[0], "#")
    return {"anyOf": [_one_call(tool, f"#/anyOf/{index}") for index, tool in enumerate(tools)]}


def _one_call(tool: FunctionTool, at: str) -> dict[str, object]:
    arguments = _moved(tool.parameters or {"type": "object"}, f"{at}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: object, at: str) -> object:
    """A schema whose references within itself hold where it lies at the pointer `at` of another."""
    if isinstance(schema, list):
        return [_moved(item, at) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, at) for key, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = at + reference[1:]
    return moved


# Models whose template knows of no tools are told of them here, in the form that Hermes was trained on.
_INSTRUCTIONS = (
    "You may call one or more functions to assist with the user's request. The functions, one JSON object a line:\n"
    "<tools>\n{tools}\n</tools>\n"
    "To call a function, answer with a JSON object of its name and arguments, within these tags:\n"
    '<tool_call>\n{{"name": "<name of the function>", "arguments": {{...}}}}\n</tool_call>'
)


def tool_descriptions(tools: Sequence[FunctionTool]) -> list[dict[str, object]]:
    """Tools as chat templates read them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
    ]


def spell_out_tools(messages: Sequence[Message], tools: Sequence[FunctionTool]) -> list[Message]:
    """A conversation in plain text, for a template that knows of no tools: who may be called, calls, and results."""
    spelled = [_spelled(message) for message in messages]
    if tools:
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tool_descriptions(tools))
        text = _INSTRUCTIONS.format(tools=lines)
        if spelled and spelled[0]["role"] == "system":
            spelled[0] = {**spelled[0], "content": f"{spelled[0]['content']}\n\n{text}"}
        else:
            spelled.insert(0, {"role": "system", "content": text})
    return spelled


def _spelled(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    texts = [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls]
    content = "\n".join([*([str(message["content"])] if message["content"] else []), *texts])
    return {"role": message["role"], "content": content}


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """What one token added to an answer, or its end.

    Attributes:
        index: which answer of several.
        reasoning: text within `<think>`; it comes before the turns.
        turns: text of the answer and pieces of calls, in their order.
        tokens: 1 where there is a token, else 0.
        logprobs: of the token, where they were asked for.
        finish_reason: "stop", "length", "tool_calls" or "cancelled" at the end; "failed" with an `error`.
        error: why it failed.
        stop: the stop string that ended it.
    """

    index: int
    reasoning: str = ""
    turns: tuple[Turn, ...] = ()
    tokens: int = 0
    logprobs: TokenLogprobs | None = None
    finish_reason: str | None = None
    error: Failure | None = None
    stop: str | None = None


_CUT = (FINISH_LENGTH, FINISH_FAILED, FINISH_CANCELLED)


class AnswerReader:
    """Reads the events of one chat answer.

    Args:
        conversation: that it answers.
        inside_reasoning: whether the prompt ends within reasoning.
    """

    def __init__(self, conversation: Conversation, inside_reasoning: bool) -> None:
        names, text_tool = {tool.name for tool in conversation.usable_tools}, conversation.text_tool
        self._splitter = ReasoningSplitter(inside_reasoning and not conversation.begins_at_once)
        self._parser: ToolCallParser | TextCallParser | None = None
        if text_tool is not None:
            self._parser = TextCallParser(text_tool.name)
        elif names:
            self._parser = ToolCallParser(names, conversation.tool_choice == "required")
        self._most_calls = None if conversation.parallel_tool_calls else 1
        self._num_calls = 0
        self._broken = False  # the latest call is not whole, so far

    def read(self, event: TokenEvent) -> AnswerPart:
        """Take the next event; returns its part, which may be empty."""
        reasoning, content = self._splitter.push(event.text)
        turns = self._turns(content)
        if event.finished:
            more, rest = self._splitter.flush()
            reasoning += more
            turns += self._turns(rest)
            if self._parser is not None:
                turns += self._parser.flush(event.finish_reason in _CUT)
        return AnswerPart(
            event.index,
            reasoning,
            tuple(turn for turn in turns if self._wanted(turn)),
            int(event.token is not None),
            event.logprobs,
            self._reason(event.finish_reason) if event.finished else None,
            event.error,
            event.stop,
        )

    def _turns(self, content: str) -> list[Turn]:
        if self._parser is not None:
            return self._parser.push(content)
        return [content] if content else []

    def _wanted(self, turn: Turn) -> bool:
        """Whether it is none of a call beyond the first, where only one may be."""
        if not isinstance(turn, CallPiece):
            return True
        if turn.name is not None:
            self._num_calls += 1
        if self._most_calls is not None and self._num_calls > self._most_calls:
            return False
        self._broken = not turn.whole
        return True

    def _reason(self, reason: str | None) -> str:
        if reason in (FINISH_FAILED, FINISH_CANCELLED):
            return str(reason)
        if self._num_calls and not self._broken:
            return "tool_calls"
        return "length" if reason == FINISH_LENGTH else "stop"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the parts together."""

    reasoning: str
    turns: tuple[Turn, ...]
    tokens: int
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: str
    error: Failure | None

    @property
    def content(self) -> str:
        """Text of the answer."""
        return "".join(turn for turn in self.turns if isinstance(turn, str))

    @property
    def calls(self) -> list[ToolCall]:
        """Calls of tools; the model may have broken one off."""
        return join_calls(self.turns)


def join_parts(parts: Sequence[AnswerPart]) -> Answer:
    """The answer that the parts of one index come to."""
    return Answer(
        "".join(part.reasoning for part in parts),
        tuple(turn for part in parts for turn in part.turns),
        sum(part.tokens for part in parts),
        tuple(part.logprobs for part in parts if part.logprobs is not None),
        parts[-1].finish_reason or "stop",
        parts[-1].error,
    )


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
