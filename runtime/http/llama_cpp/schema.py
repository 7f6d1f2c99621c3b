"""The API of llama.cpp's server. Source: the README of its `tools/server`, and CLIENTS.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from ..core.sampling_schema import REPEAT_LAST_N, REPEAT_NAMES, with_numbers
from ..core.schema import (
    MAX_TOKENS_LIMIT,
    UNSET,
    Count,
    EmbeddingFields,
    Json,
    LlamaTimings,
    LoraScales,
    Seed,
    Stop,
    TokenIds,
    TopLogprobs,
    Unset,
)

Predict = Annotated[int, Meta(ge=-2, le=MAX_TOKENS_LIMIT, description="Tokens to make; -1: up to the context.")]
Content = str | list[Any]


class LlamaPromptFields(Struct, kw_only=True):
    """The first fields of `LlamaCompletionRequest`."""

    prompt: Any
    model: str | None = None
    parse_special: bool | None = None
    n_predict: Predict | None = None


if TYPE_CHECKING:
    _Numbers = LlamaPromptFields
else:
    _beside = {"temperature": ("dynatemp_range", float | None)} | REPEAT_LAST_N
    _Numbers = with_numbers("_Numbers", LlamaPromptFields, REPEAT_NAMES, _beside)


class LlamaCompletionRequest(_Numbers, kw_only=True):
    """`POST /completion`. A prompt is text, token ids, both mixed, or an array of prompts."""

    dry_multiplier: float | None = None
    xtc_probability: float | None = None
    mirostat: int | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    ignore_eos: bool | None = None
    logit_bias: list[tuple[int | str, float | bool]] | dict[str, float | bool] | None = None
    n_probs: TopLogprobs | None = None
    post_sampling_probs: bool | None = None
    return_tokens: bool | None = None
    stream: bool | None = None
    grammar: Annotated[str, Meta(description="In GBNF, or in Lark's language.")] | None = None
    json_schema: Json | None = None
    lora: LoraScales | None = None


class LoraAdapter(Struct, kw_only=True):
    """An adapter of `GET /lora-adapters`: its number, its name, and its scale in requests that choose none."""

    id: int
    path: str
    scale: float


class LoraSet(Struct, kw_only=True):
    """The answer of `POST /lora-adapters`."""

    success: bool = True


class LlamaExtra(Struct, kw_only=True):
    """Another file, for the model to know."""

    text: str
    filename: str = "file"


class LlamaInfillRequest(LlamaCompletionRequest, kw_only=True):
    """`POST /infill`: what stands between prefix and suffix is asked for; it begins with the prompt."""

    prompt: str = ""
    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[LlamaExtra], Meta(description="Other files.")] | None = None


class RerankDocument(Struct, kw_only=True):
    """A document; whatever else it holds is not read."""

    text: str


class RerankRequest(Struct, kw_only=True):
    """`POST /rerank`. `texts` and `return_text` are Text Embeddings Inference's, the others Jina's and Cohere's."""

    query: str
    model: str | None = None
    documents: list[str | RerankDocument] | None = None
    top_n: Count | None = None
    return_documents: bool | None = None
    texts: list[str] | None = None
    return_text: bool | None = None


class RerankResult(Struct, kw_only=True):
    """A document's score, and which it was."""

    index: int
    relevance_score: float
    document: RerankDocument | Unset = UNSET

    @classmethod
    def of(cls, index: int, score: float, text: str | None) -> RerankResult:
        """Make it, with its text where there is one."""
        document = UNSET if text is None else RerankDocument(text=text)
        return cls(index=index, relevance_score=score, document=document)


class RerankUsage(Struct, kw_only=True):
    """Tokens of all prompts."""

    prompt_tokens: int
    total_tokens: int


class RerankAnswer(Struct, kw_only=True):
    """The answer, the best first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage
    object: Literal["list"] = "list"


class RankedText(Struct, kw_only=True):
    """A text's score as Text Embeddings Inference has it."""

    index: int
    score: float
    text: str | Unset = UNSET

    @classmethod
    def of(cls, index: int, score: float, text: str | None) -> RankedText:
        """Make it, with its text where there is one."""
        return cls(index=index, score=score, text=UNSET if text is None else text)


class LlamaErrorDetail(Struct, kw_only=True):
    """What went wrong, as llama.cpp says it; the counts are there where the context is too short."""

    code: int
    message: str
    type: str
    n_prompt_tokens: int | Unset = UNSET
    n_ctx: int | Unset = UNSET


class LlamaError(Struct, kw_only=True):
    """An error of llama.cpp's API."""

    error: LlamaErrorDetail


class LlamaToken(Struct, kw_only=True):
    """A token and its log-probability."""

    id: int
    token: str
    bytes: list[int]
    logprob: float


class LlamaTokenProbability(LlamaToken, kw_only=True):
    """A token of the output, and what else was likely."""

    top_logprobs: list[LlamaToken]


class LlamaChunk(Struct, kw_only=True):
    """One event of the stream of `/completion` that is not the last."""

    index: int
    content: str
    tokens: list[int]
    tokens_predicted: int
    tokens_evaluated: int
    stop: bool = False
    id_slot: int = -1
    completion_probabilities: list[LlamaTokenProbability] | Unset = UNSET


class LlamaCompletion(LlamaChunk, kw_only=True):
    """The answer of `/completion`, and the last event of its stream."""

    model: str
    prompt: str
    generation_settings: Json
    stop_type: Literal["eos", "limit", "word"]
    stopping_word: str
    timings: LlamaTimings
    tokens_cached: int = 0
    truncated: bool = False
    has_new_line: bool = False


class TokenizeRequest(Struct, kw_only=True):
    """`POST /tokenize`; `content` is text, or text and token ids mixed. `prompt` and what is beside it are vLLM's."""

    content: Content | None = None
    prompt: str | None = None
    model: str | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    add_special_tokens: bool | None = None


class TokenPiece(Struct, kw_only=True):
    """A token and its text; its bytes where they are no UTF-8."""

    id: int
    piece: str | list[int]


class TokenizeAnswer(Struct, kw_only=True):
    """Token ids, or with `with_pieces` objects; the counts are for those who asked in vLLM's words."""

    tokens: list[int | TokenPiece]
    count: int | Unset = UNSET
    max_model_len: int | Unset = UNSET


class DetokenizeRequest(Struct, kw_only=True):
    """`POST /detokenize`."""

    tokens: TokenIds
    model: str | None = None


class DetokenizeAnswer(Struct, kw_only=True):
    """The text of token ids, by llama.cpp's name and by vLLM's."""

    content: str
    prompt: str


class TemplateAnswer(Struct, kw_only=True):
    """`POST /apply-template`: a conversation as the model reads it."""

    prompt: str


class InputTokensAnswer(Struct, kw_only=True):
    """`POST /v1/chat/completions/input_tokens`."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class PropsDocument(Struct, kw_only=True):
    """`GET /props`."""

    default_generation_settings: Json
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str
    build_info: str
    modalities: dict[str, bool]
    media_marker: str | Unset = UNSET


class VersionDocument(Struct, kw_only=True):
    """`GET /version`."""

    version: str


class TokenizerInfoDocument(Struct, kw_only=True):
    """`GET /tokenizer_info`, in the words of Transformers' `tokenizer_config.json`; null: the model has none."""

    tokenizer_class: Literal["PreTrainedTokenizerFast"] = "PreTrainedTokenizerFast"
    bos_token: str | None
    eos_token: str | None
    add_bos_token: bool
    add_eos_token: bool
    chat_template: str
    model_max_length: int
    vocab_size: int


class SlotDocument(Struct, kw_only=True):
    """One of the generations that can run at once; whose it is, is not said."""

    id: int
    n_ctx: int
    is_processing: bool
    id_task: int = -1
    speculative: bool = False


class LlamaEmbeddingsRequest(EmbeddingFields, kw_only=True):
    """`POST /embedding`: texts as llama.cpp's prompts are, in `content` or in `input`."""

    content: Any = None
    input: Any = None


class LlamaEmbedding(Struct, kw_only=True):
    """The vectors of one text: one."""

    index: int
    embedding: list[list[float]]
