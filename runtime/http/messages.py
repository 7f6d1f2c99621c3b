"""Chat messages as clients send them, in the one form that chat templates read."""

from __future__ import annotations

from ..generation import RequestError
from .body import Fields, wrong
from .errors import UnsupportedError

# "developer" is what newer OpenAI clients call "system"; templates know the older name.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def read_messages(values: list[object]) -> tuple[dict[str, object], ...]:
    """Validate a conversation.

    Returns:
        One dict a message: "role", "content" (text), and where given "name", "tool_calls", "tool_call_id".

    Raises:
        RequestError: names the message and field at fault.
    """
    if not values:
        raise RequestError("messages", "expected at least one message, found none")
    return tuple(_message(value, f"messages[{i}]") for i, value in enumerate(values))


def _message(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise wrong(where, "an object", value)
    fields = Fields(value, f"{where}.")
    role = fields.text("role")
    if role not in _ROLES:
        raise wrong(f"{where}.role", "system, developer, user, assistant or tool", role)
    message: dict[str, object] = {
        "role": _ROLES[role],
        "content": _content(fields.get("content"), f"{where}.content"),
    }
    for name in ("name", "tool_call_id"):
        text = fields.optional_text(name)
        if text is not None:
            message[name] = text
    if fields.get("tool_calls") is not None:
        message["tool_calls"] = fields.array("tool_calls")
    return message


def _content(value: object, where: str) -> str:
    """A string, null, or parts that are all text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong(where, "a string, an array of parts, or null", value)
    return "".join(_part(part, f"{where}[{i}]") for i, part in enumerate(value))


def _part(value: object, where: str) -> str:
    if not isinstance(value, dict):
        raise wrong(where, "an object", value)
    fields = Fields(value, f"{where}.")
    if fields.text("type") != "text":
        raise UnsupportedError(f"{where}.type", "only text parts are supported")
    return fields.text("text")
