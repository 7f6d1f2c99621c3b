"""The input of OpenAI's responses, as a conversation that chat templates read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from ....artifacts.errors import RequestError, printable
from ...text.call_turns import ToolCall
from ...text.text_tools import input_arguments
from ..core.body import convert
from ..core.conversation import Message
from ..core.errors import NotFoundError, UnsupportedError
from ..core.images import Images, joined_images, with_images
from .messages import read_content
from .response_items import call_message
from .response_schema import InputItem, ResponsesRequest
from .response_store import ResponseStore
from .response_tools import flat_name
from .schema import ContentPart


def read_input(body: ResponsesRequest, store: ResponseStore, client: str) -> tuple[Message, ...]:
    """The conversation that is gone on from, and the input, message by message; see `with_instructions`.

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
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
    else:
        for index, item in enumerate(body.input):
            message = _message(item, f"input[{index}]", lambda item_id: store.item(client, item_id))
            messages += [] if message is None else [message]
    return tuple(messages)


def with_instructions(instructions: str | None, messages: Sequence[Message]) -> tuple[Message, ...]:
    """A conversation as templates take it, behind the instructions: of one response, so they are not kept with it."""
    first: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    return tuple(_joined([*first, *messages]))


# What only OpenAI can read, or has run itself.
_LEFT_OUT = {"reasoning", "compaction", "web_search_call", "tool_search_call", "tool_search_output"}


def _message(item: InputItem, where: str, find: Callable[[str], Message | None]) -> Message | None:
    """An item as a message; None where it is left out."""
    kind = item.type or "message"
    if kind == "message":
        if item.role is None:
            raise RequestError(f"{where}.role", "expected user, assistant, system or developer, found nothing")
        role = "system" if item.role == "developer" else item.role
        images: Images = []
        content = _text(item.content, f"{where}.content", images)
        return with_images({"role": role, "content": content}, images)
    if kind in ("function_call", "custom_tool_call"):
        return _call(item, where)
    if kind in ("function_call_output", "custom_tool_call_output"):
        if item.call_id is None:
            raise RequestError(f"{where}.call_id", "expected a string, found nothing")
        images = []
        content = _text(item.output, f"{where}.output", images)
        return with_images({"role": "tool", "content": content, "tool_call_id": item.call_id}, images)
    if kind == "item_reference":
        found = find(item.id or "")
        if found is None:
            what = f"{where}.id: item {printable(item.id or '', 100)} is not kept; send it whole"
            raise NotFoundError(what, f"{where}.id", "item_not_found")
        return found
    if kind not in _LEFT_OUT:
        raise UnsupportedError(
            f"{where}.type", f"expected message, function_call or the like, found {printable(kind, 60)}"
        )
    return None


def _joined(messages: Iterable[Message]) -> Iterator[Message]:
    """What agents say in several messages and is one to a template, which may have user and assistant take turns."""
    for role, group in groupby(messages, lambda message: message["role"]):
        run = list(group)
        if role == "assistant":
            yield from _with_calls(run)
        elif role == "tool" or len(run) == 1:
            yield from run
        else:
            joined: Message = {"role": role, "content": "\n\n".join(str(message["content"]) for message in run)}
            yield with_images(joined, joined_images(run))


def _with_calls(run: Iterable[Message]) -> Iterator[Message]:
    """Calls that follow each other, or the assistant's text, are of one message."""
    message: Message | None = None
    calls: list[object] = []
    for following in run:
        found = following.get("tool_calls")
        if message is not None and isinstance(found, list) and not following["content"]:
            calls += found
            continue
        if message is not None:
            yield {**message, **({"tool_calls": calls} if calls else {})}
        message, calls = following, [*found] if isinstance(found, list) else []
    if message is not None:
        yield {**message, **({"tool_calls": calls} if calls else {})}


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


def _text(content: str | list[dict[str, object]] | None, where: str, images: Images) -> str:
    if isinstance(content, list):
        parts = [convert(part, ContentPart, f"{where}[{index}]") for index, part in enumerate(content)]
        return read_content(parts, where, images)
    return read_content(content, where, images)
