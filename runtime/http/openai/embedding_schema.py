"""`POST /v1/embeddings`, and llama.cpp's `/embedding`. Source: their references; `pooling` is ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..core.schema import Count

Pooling = Annotated[
    Literal["mean", "last"], Meta(description="The mean of all tokens' last hidden states, or that of the last token.")
]


class EmbeddingFields(Struct, kw_only=True):
    """How texts are turned into vectors, beside the texts."""

    model: str | None = None
    dimensions: Count | None = None
    pooling: Pooling | None = None


class EmbeddingsRequest(EmbeddingFields, kw_only=True):
    """Texts, each as a string or as token ids, to be turned into vectors of length 1."""

    input: Any  # a string, token ids, or an array of these; also as llama.cpp's prompts are
    encoding_format: Literal["float", "base64"] | None = None


class LlamaEmbeddingsRequest(EmbeddingFields, kw_only=True):
    """`POST /embedding`: texts as llama.cpp's prompts are, in `content` or in `input`."""

    content: Any = None
    input: Any = None


class LlamaEmbedding(Struct, kw_only=True):
    """The vectors of one text: one."""

    index: int
    embedding: list[list[float]]


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
