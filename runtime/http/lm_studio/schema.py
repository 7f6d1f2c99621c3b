"""LM Studio's lists of models. Source: its REST API's documentation, v0 and v1, and CLIENTS.md."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ..core.schema import UNSET, Unset


class LmStudioModel(Struct, kw_only=True):
    """A model of `/api/v0/models`."""

    id: str
    publisher: str
    arch: str
    quantization: str
    state: Literal["loaded", "not-loaded"]
    max_context_length: int
    loaded_context_length: int | Unset = UNSET
    object: Literal["model"] = "model"
    type: Literal["llm", "vlm"] = "llm"
    compatibility_type: Literal["gguf"] = "gguf"
    capabilities: list[str] = []


class LmStudioModelList(Struct, kw_only=True):
    """`GET /api/v0/models`."""

    data: list[LmStudioModel]
    object: Literal["list"] = "list"


class LmStudioQuantization(Struct, kw_only=True):
    """How weights are kept."""

    name: str | None
    bits_per_weight: float | None


class LmStudioConfig(Struct, kw_only=True):
    """Of a loaded model."""

    context_length: int


class LmStudioInstance(Struct, kw_only=True):
    """A loaded model."""

    id: str
    config: LmStudioConfig


class LmStudioCapabilities(Struct, kw_only=True):
    """What a model can do."""

    vision: bool
    trained_for_tool_use: bool


class LmStudioKey(Struct, kw_only=True):
    """A model of `/api/v1/models`."""

    publisher: str
    key: str
    display_name: str
    architecture: str | None
    quantization: LmStudioQuantization
    size_bytes: int
    params_string: str | None
    loaded_instances: list[LmStudioInstance]
    max_context_length: int
    capabilities: LmStudioCapabilities
    type: Literal["llm"] = "llm"
    format: Literal["gguf"] = "gguf"
    description: str | None = None


class LmStudioKeyList(Struct, kw_only=True):
    """`GET /api/v1/models`."""

    models: list[LmStudioKey]
