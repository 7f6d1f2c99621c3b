"""Nine conversations by which renderings are compared: roles, tools, their results, reasoning."""

from __future__ import annotations

from typing import Any, Final

_WEATHER: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Weather <b>in</b> a "city" & more',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "City's name"},
                "days": {"type": "integer", "default": 3},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
_READ: Final = {
    "type": "function",
    "function": {
        "name": "read",
        "description": "Read a file",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "lines": {"type": "array", "items": {"type": "integer"}},
                "options": {"type": "object", "properties": {"deep": {"type": ["string", "null"]}}},
            },
            "required": ["path"],
        },
    },
}
_TOOLS: Final = [_WEATHER, _READ]
_SYSTEM: Final = {"role": "system", "content": "Be <brief> & kind."}
_USER: Final = {"role": "user", "content": 'Say <hi> & "bye" — é'}
_ASSISTANT: Final = {"role": "assistant", "content": "Hello, it's <fine>."}


def _call(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(call_id: str, name: str, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": content}


_WEATHER_CALL: Final = _call("abc123def", "get_weather", {"city": "Rome", "days": 2})
_READ_CALL: Final = _call("xyz456uvw", "read", {"path": "a<b>.txt", "lines": [1, 2], "options": {"deep": None}})
_WEATHER_RESULT: Final = _result("abc123def", "get_weather", '{"t": 21, "sky": "<clear>"}')
_READ_RESULT: Final = _result("xyz456uvw", "read", "text & <more>")
_ONE_CALL: Final = {"role": "assistant", "content": "", "tool_calls": [_WEATHER_CALL]}
_TWO_CALLS: Final = {"role": "assistant", "content": "Let me see.", "tool_calls": [_WEATHER_CALL, _READ_CALL]}

CONVERSATIONS: Final[dict[str, dict[str, Any]]] = {
    "a user": {"messages": [_USER]},
    "a system": {"messages": [_SYSTEM, _USER]},
    "turns": {"messages": [_SYSTEM, _USER, _ASSISTANT, _USER]},
    "tools": {"messages": [_SYSTEM, _USER], "tools": _TOOLS},
    "a result": {"messages": [_USER, _ONE_CALL, _WEATHER_RESULT], "tools": _TOOLS},
    "several results": {
        "messages": [_SYSTEM, _USER, _TWO_CALLS, _WEATHER_RESULT, _READ_RESULT, _ASSISTANT, _USER],
        "tools": _TOOLS,
    },
    "reasoning": {
        "messages": [_USER, {**_ASSISTANT, "reasoning_content": "Think <well>."}, _USER],
        "enable_thinking": True,
    },
    "a developer": {"messages": [{**_SYSTEM, "role": "developer"}, _USER]},
    "a reasoned call": {
        "messages": [_USER, {**_ONE_CALL, "reasoning_content": "I need <weather>."}, _WEATHER_RESULT],
        "tools": _TOOLS,
        "enable_thinking": False,
        "reasoning_effort": "low",
    },
}
