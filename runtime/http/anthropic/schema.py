"""Anthropic's messages. Source: Anthropic's API reference, and what its clients send."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..core.sampling_schema import Temperature, TopK, TopP
from ..core.schema import MAX_TOOLS, Count, Json, StopText


class AnthropicTool(Struct, kw_only=True):
    """A tool of the client's; with `defer_loading` the model is told of it once a message refers to it."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    input_schema: Json | None = None
    type: str | None = None
    defer_loading: bool | None = None


class ToolChange(Struct, kw_only=True):
    """Which tool comes or goes: tool_reference (name), or tool_definition (definition)."""

    type: Literal["tool_reference", "tool_definition"]
    name: str | None = None
    definition: AnthropicTool | None = None


class Block(Struct, kw_only=True):
    """A part of a message: text, image, tool_use (id, name, input), tool_result (tool_use_id, content) or thinking.

    An image has `source`: {"type": "base64", "media_type", "data"}. In a result also tool_reference (tool_name); in a
    system message tool_addition and tool_removal (tool).
    """

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Json | None = None
    tool_use_id: str | None = None
    content: str | list[Json] | None = None
    is_error: bool | None = None
    tool_name: str | None = None
    tool: ToolChange | None = None
    source: Json | None = None


class InputMessage(Struct, kw_only=True):
    """A message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class AnthropicToolChoice(Struct, kw_only=True):
    """Whether tools may or must be called; `tool` names one."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Struct, kw_only=True):
    """Whether to think first."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputFormat(Struct, kw_only=True):
    """A JSON schema that the answer must match."""

    type: Literal["json_schema"]
    schema: Json


class OutputConfig(Struct, kw_only=True):
    """What the answer must be, and how much to think of it, where the model's chat template takes that."""

    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class CountRequest(Struct, kw_only=True):
    """`POST /v1/messages/count_tokens`."""

    messages: Annotated[list[InputMessage], Meta(min_length=1)]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: Annotated[list[AnthropicTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Annotated[OutputFormat | None, Meta(description="As output_config.format, its later name.")] = None


class MessagesRequest(CountRequest, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: Count
    stop_sequences: Annotated[list[StopText], Meta(max_length=16)] | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    metadata: Json | None = None


class AnthropicUsage(Struct, kw_only=True):
    """Tokens of output, and of the prompt: those computed for this answer, and apart those that the cache held."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0


class MessageDocument(Struct, kw_only=True):
    """The answer; `content` are blocks: thinking, text, tool_use."""

    id: str
    model: str
    content: list[Json]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    usage: AnthropicUsage
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    stop_sequence: str | None = None


class MessageEvent(Struct, kw_only=True):
    """One event of a stream; further fields depend on its type."""

    type: str


class TokenCount(Struct, kw_only=True):
    """The answer of `POST /v1/messages/count_tokens`."""

    input_tokens: int


class AnthropicErrorDetail(Struct, kw_only=True):
    """What went wrong."""

    type: str
    message: str
    param: str | None
    code: str | None


class AnthropicError(Struct, kw_only=True):
    """An error of /v1/messages."""

    error: AnthropicErrorDetail
    type: Literal["error"] = "error"
