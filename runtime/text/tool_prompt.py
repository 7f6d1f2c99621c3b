"""Tools in a prompt: as chat templates read them, and in plain text for a template that knows of none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

# The form that Hermes was trained on.
_INSTRUCTIONS: Final = (
    "You may call one or more functions to assist with the user's request. The functions, one JSON object a line:\n"
    "<tools>\n{tools}\n</tools>\n"
    "To call a function, answer with a JSON object of its name and arguments, within these tags:\n"
    '<tool_call>\n{{"name": "<name of the function>", "arguments": {{...}}}}\n</tool_call>'
)


def describe_tool(name: str, description: str | None, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool as chat templates read it; `parameters` is a JSON schema."""
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description or "",
            "parameters": parameters or {"type": "object", "properties": {}},
        },
    }


def spell_out_tools(
    messages: Sequence[Mapping[str, Any]], descriptions: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """A conversation in plain text: who may be called, calls, and results."""
    spelled = [_spelled(message) for message in messages]
    if descriptions:
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in descriptions)
        text = _INSTRUCTIONS.format(tools=lines)
        if spelled and spelled[0]["role"] == "system":
            spelled[0] = {**spelled[0], "content": f"{spelled[0]['content']}\n\n{text}"}
        else:
            spelled.insert(0, {"role": "system", "content": text})
    return spelled


def _spelled(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    texts = [f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls]
    content = "\n".join([*([str(message["content"])] if message["content"] else []), *texts])
    return {"role": message["role"], "content": content}


def call_schema(tools: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """JSON schema of a call of one of the tools, `{"name": ..., "arguments": {...}}`; by name, what each takes."""
    calls = list(tools.items())
    if len(calls) == 1:
        return _one_call(*calls[0], "#")
    return {"anyOf": [_one_call(*call, f"#/anyOf/{index}") for index, call in enumerate(calls)]}


def _one_call(name: str, parameters: Mapping[str, Any] | None, at: str) -> dict[str, Any]:
    arguments = _moved(parameters or {"type": "object"}, f"{at}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: object, at: str) -> object:
    """A schema whose references within itself hold where it lies at the pointer `at` of another."""
    if isinstance(schema, list):
        return [_moved(item, at) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value, at) for key, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = at + reference[1:]
    return moved
