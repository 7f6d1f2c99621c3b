"""LM Studio's lists of models."""

from __future__ import annotations

from typing import Any

import falcon

from ..core import model_card
from ..core.registry import Models
from ..core.resources import ReadResource, answer
from ..core.routes import Operation, Route
from ..core.schema import UNSET
from ..core.service import ServedModel, Service
from .schema import (
    LmStudioCapabilities,
    LmStudioConfig,
    LmStudioInstance,
    LmStudioKey,
    LmStudioKeyList,
    LmStudioModel,
    LmStudioModelList,
    LmStudioQuantization,
)


def _loaded(models: Models) -> dict[str, Service]:
    return {service.model.name: service for service in models.loaded()}


def _model(model: ServedModel, service: Service | None) -> LmStudioModel:
    return LmStudioModel(
        id=model.name,
        publisher=model_card.publisher(model),
        arch=model_card.architecture(model),
        quantization=model.quantization or "unknown",
        state="not-loaded" if service is None else "loaded",
        max_context_length=model.context_length,
        loaded_context_length=UNSET if service is None else service.engine.max_context,
        type="vlm" if model.sees else "llm",
        capabilities=["tool_use"],  # tools are told to every model, by its template or in plain text
    )


class LmStudioModels(ReadResource):
    """`GET /api/v0/models`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with all models."""
        models = self.context.models
        loaded = _loaded(models)
        answer(resp, LmStudioModelList(data=[_model(card, loaded.get(card.root)) for card in models.cards()]))


class LmStudioOne(ReadResource):
    """`GET /api/v0/models/{model_id}`; ids may hold `:` and `/`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the model, if it is served."""
        models = self.context.models
        card = models.card(str(params["model_id"]))
        answer(resp, _model(card, _loaded(models).get(card.root)))


def _key(model: ServedModel, service: Service | None) -> LmStudioKey:
    instances = []
    if service is not None:
        config = LmStudioConfig(context_length=service.engine.max_context)
        instances = [LmStudioInstance(id=model.name, config=config)]
    return LmStudioKey(
        publisher=model_card.publisher(model),
        key=model.name,
        display_name=model_card.display_name(model),
        architecture=model_card.architecture(model),
        quantization=LmStudioQuantization(
            name=model.quantization or None, bits_per_weight=model_card.bits_per_weight(model)
        ),
        size_bytes=model.size_bytes,
        params_string=model_card.parameters_text(model) or None,
        loaded_instances=instances,
        max_context_length=model.context_length,
        capabilities=LmStudioCapabilities(vision=model.sees, trained_for_tool_use=_takes_tools(service)),
    )


def _takes_tools(service: Service | None) -> bool:
    """Whether the model's own template tells it of tools; of one that is not loaded, that is not known."""
    return service is not None and service.chat_template.takes_tools


class LmStudioKeys(ReadResource):
    """`GET /api/v1/models`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with all models."""
        models = self.context.models
        loaded = _loaded(models)
        answer(resp, LmStudioKeyList(models=[_key(card, loaded.get(card.root)) for card in models.cards()]))


ROUTES = [
    Route("/api/v0/models", LmStudioModels, get=Operation("The models.", None, LmStudioModelList)),
    Route("/api/v0/models/{model_id:path}", LmStudioOne, get=Operation("A model.", None, LmStudioModel)),
    Route("/api/v1/models", LmStudioKeys, get=Operation("The models.", None, LmStudioKeyList)),
]
