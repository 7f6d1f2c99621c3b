"""Ollama's API. Sources: its API reference, the types of its Python client 0.6, and CLIENTS.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from ..core.sampling_schema import REPEAT_LAST_N, REPEAT_NAMES, Temperature, TopP, with_numbers
from ..core.schema import (
    MAX_TOKENS_LIMIT,
    MAX_TOOLS,
    UNSET,
    Count,
    Json,
    Pooling,
    Seed,
    Stop,
    Tool,
    TopLogprobs,
    Unset,
)

Text = Annotated[str, Meta(min_length=1)]
KeepAlive = float | str
Format = Json | str
Think = bool | str
Predict = Annotated[int, Meta(ge=-2, le=MAX_TOKENS_LIMIT, description="Tokens to make; 0, -1 or -2: no limit.")]


if TYPE_CHECKING:
    _Numbers = Struct
else:
    _Numbers = with_numbers("_Numbers", names=REPEAT_NAMES, beside=REPEAT_LAST_N)


class OllamaOptions(_Numbers, kw_only=True):
    """Conditions of sampling. Those of loading (`num_ctx`, `num_gpu` and others) are fixed by the bundle."""

    seed: Seed | None = None
    stop: Stop | None = None
    num_predict: Predict | None = None
    mirostat: int | None = None


class GeneratingFields(Struct, kw_only=True):
    """What chat and generate share; the numbers beside `options` are those of the AI SDK's provider."""

    model: Text
    stream: bool | None = None
    format: Format | None = None
    options: OllamaOptions | None = None
    keep_alive: KeepAlive | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_output_tokens: Count | None = None


class OllamaCalledFunction(Struct, kw_only=True):
    """A call in a conversation; `arguments` is an object."""

    name: str
    arguments: Json | str | None = None


class OllamaCalledTool(Struct, kw_only=True):
    """A call that the assistant made earlier."""

    function: OllamaCalledFunction
    id: str | None = None


class OllamaMessage(Struct, kw_only=True):
    """A message of a conversation; `tool_name` says whose result a tool's message is."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[OllamaCalledTool] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaChatRequest(GeneratingFields, kw_only=True):
    """`POST /api/chat`; without messages it loads the model, or unloads it with `keep_alive` 0."""

    messages: list[OllamaMessage] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None


class OllamaGenerateRequest(GeneratingFields, kw_only=True):
    """`POST /api/generate`; without a prompt it loads the model, or unloads it with `keep_alive` 0."""

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    template: str | None = None
    raw: bool | None = None
    images: list[Any] | None = None
    context: list[int] | None = None


class OllamaEmbedRequest(Struct, kw_only=True):
    """`POST /api/embed`."""

    model: Text
    input: str | list[str]
    truncate: bool | None = None
    dimensions: Count | None = None
    keep_alive: KeepAlive | None = None
    pooling: Pooling | None = None


class OllamaEmbeddingsRequest(Struct, kw_only=True):
    """`POST /api/embeddings`, the older form of `/api/embed`."""

    model: Text
    prompt: str | None = None
    keep_alive: KeepAlive | None = None
    pooling: Pooling | None = None


class ModelRequest(Struct, kw_only=True):
    """A request that names a model; `name` is the older word for `model`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


class Durations(Struct, kw_only=True):
    """What the last line, or a whole answer, counts; durations are in nanoseconds."""

    total_duration: int | Unset = UNSET
    load_duration: int | Unset = UNSET
    prompt_eval_count: int | Unset = UNSET
    prompt_eval_duration: int | Unset = UNSET
    eval_count: int | Unset = UNSET
    eval_duration: int | Unset = UNSET


DoneReason = Literal["stop", "length", "load", "unload"]


class Line(Durations, kw_only=True):
    """What all lines and answers have."""

    model: str
    created_at: str
    done: bool
    done_reason: DoneReason | Unset = UNSET


class AnswerFunction(Struct, kw_only=True):
    """A function to be called; `arguments` is an object."""

    name: str
    arguments: Json
    index: int | Unset = UNSET


class AnswerToolCall(Struct, kw_only=True):
    """A tool that is to be called."""

    function: AnswerFunction
    id: str | Unset = UNSET


class OllamaAnswerMessage(Struct, kw_only=True):
    """What the model said, or in a stream a part of it."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    thinking: str | Unset = UNSET
    tool_calls: list[AnswerToolCall] | Unset = UNSET


class ChatLine(Line, kw_only=True):
    """The answer of `/api/chat`, or one line of its stream."""

    message: OllamaAnswerMessage
    logprobs: list[Any] | Unset = UNSET


class GenerateLine(Line, kw_only=True):
    """The answer of `/api/generate`, or one line of its stream; `context` is always empty."""

    response: str
    thinking: str | Unset = UNSET
    context: list[int] = []
    logprobs: list[Any] | Unset = UNSET


class EmbedAnswer(Struct, kw_only=True):
    """The answer of `/api/embed`."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class EmbeddingsAnswer(Struct, kw_only=True):
    """The answer of `/api/embeddings`."""

    embedding: list[float]


class Details(Struct, kw_only=True):
    """What a model is."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(Struct, kw_only=True):
    """A model that can be served."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class TagList(Struct, kw_only=True):
    """`GET /api/tags`."""

    models: list[Tag]


class RunningModel(Struct, kw_only=True):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class RunningList(Struct, kw_only=True):
    """`GET /api/ps`."""

    models: list[RunningModel]


class Version(Struct, kw_only=True):
    """`GET /api/version`: integers with dots between them."""

    version: str


class ShowAnswer(Struct, kw_only=True):
    """`POST /api/show`."""

    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: Json
    capabilities: list[str]
    modified_at: str
    license: str | Unset = UNSET


class StatusLine(Struct, kw_only=True):
    """One line of what `/api/pull` does."""

    status: str


class TextError(Struct, kw_only=True):
    """An error of /api."""

    error: str
