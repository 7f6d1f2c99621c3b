"""A chat answer as the items of OpenAI's responses, and the events that tell of them as they grow."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import field
from typing import Any

from ....artifacts.dataclass import dataclass
from ...text.call_turns import CallPiece, ToolCall
from ...text.text_tools import TextInput
from ..core.answers import new_call_id
from ..core.chat_answer import AnswerPart
from ..core.conversation import Message
from ..core.logprobs import chat_logprobs
from ..core.text_apis import TokenizerApi
from .response_schema import Event
from .response_tools import ServedTool, Toolbox


@dataclass(slots=True)
class OpenCall:
    """A call that grows: its name and arguments as the model writes them, and the input of a custom tool."""

    name: str
    arguments: str = ""
    input: TextInput = field(default_factory=TextInput)


class ItemBuilder:
    """Builds the items of one response, part by part; each turn is an event without its sequence number."""

    def __init__(self, tokenizer: TokenizerApi, toolbox: Toolbox) -> None:
        self.items: list[dict[str, Any]] = []
        self.messages: dict[str, Message] = {}  # by the ids of items: how they read in a later conversation
        self.reasoning_tokens = 0
        self._tokenizer = tokenizer
        self._toolbox = toolbox
        self._call = OpenCall("")  # the latest
        self._open: dict[str, Any] | None = None  # the item that grows; it is the last

    @property
    def answer(self) -> Message:
        """The whole answer as one message of a conversation."""
        content = "".join(m["content"] for m in self.messages.values() if isinstance(m["content"], str))
        calls = [call for m in self.messages.values() for call in _calls_of(m)]
        return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}

    def add(self, part: AnswerPart) -> Iterator[Event]:
        """Take a part of the answer."""
        if part.reasoning:
            self.reasoning_tokens += part.tokens
            yield from self._grow_reasoning(part.reasoning)
        logprobs = _logprobs(self._tokenizer, part)
        for turn in part.turns:
            if isinstance(turn, str):
                yield from self._grow_text(turn, logprobs)
                logprobs = []
            else:
                yield from self._grow_call(turn)
        if logprobs and not part.turns and self._open is not None and self._open["type"] == "message":
            yield from self._grow_text("", logprobs)
        if part.finish_reason is not None:
            yield from self._close("completed" if part.finish_reason != "length" else "incomplete")

    def _index(self) -> int:
        return len(self.items) - 1

    def _begin(self, item: dict[str, Any]) -> Event:
        self.items.append(item)
        self._open = item
        return {"type": "response.output_item.added", "output_index": self._index(), "item": _copy(item)}

    def _at(self, **more: object) -> dict[str, object]:
        """The fields by which an event names the item that grows."""
        assert self._open is not None  # only called while one does
        return {"item_id": self._open["id"], "output_index": self._index(), **more}

    def _grow_reasoning(self, text: str) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "reasoning":
            yield from self._close("completed")
            yield self._begin({"id": _new_id("rs"), "type": "reasoning", "summary": []})
            part = {"type": "summary_text", "text": ""}
            self.items[-1]["summary"].append(dict(part))
            at = self._at(summary_index=0, part=part)
            yield {"type": "response.reasoning_summary_part.added", **at}
        self.items[-1]["summary"][0]["text"] += text
        yield {"type": "response.reasoning_summary_text.delta", **self._at(summary_index=0, delta=text)}

    def _grow_text(self, text: str, logprobs: list[object]) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "message":
            if not text.strip() and not logprobs:
                return  # white space around reasoning and calls makes no message
            yield from self._close("completed")
            message = {"id": _new_id("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
            yield self._begin({**message, "content": []})
            empty = _text_part("")
            self.items[-1]["content"].append(_text_part(""))
            yield {"type": "response.content_part.added", **self._at(content_index=0, part=empty)}
        content = self.items[-1]["content"][0]
        content["text"] += text
        content["logprobs"] += logprobs
        yield {"type": "response.output_text.delta", **self._at(content_index=0, delta=text, logprobs=logprobs)}

    def _grow_call(self, piece: CallPiece) -> Iterator[Event]:
        if piece.name is not None:
            yield from self._close("completed")
            self._call = OpenCall(piece.name)
            yield self._begin(_call_item(self._toolbox.find(piece.name), piece.name))
        self._call.arguments += piece.arguments
        if piece.arguments or piece.whole:
            yield from self._grow_input(piece)
        if piece.whole:
            yield from self._close("completed", whole=True)

    def _grow_input(self, piece: CallPiece) -> Iterator[Event]:
        custom = self.items[-1]["type"] == "custom_tool_call"
        text, key, kind = piece.arguments, "arguments", "function_call_arguments"
        if custom:
            text, key, kind = self._call.input.push(text), "input", "custom_tool_call_input"
            text += self._call.input.flush() if piece.whole else ""
        if text:
            self.items[-1][key] += text
            yield {"type": f"response.{kind}.delta", **self._at(delta=text)}

    def _close(self, status: str, whole: bool = False) -> Iterator[Event]:
        """End the item that grows, if one does; `whole`: it is a call, and its arguments are an object."""
        item = self._open
        if item is None:
            return
        if item["type"] == "message":
            part = item["content"][0]
            at = self._at(content_index=0, text=part["text"], logprobs=part["logprobs"])
            yield {"type": "response.output_text.done", **at}
            yield {"type": "response.content_part.done", **self._at(content_index=0, part=_copy(part))}
            self.messages[item["id"]] = {"role": "assistant", "content": part["text"]}
        elif item["type"] == "reasoning":
            part = item["summary"][0]
            yield {"type": "response.reasoning_summary_text.done", **self._at(summary_index=0, text=part["text"])}
            yield {"type": "response.reasoning_summary_part.done", **self._at(summary_index=0, part=_copy(part))}
        else:
            if item["type"] == "custom_tool_call":
                yield {"type": "response.custom_tool_call_input.done", **self._at(input=item["input"])}
            else:
                at = self._at(arguments=item["arguments"], name=item["name"])
                yield {"type": "response.function_call_arguments.done", **at}
            status = "completed" if whole else "incomplete"
            name, arguments = self._call.name, self._call.arguments
            broken: Message = {"role": "assistant", "content": ToolCall(name, arguments, whole).text}
            self.messages[item["id"]] = call_message(item["call_id"], name, arguments) if whole else broken
        if "status" in item:
            item["status"] = status
        yield {"type": "response.output_item.done", "output_index": self._index(), "item": _copy(item)}
        self._open = None


def call_message(call_id: str, name: str, arguments: str) -> Message:
    """A call of the assistant's, as a message of a conversation; `arguments` is the text of a JSON object."""
    function = {"name": name, "arguments": json.loads(arguments or "{}")}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def _call_item(tool: ServedTool | None, name: str) -> dict[str, Any]:
    """The item of a call that begins; the model may call what is no tool."""
    custom = tool is not None and tool.kind == "custom"
    return {
        "id": _new_id("ctc" if custom else "fc"),
        "type": "custom_tool_call" if custom else "function_call",
        "call_id": new_call_id(),
        "name": name if tool is None else tool.name,
        **({"namespace": tool.namespace} if tool is not None and tool.namespace else {}),
        "input" if custom else "arguments": "",
        "status": "in_progress",
    }


def _calls_of(message: Message) -> list[object]:
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else []


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _logprobs(tokenizer: TokenizerApi, part: AnswerPart) -> list[object]:
    return list(chat_logprobs(tokenizer, [part.logprobs]).content) if part.logprobs else []


def _copy(item: dict[str, Any]) -> dict[str, Any]:
    """As it is now: an event must not change with the item."""
    return {key: list(value) if isinstance(value, list) else value for key, value in item.items()}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"
