"""OpenAI's responses. Source: OpenAI's API reference, and what its clients validate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..core.sampling_schema import Temperature, TopP
from ..core.schema import MAX_TOOLS, UNSET, Count, Json, TopLogprobs, Unset


class InputItem(Struct, kw_only=True):
    """One item of `input`; which fields it has depends on its type.

    message (or no type): role, content. function_call: name, namespace, arguments, call_id. custom_tool_call: the same,
    but input instead of arguments. function_call_output, custom_tool_call_output: call_id, output. item_reference: id.
    reasoning: left out of the prompt, as are searches that OpenAI made.
    """

    type: str | None = None
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Json] | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    call_id: str | None = None
    output: str | list[Json] | None = None


class TextFormat(Struct, kw_only=True):
    """What the output must be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: Json | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(Struct, kw_only=True):
    """Options of the output's text."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(Struct, kw_only=True):
    """How much to think."""

    effort: str | None = None
    summary: str | None = None


class CustomFormat(Struct, kw_only=True):
    """What the text that a custom tool takes must be."""

    type: str
    syntax: Literal["lark", "regex"] | Unset = UNSET
    definition: str | Unset = UNSET


class ResponseTool(Struct, kw_only=True):
    """A tool: function, custom, or namespace, which has `tools`. Others are left out."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None
    format: CustomFormat | Unset | None = UNSET
    tools: list[ResponseTool] | Unset | None = UNSET


class ToolChoiceFunction(Struct, kw_only=True):
    """The tool that must be called."""

    type: str
    name: str | None = None
    namespace: str | Unset | None = UNSET


class ResponsesRequest(Struct, kw_only=True):
    """`POST /v1/responses`."""

    input: str | Annotated[list[InputItem], Meta(min_length=1)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: TopLogprobs | None = None
    include: list[str] | None = None
    stream: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    tools: Annotated[list[ResponseTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    metadata: Json | None = None
    user: str | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None  # refused, and so are those that follow
    conversation: str | Json | None = None
    prompt: Json | None = None


class InputDetails(Struct, kw_only=True):
    """Of the prompt's tokens."""

    cached_tokens: int = 0


class OutputDetails(Struct, kw_only=True):
    """Of the output's tokens."""

    reasoning_tokens: int = 0


class ResponseUsage(Struct, kw_only=True):
    """Tokens of prompt and output."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails


class ResponseError(Struct, kw_only=True):
    """Why it failed."""

    code: str
    message: str


class ResponseDocument(Struct, kw_only=True):
    """A response; `output` are its items: reasoning, message, function_call, custom_tool_call.

    `warnings` are there where tools were left out.
    """

    id: str
    created_at: int
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    output: list[Json]
    object: Literal["response"] = "response"
    error: ResponseError | None = None
    incomplete_details: Json | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: Json | None = None
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    reasoning: ReasoningOptions | None = None
    store: bool = True
    temperature: float = 1.0
    text: TextOptions | None = None
    tool_choice: str | ToolChoiceFunction = "auto"
    tools: list[ResponseTool] = []
    top_p: float = 1.0
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | Unset = UNSET
    warnings: list[str] | Unset = UNSET


class ResponseEvent(Struct, kw_only=True):
    """One event of a stream; further fields depend on its type."""

    type: str
    sequence_number: int


class DeletedResponse(Struct, kw_only=True):
    """The answer of `DELETE /v1/responses/{response_id}`."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


Event = dict[str, Any]
