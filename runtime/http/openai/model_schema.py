"""Models as /v1 lists them, and other servers whose models are listed there."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..core.schema import UNSET, Unset


class ModelMeta(Struct, kw_only=True):
    """What llama.cpp's clients look for."""

    n_ctx_train: int
    n_ctx: int
    n_vocab: int
    n_params: int
    size: int
    n_embd: int | Unset = UNSET


class ModelDetails(Struct, kw_only=True):
    """For people."""

    size: str
    family: str
    parameter_size: str


class ListedModel(Struct, kw_only=True):
    """A model of a list; ours has the fields of `ModelDocument`, one of an integration what that server says."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "rocmforge"


class ModelDocument(ListedModel, kw_only=True):
    """A model of ours."""

    context_length: int
    quantization: str
    file_size_mb: float
    tensor_count: int
    compact_id: Annotated[str, Meta(description="name|quantization|MB|tensors|layers|vocabulary")]
    loaded: bool
    capabilities: dict[str, bool]
    supports_agent: bool
    supports_tools: bool
    details: ModelDetails
    meta: ModelMeta


class ModelListDocument(Struct, kw_only=True):
    """`GET /v1/models`: ours, and those of integrations, which may have other fields."""

    data: list[ListedModel]
    object: Literal["list"] = "list"


class CheckRequest(Struct, kw_only=True):
    """`POST /v1/models/check`."""

    models: Annotated[list[str], Meta(max_length=256)]


class CheckedModel(Struct, kw_only=True):
    """Whether a model can be asked for."""

    available: bool
    loaded: bool
    compact_id: str | None


class CheckDocument(Struct, kw_only=True):
    """The answer of `POST /v1/models/check`, by the names that were asked for."""

    models: dict[str, CheckedModel]


class Throughput(Struct, kw_only=True):
    """`GET /v1/throughput`: a model of the speed, not a measurement, and what was measured lately.

    Attributes:
        model: its id.
        bytes_per_token: weights that each decoded token of one stream reads.
        bandwidth_gbps: of the memory, in GB/s, as asked.
        estimated_tokens_per_second: bandwidth over bytes: the most that one stream can reach.
        recent_tokens_per_second: of all streams, over the last seconds; 0 while nothing is generated.
    """

    model: str
    bytes_per_token: int
    bandwidth_gbps: float
    estimated_tokens_per_second: float
    recent_tokens_per_second: float
