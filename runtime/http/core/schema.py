"""What the schemas of several APIs share: the numbers that steer sampling, tools, and constraints on output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ....artifacts.layout import MAX_ADAPTERS
from ....artifacts.sampling import MAX_BIAS
from ...engine.checks import MAX_SCALE
from .sampling_schema import RepetitionPenalty, with_numbers

MAX_TOKENS_LIMIT = 2**31 - 1
MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_TOP_LOGPROBS = 20
MAX_CHOICES = 16
MAX_TOOLS = 128

Unset = msgspec.UnsetType
UNSET = msgspec.UNSET

Json = dict[str, Any]
"""An object whose fields are not ours to know."""

Count = Annotated[int, Meta(ge=1, le=MAX_TOKENS_LIMIT)]
CountOrZero = Annotated[int, Meta(ge=0, le=MAX_TOKENS_LIMIT)]
CountOrAll = Annotated[int, Meta(ge=-1, le=MAX_TOKENS_LIMIT, description="-1: what the context leaves.")]
# 64 bits, signed or not. JSON schema's validators need numbers that a double can hold, so the lower half is not named.
Seed = int
StopText = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]
Stop = StopText | Annotated[list[StopText], Meta(max_length=MAX_STOPS)]
TopLogprobs = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
Choices = Annotated[int, Meta(ge=1, le=MAX_CHOICES)]
TokenIds = list[Annotated[int, Meta(ge=0, le=MAX_TOKENS_LIMIT)]]


class JsonSchemaFormat(Struct, kw_only=True):
    """A JSON schema, with the name that OpenAI's clients give it."""

    schema: Json
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True):
    """What the output must be; `schema` beside the type is llama.cpp's and LM Studio's form."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaFormat | None = None
    schema: Json | None = None


if TYPE_CHECKING:
    _Numbers = Struct
else:
    _Numbers = with_numbers("_Numbers")


class LoraScale(Struct, kw_only=True):
    """An adapter by its number, as `/lora-adapters` has it, and what it is multiplied by; 0: it is not used."""

    id: Annotated[int, Meta(ge=0, le=MAX_ADAPTERS - 1)]
    scale: Annotated[float, Meta(ge=-MAX_SCALE, le=MAX_SCALE)] = 0.0


LoraScales = Annotated[list[LoraScale], Meta(max_length=MAX_ADAPTERS)]


class SamplingFields(_Numbers, kw_only=True):
    """How tokens are drawn and when they end: fields that every generating endpoint takes.

    `repeat_penalty` and `repeat_last_n` are llama.cpp's and LM Studio's words, which their clients say on /v1 too.
    """

    repeat_penalty: RepetitionPenalty | None = None
    repeat_last_n: int | None = None
    seed: Seed | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-MAX_BIAS, le=MAX_BIAS)]] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[TokenIds, Meta(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None
    json_schema: Annotated[Json, Meta(description="The output must match this schema.")] | None = None
    regex: Annotated[str, Meta(description="The output must match this expression.")] | None = None
    grammar: Annotated[str, Meta(description="The output must match this grammar: GBNF, or Lark's.")] | None = None
    lora: LoraScales | None = None


class StreamOptions(Struct, kw_only=True):
    """OpenAI's options of a stream."""

    include_usage: bool | None = None


class FunctionTool(Struct, kw_only=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class Tool(Struct, kw_only=True):
    """A tool of a chat."""

    function: FunctionTool
    type: Literal["function"] = "function"


FinishReason = Literal["stop", "length", "tool_calls"]


class TopLogprob(Struct, kw_only=True):
    """One of the likeliest tokens."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Struct, kw_only=True):
    """A token of the output, and what else was likely."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, kw_only=True):
    """Log-probabilities of a choice."""

    content: list[TokenLogprob]
    refusal: None = None


class LlamaTimings(Struct, kw_only=True):
    """How long prompt and output took; of the prompt, `cache_n` tokens lay in the prefix cache, `prompt_n` did not."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


Pooling = Annotated[
    Literal["mean", "last"], Meta(description="The mean of all tokens' last hidden states, or that of the last token.")
]


class EmbeddingFields(Struct, kw_only=True):
    """How texts are turned into vectors, beside the texts."""

    model: str | None = None
    dimensions: Count | None = None
    pooling: Pooling | None = None
