"""Anthropic's messages, as a conversation that chat templates read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..generation import RequestError
from .body import convert
from .conditions import Conditions
from .conversation import Conversation, Message, ToolChoice, choose_tool
from .errors import UnsupportedError
from .schema.anthropic import Block, CountRequest, InputMessage, MessagesRequest
from .schema.common import FunctionTool


def read_conversation(body: CountRequest, vocab_size: int) -> Conversation:
    """The conversation of a request, or of a count.

    Raises:
        RequestError: names the field at fault.
    """
    messages: list[Message] = []
    if body.system:
        messages.append({"role": "system", "content": _text(body.system, "system")})
    for index, message in enumerate(body.messages):
        messages += _messages(message, f"messages[{index}]")
    tools, choice = _tools(body)
    parallel = not (body.tool_choice and body.tool_choice.disable_parallel_tool_use)
    thinking = {} if body.thinking is None else {"enable_thinking": body.thinking.type != "disabled"}
    conditions = _conditions(body, vocab_size) if isinstance(body, MessagesRequest) else Conditions()
    return Conversation(tuple(messages), conditions, tools, choice, parallel, thinking)


def _conditions(body: MessagesRequest, vocab_size: int) -> Conditions:
    default = Conditions()
    sampling = replace(
        default.sampling,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=min(max(body.top_k or 0, 0), vocab_size),
    )
    return Conditions(body.max_tokens, sampling, tuple(body.stop_sequences or ()))


def _tools(body: CountRequest) -> tuple[tuple[FunctionTool, ...], ToolChoice]:
    tools = []
    for index, tool in enumerate(body.tools or ()):
        if tool.type not in (None, "custom"):
            raise UnsupportedError(f"tools[{index}].type", "only the client's own tools are supported")
        tools.append(FunctionTool(name=tool.name, description=tool.description, parameters=tool.input_schema))
    choice = body.tool_choice
    if choice is None:
        return choose_tool(tools, None, None, "tool_choice")
    if choice.type == "tool":
        return choose_tool(tools, None, choice.name or "", "tool_choice.name")
    return choose_tool(tools, "required" if choice.type == "any" else choice.type, None, "tool_choice")


def _messages(message: InputMessage, where: str) -> list[Message]:
    """Results of tools are messages of their own here, and come before the text that stands beside them."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[Message] = []
    texts: list[str] = []
    calls: list[object] = []
    for index, block in enumerate(message.content):
        at = f"{where}.content[{index}]"
        if block.type == "text":
            texts.append(_block_text(block, at))
        elif block.type == "tool_use":
            calls.append(_call(block, at))
        elif block.type == "tool_result":
            results.append(_result(block, at))
        elif block.type not in ("thinking", "redacted_thinking"):
            raise UnsupportedError(f"{at}.type", "only text, tool_use and tool_result are supported")
    answer: Message = {"role": message.role, "content": "\n".join(texts), **({"tool_calls": calls} if calls else {})}
    return [*results, answer] if texts or calls or not results else results


def _call(block: Block, where: str) -> dict[str, object]:
    if not block.name or not block.id:
        raise RequestError(where, "expected id and name")
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input or {}}}


def _result(block: Block, where: str) -> Message:
    if not block.tool_use_id:
        raise RequestError(f"{where}.tool_use_id", "expected a string, found nothing")
    content = block.content
    if not isinstance(content, str):
        content = _text([convert(part, Block) for part in content or ()], f"{where}.content")
    return {"role": "tool", "content": content, "tool_call_id": block.tool_use_id}


def _text(content: str | Sequence[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(content):
        if block.type != "text":
            raise UnsupportedError(f"{where}[{index}].type", "only text is supported")
        texts.append(_block_text(block, f"{where}[{index}]"))
    return "\n".join(texts)


def _block_text(block: Block, where: str) -> str:
    if block.text is None:
        raise RequestError(f"{where}.text", "expected a string, found nothing")
    return block.text
