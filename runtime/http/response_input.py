"""The input of OpenAI's responses, as a conversation that chat templates read."""

from __future__ import annotations

import json
from collections.abc import Callable

from ...artifacts.errors import printable
from ..generation import RequestError
from ..text_tools import input_arguments
from ..tool_calls import ToolCall
from .body import convert
from .conversation import Message
from .errors import NotFoundError, UnsupportedError
from .messages import read_content
from .response_items import call_message
from .response_store import ResponseStore
from .response_tools import flat_name
from .schema.openai import ContentPart
from .schema.responses import InputItem, ResponsesRequest


def read_input(body: ResponsesRequest, store: ResponseStore, client: str) -> tuple[Message, ...]:
    """Instructions, the conversation that is gone on from, and the input.

    Raises:
        RequestError: names the item at fault.
        NotFoundError: a response or an item that is named is not kept.
    """
    messages: list[Message] = []
    if body.previous_response_id is not None:
        before = store.get(client, body.previous_response_id)
        if before is None:
            what = f"response {printable(body.previous_response_id, 100)} is not kept"
            raise NotFoundError(what, "previous_response_id", "previous_response_not_found")
        messages += before.messages
    if body.instructions:
        # Those of an earlier response do not go on: what is now is said first.
        messages = [message for message in messages if message["role"] != "system"]
        messages.insert(0, {"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        for index, item in enumerate(body.input):
            _add(messages, item, f"input[{index}]", lambda item_id: store.item(client, item_id))
    return tuple(messages)


# What only OpenAI can read, or has run itself.
_LEFT_OUT = {"reasoning", "compaction", "web_search_call", "tool_search_call", "tool_search_output"}


def _add(messages: list[Message], item: InputItem, where: str, find: Callable[[str], Message | None]) -> None:
    kind = item.type or "message"
    if kind == "message":
        if item.role is None:
            raise RequestError(f"{where}.role", "expected user, assistant, system or developer, found nothing")
        role = "system" if item.role == "developer" else item.role
        _add_text(messages, role, _text(item.content, f"{where}.content"))
    elif kind in ("function_call", "custom_tool_call"):
        _add_call(messages, _call(item, where))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        if item.call_id is None:
            raise RequestError(f"{where}.call_id", "expected a string, found nothing")
        content = _text(item.output, f"{where}.output")
        messages.append({"role": "tool", "content": content, "tool_call_id": item.call_id})
    elif kind == "item_reference":
        found = find(item.id or "")
        if found is None:
            what = f"{where}.id: item {printable(item.id or '', 100)} is not kept; send it whole"
            raise NotFoundError(what, f"{where}.id", "item_not_found")
        _add_call(messages, found)
    elif kind not in _LEFT_OUT:
        raise UnsupportedError(
            f"{where}.type", f"expected message, function_call or the like, found {printable(kind, 60)}"
        )


def _add_text(messages: list[Message], role: str, text: str) -> None:
    """Agents say in several messages what is one to a template that has user and assistant take turns."""
    if role != "assistant" and messages and messages[-1]["role"] == role:
        text = f"{messages.pop()['content']}\n\n{text}"
    messages.append({"role": role, "content": text})


def _add_call(messages: list[Message], message: Message) -> None:
    """Calls that follow each other are of one message."""
    last = messages[-1] if messages else None
    calls = message.get("tool_calls")
    if last is not None and last["role"] == "assistant" and isinstance(calls, list):
        before = last.get("tool_calls")
        messages[-1] = {**last, "tool_calls": [*(before if isinstance(before, list) else ()), *calls]}
    else:
        messages.append(message)


def _call(item: InputItem, where: str) -> Message:
    if item.name is None or item.call_id is None:
        raise RequestError(where, "expected name and call_id")
    name = flat_name(item.name, item.namespace)
    if item.type == "custom_tool_call":
        return call_message(item.call_id, name, input_arguments(item.input or ""))
    try:
        arguments = json.loads(item.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):  # the model has broken it off, and clients send that back too
        return {"role": "assistant", "content": ToolCall(name, item.arguments or "", whole=False).text}
    return call_message(item.call_id, name, json.dumps(arguments))


def _text(content: str | list[dict[str, object]] | None, where: str) -> str:
    if isinstance(content, list):
        return read_content([convert(part, ContentPart) for part in content], where)
    return read_content(content, where)
