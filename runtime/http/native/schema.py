"""ROCmForge's own API, as its documentation 0.1.0 has it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..core.schema import UNSET, Count, Json, SamplingFields, Unset
from ..openai.model_schema import ListedModel


class GenerateRequest(SamplingFields, kw_only=True):
    """`POST /generate` and `/generate/stream`. Defaults: max_tokens 100, temperature 1, top_k 50, top_p 0.9."""

    prompt: str
    adapter: Annotated[str, Meta(description="The name of one that the model has.")] | None = None
    max_tokens: Count | None = None
    parse_special: bool | None = None


# "length", "stop", "eos", "cancelled" or "failed"
NativeFinish = str


class Generated(Struct, kw_only=True):
    """How far a generation is."""

    request_id: int
    text: str
    tokens: list[int]
    finished: bool
    finish_reason: NativeFinish | None


class TokenDocument(Struct, kw_only=True):
    """One event of `/generate/stream`."""

    request_id: int
    token: int | None
    text: str
    finished: bool
    finish_reason: NativeFinish | None
    error: str | Unset = UNSET


class NativeModel(Struct, kw_only=True):
    """A bundle."""

    path: str
    size: int
    metadata: Json


class TokenizerCacheCounts(Struct, kw_only=True):
    """What the tokenizer's cache did."""

    hits: int
    misses: int
    bytes: int


class NativeModelList(Struct, kw_only=True):
    """`GET /models`: the native fields, and beside them those of /v1."""

    models: list[NativeModel]
    tokenizer_cache: TokenizerCacheCounts
    data: list[ListedModel]
    object: Literal["list"] = "list"


class HealthDocument(Struct, kw_only=True):
    """`GET /health`."""

    status: Literal["healthy", "unhealthy"]
    service: str
    version: str
    checks: Json


class LiveDocument(Struct, kw_only=True):
    """`GET /live`."""

    live: bool
    service: str


class ReadyDocument(Struct, kw_only=True):
    """`GET /ready`."""

    ready: bool
    service: str


class NativeError(Struct, kw_only=True):
    """An error of the native API."""

    error: str
    status: Literal["error"] = "error"
