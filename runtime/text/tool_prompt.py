"""Tools in a prompt: as chat templates read them, and in plain text for a template that knows of none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

# Models whose template knows of no tools are told of them here, in the form that Hermes was trained on.
_INSTRUCTIONS: Final = (
    "You may call one or more functions to assist with the user's request. The functions, one JSON object a line:\n"
    "<tools>\n{tools}\n</tools>\n"
    "To call a function, answer with a JSON object of its name and arguments, within these tags:\n"
    '<tool_call>\n{{"name": "<name of the function>", "arguments": {{...}}}}\n</tool_call>'
)


class Tool(Protocol):
    """A function that the model may call; `parameters` is a JSON schema."""

    @property
    def name(self) -> str:
        """By which it is called."""

    @property
    def description(self) -> str | None:
        """What it does."""

    @property
    def parameters(self) -> dict[str, Any] | None:
        """What it takes; None: nothing."""


def tool_descriptions(tools: Sequence[Tool]) -> list[dict[str, object]]:
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


def spell_out_tools(messages: Sequence[Mapping[str, object]], tools: Sequence[Tool]) -> list[Mapping[str, object]]:
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


def _spelled(message: Mapping[str, object]) -> Mapping[str, object]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    texts = [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls]
    content = "\n".join([*([str(message["content"])] if message["content"] else []), *texts])
    return {"role": message["role"], "content": content}


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """JSON schema of a tool's arguments: without `parameters` an empty object, as OpenAI's reference has it."""
    if tool.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return tool.parameters or {"type": "object"}


def call_schema(tools: Sequence[Tool]) -> dict[str, object]:
    """JSON schema of a call of one of the tools: `{"name": ..., "arguments": {...}}`."""
    if len(tools) == 1:
        return _one_call(tools[0], "#")
    return {"anyOf": [_one_call(tool, f"#/anyOf/{index}") for index, tool in enumerate(tools)]}


def _one_call(tool: Tool, at: str) -> dict[str, object]:
    arguments = _moved(arguments_schema(tool), f"{at}/properties/arguments")
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
