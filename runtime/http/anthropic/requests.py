"""Anthropic's messages, as a conversation that chat templates read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from ....artifacts.errors import RequestError
from ...text.constraints import ConstraintSpec
from ...text.continuation import continues
from ..core.body import convert
from ..core.conversation import Conversation, Message
from ..core.errors import UnsupportedError
from ..core.generation_params import GenerationParams
from ..core.images import Images, add_image, with_images
from .schema import Block, CountRequest, InputMessage, MessagesRequest
from .tools import TOOL_ADDITION, TOOL_REFERENCE, TOOL_REMOVAL, read_tools

_EFFORTS = {"xhigh": "high", "max": "high"}  # of templates' low, medium and high


def read_conversation(body: CountRequest, vocab_size: int) -> Conversation:
    """The conversation of a request, or of a count.

    Raises:
        RequestError: names the field at fault.
    """
    messages: list[Message] = []
    if body.system:
        images: Images = []
        messages.append(with_images({"role": "system", "content": _text(body.system, "system", images)}, images))
    for index, message in enumerate(body.messages):
        messages += _messages(message, f"messages[{index}]")
    tools, choice = read_tools(body)
    parallel = not (body.tool_choice and body.tool_choice.disable_parallel_tool_use)
    params = _params(body, vocab_size) if isinstance(body, MessagesRequest) else GenerationParams()
    read, thinking = tuple(messages), _thinking(body)
    return Conversation(read, params, tools, choice, parallel, thinking, continue_final=continues(read))


def _thinking(body: CountRequest) -> dict[str, object]:
    """Variables of the chat template: whether to think, and how much, in the words that templates know."""
    effort = body.output_config and body.output_config.effort
    variables: dict[str, object] = {"reasoning_effort": _EFFORTS.get(effort, effort)} if effort else {}
    if body.thinking is not None:
        variables["enable_thinking"] = body.thinking.type != "disabled"
    return variables


def _params(body: MessagesRequest, vocab_size: int) -> GenerationParams:
    default = GenerationParams()
    sampling = replace(
        default.sampling,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=min(max(body.top_k or 0, 0), vocab_size),
    )
    return GenerationParams(body.max_tokens, sampling, tuple(body.stop_sequences or ()), constraint=_constraint(body))


def _constraint(body: CountRequest) -> ConstraintSpec | None:
    now, before = body.output_config and body.output_config.format, body.output_format
    if now and before:
        raise RequestError("output_format", "expected none beside output_config.format")
    if now:
        return ConstraintSpec("json_schema", now.schema, "output_config.format")
    return ConstraintSpec("json_schema", before.schema, "output_format") if before else None


# Blocks that the model does not read: its former thoughts, and changes of the tools that it is told of.
_SILENT = ("thinking", "redacted_thinking", TOOL_ADDITION, TOOL_REMOVAL)


def _messages(message: InputMessage, where: str) -> list[Message]:
    """Results of tools are messages of their own here, and come before the text that stands beside them."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    results: list[Message] = []
    texts: list[str] = []
    calls: list[object] = []
    images: Images = []
    for index, block in enumerate(message.content):
        at = f"{where}.content[{index}]"
        if block.type == "text":
            texts.append(_block_text(block, at))
        elif block.type == "image":
            texts.append(_image(block, at, images, "only text, tool_use and tool_result are supported"))
        elif block.type == "tool_use":
            calls.append(_call(block, at))
        elif block.type == "tool_result":
            results.append(_result(block, at))
        elif block.type not in _SILENT:
            raise UnsupportedError(f"{at}.type", "only text, tool_use and tool_result are supported")
    answer: Message = {
        "role": message.role,
        "content": _joined(texts, images),
        **({"tool_calls": calls} if calls else {}),
    }
    silent = results or message.role == "system"  # which may do nothing but add and remove tools
    return [*results, with_images(answer, images)] if texts or calls or not silent else results


def _call(block: Block, where: str) -> dict[str, object]:
    if not block.name or not block.id:
        raise RequestError(where, "expected id and name")
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input or {}}}


def _result(block: Block, where: str) -> Message:
    if not block.tool_use_id:
        raise RequestError(f"{where}.tool_use_id", "expected a string, found nothing")
    images: Images = []
    content = block.content
    if not isinstance(content, str):
        at = f"{where}.content"
        parts = [convert(part, Block, f"{at}[{index}]") for index, part in enumerate(content or ())]
        content = _text(parts, at, images)
    return with_images({"role": "tool", "content": content, "tool_call_id": block.tool_use_id}, images)


def _image(block: Block, where: str, images: Images, refusal: str) -> str:
    """Return the mark of an image."""
    source = block.source or {}
    given = source.get("data") if source.get("type") == "base64" else source.get("url")
    return add_image(images, given, f"{where}.source", (f"{where}.type", refusal))


def _text(content: str | Sequence[Block], where: str, images: Images) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(content):
        if block.type == TOOL_REFERENCE and block.tool_name:  # of a search for tools
            texts.append(block.tool_name)
            continue
        if block.type == "image":
            texts.append(_image(block, f"{where}[{index}]", images, "only text is supported"))
            continue
        if block.type != "text":
            raise UnsupportedError(f"{where}[{index}].type", "only text is supported")
        texts.append(_block_text(block, f"{where}[{index}]"))
    return _joined(texts, images)


def _joined(texts: Sequence[str], images: Images) -> str:
    """Return texts, a line each, and images among them, which are no lines."""
    marks = {image.given.mark for image in images}
    pieces = list(texts[:1])
    for before, text in itertools.pairwise(texts):
        pieces += [text] if marks & {before, text} else ["\n", text]
    return "".join(pieces)


def _block_text(block: Block, where: str) -> str:
    if block.text is None:
        raise RequestError(f"{where}.text", "expected a string, found nothing")
    return block.text
