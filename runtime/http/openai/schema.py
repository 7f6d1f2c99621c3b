"""OpenAI's chat completions, completions, models, embeddings. Source: OpenAI's API reference and CLIENTS.md."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from ..core.schema import (
    MAX_TOOLS,
    UNSET,
    ChatLogprobs,
    Choices,
    CountOrAll,
    EmbeddingFields,
    FinishReason,
    Json,
    LlamaTimings,
    SamplingFields,
    StreamOptions,
    TokenIds,
    Tool,
    TopLogprobs,
    Unset,
)

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(Struct, kw_only=True):
    """A part of a message: text, or of a model that sees an image (image_url: a data: URL, or an object with `url`)."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | Json | None = None
    file_id: str | None = None


class CalledFunction(Struct, kw_only=True):
    """A call in a conversation; `arguments` is the text of a JSON object."""

    name: str
    arguments: str | Json | None = None


class MessageToolCall(Struct, kw_only=True):
    """A call that the assistant made earlier."""

    function: CalledFunction
    id: str | None = None
    type: str | None = None


class ChatMessage(Struct, kw_only=True):
    """A message of a conversation."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class NamedFunction(Struct, kw_only=True):
    """The name of a function."""

    name: str


class NamedTool(Struct, kw_only=True):
    """The one function that must be called."""

    function: NamedFunction
    type: str | None = None


class ChatRequest(SamplingFields, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    model: str | None = None
    max_tokens: CountOrAll | None = None  # but 0
    max_completion_tokens: CountOrAll | None = None
    n: Choices | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    prompt_logprobs: TopLogprobs | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | Literal["content", "reasoning_content"] | None = None
    chat_template_kwargs: Json | None = None
    chat_template: str | None = None  # refused
    timings_per_token: bool | None = None  # of llama.cpp's clients, and so is what follows
    verbose: bool | None = None


Prompt = str | TokenIds | list[str] | list[TokenIds]


class CompletionRequest(SamplingFields, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Any  # described by `Prompt`; JSON schema's union of arrays is not one that msgspec tells apart
    model: str | None = None
    max_tokens: CountOrAll | None = None
    n: Choices | None = None
    best_of: Choices | None = None
    echo: bool | None = None
    suffix: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: TopLogprobs | None = None
    prompt_logprobs: TopLogprobs | None = None
    parse_special: bool | None = None


class Usage(Struct, kw_only=True):
    """Tokens of prompt and output."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class CompletionLogprobs(Struct, kw_only=True):
    """Log-probabilities of a completion's choice; null where the prompt begins."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptLogprob(Struct, kw_only=True):
    """What vLLM says of a token at a place of the prompt; the likeliest there has the rank 1."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class FunctionCall(Struct, kw_only=True):
    """A call; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class ToolCall(Struct, kw_only=True):
    """A tool that is to be called."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class FunctionDelta(Struct, kw_only=True):
    """A part of a call: the name comes first and once."""

    arguments: str
    name: str | Unset = UNSET


class ToolCallDelta(Struct, kw_only=True):
    """A part of a call in a stream."""

    index: int
    function: FunctionDelta
    id: str | Unset = UNSET
    type: Literal["function"] | Unset = UNSET


class AnswerMessage(Struct, kw_only=True):
    """What the model answered."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | Unset = UNSET
    tool_calls: list[ToolCall] | Unset = UNSET


class Delta(Struct, kw_only=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | Unset = UNSET
    content: str | Unset | None = UNSET
    reasoning_content: str | Unset = UNSET
    tool_calls: list[ToolCallDelta] | Unset = UNSET


class ChatChoice(Struct, kw_only=True):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None


class ChunkChoice(Struct, kw_only=True):
    """A part of one of `n` answers."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogprobs | None = None


class CompletionChoice(Struct, kw_only=True):
    """A text, or in a stream a part of one."""

    text: str
    index: int
    finish_reason: FinishReason | None = None
    logprobs: CompletionLogprobs | None = None
    prompt_logprobs: PromptLogprobs | Unset = UNSET


class Verbose(Struct, kw_only=True):
    """What a client of llama.cpp asks for by `verbose`: the prompt that the model has read."""

    prompt: str


class ChatCompletion(Struct, kw_only=True):
    """The answer of `POST /v1/chat/completions`."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | Unset = UNSET
    object: Literal["chat.completion"] = "chat.completion"
    system_fingerprint: str | Unset = UNSET
    timings: LlamaTimings | Unset = UNSET
    verbose: Verbose | Unset = field(default=UNSET, name="__verbose")


class ChatChunk(Struct, kw_only=True):
    """One event of the stream of `POST /v1/chat/completions`."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    system_fingerprint: str | Unset = UNSET
    usage: Usage | Unset | None = UNSET
    timings: LlamaTimings | Unset = UNSET


class Completion(Struct, kw_only=True):
    """The answer of `POST /v1/completions`, or one event of its stream."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    object: Literal["text_completion"] = "text_completion"
    system_fingerprint: str | Unset = UNSET
    usage: Usage | Unset | None = UNSET


class EmbeddingsRequest(EmbeddingFields, kw_only=True):
    """Texts, each as a string or as token ids, to be turned into vectors of length 1."""

    input: Any  # a string, token ids, or an array of these; also as llama.cpp's prompts are
    encoding_format: Literal["float", "base64"] | None = None


class Embedding(Struct, kw_only=True):
    """One vector: numbers, or base64 of little-endian float32."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(Struct, kw_only=True):
    """Tokens of all texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, kw_only=True):
    """The answer."""

    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


class ErrorDetail(Struct, kw_only=True):
    """What went wrong, as /v1 says it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct, kw_only=True):
    """An error of /v1."""

    error: ErrorDetail
