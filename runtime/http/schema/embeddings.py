"""`POST /v1/embeddings`. Source: OpenAI's API reference; `pooling` is ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from .common import Count

Pooling = Annotated[
    Literal["mean", "last"], Meta(description="The mean of all tokens' last hidden states, or that of the last token.")
]


class EmbeddingsRequest(Struct, kw_only=True):
    """Texts, each as a string or as token ids, to be turned into vectors of length 1."""

    input: Any  # a string, token ids, or an array of these
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None
    pooling: Pooling | None = None


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
