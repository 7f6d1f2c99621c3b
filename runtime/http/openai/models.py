"""The models that are served, as /v1 lists them."""

from __future__ import annotations

import math
from typing import Any, cast

import falcon

from ....artifacts.errors import RequestError
from ..core import model_card
from ..core.errors import NotFoundError
from ..core.registry import Models
from ..core.resources import ReadResource, Resource, answer
from ..core.routes import Operation, Route
from ..core.schema import UNSET
from ..core.service import ServedModel
from .model_schema import (
    CheckDocument,
    CheckedModel,
    CheckRequest,
    ListedModel,
    ModelDetails,
    ModelDocument,
    ModelListDocument,
    ModelMeta,
    Throughput,
)

MEBIBYTE = 1 << 20
CAPABILITIES = ("completion", "chat", "tools", "embeddings", "structured_output")
"""Of every model."""


def model_document(card: ServedModel, loaded: bool, name: str | None = None) -> ModelDocument:
    """A model as /v1 lists it, under its own name or another."""
    return ModelDocument(
        id=name or card.name,
        created=card.created,
        context_length=card.context_length,
        quantization=card.quantization,
        file_size_mb=round(card.size_bytes / MEBIBYTE, 2),
        tensor_count=card.tensor_count,
        compact_id=compact_id(card),
        loaded=loaded,
        capabilities={**dict.fromkeys(CAPABILITIES, True), **({"vision": True} if card.sees else {})},
        supports_agent=True,
        supports_tools=True,
        details=ModelDetails(
            size=f"{card.size_bytes / 1e9:.1f}GB",
            family=model_card.architecture(card),
            parameter_size=model_card.parameters_text(card) or "unknown",
        ),
        meta=ModelMeta(
            n_ctx_train=model_card.trained_context(card),
            n_ctx=card.context_length,
            n_vocab=card.vocab_size,
            n_params=card.parameters,
            size=card.size_bytes,
            n_embd=model_card.hidden_size(card) or UNSET,
        ),
    )


def compact_id(card: ServedModel) -> str:
    """All that a tool needs to know of a model in one short text; its parts are named in the schema."""
    megabytes = round(card.size_bytes / MEBIBYTE)
    parts = (
        card.name,
        card.quantization,
        megabytes,
        card.tensor_count,
        model_card.num_layers(card) or 0,
        card.vocab_size,
    )
    return "|".join(str(part).replace("|", "_") for part in parts)


def _is_loaded(models: Models, card: ServedModel) -> bool:
    return any(service.model.name == card.root for service in models.loaded())


class ModelResource(ReadResource):
    """What lists of models share."""

    def documents(self) -> list[ListedModel]:
        """Ours, then those of integrations that have no name of ours."""
        models = self.context.models
        own = [model_document(card, _is_loaded(models, card)) for card in models.cards()]
        own += [
            model_document(card, _is_loaded(models, card), alias) for card in models.cards() for alias in card.aliases
        ]
        names = {document.id for document in own}
        others = [entry for entry in self.context.remote_models.get_all_models() if entry["id"] not in names]
        return [*own, *cast(list[ListedModel], others)]  # encoded as they came


class ModelList(ModelResource):
    """`GET /v1/models`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with all models."""
        answer(resp, ModelListDocument(data=self.documents()))


class Model(ModelResource):
    """`GET /v1/models/{model_id}`; ids may hold `:` and `/`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the model, if it is served."""
        name, models = str(params["model_id"]), self.context.models
        try:
            card = models.card(name)
        except NotFoundError:
            found = [entry for entry in self.context.remote_models.get_all_models() if entry["id"] == name]
            if not found:
                raise
            answer(resp, found[0])
        else:
            answer(resp, model_document(card, _is_loaded(models, card), name if name in card.aliases else None))


class CheckModels(Resource):
    """`POST /v1/models/check`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer for each name whether it can be asked for."""
        body = self.read(req, CheckRequest)
        answer(resp, CheckDocument(models={name: self._check(name) for name in body.models}))

    def _check(self, name: str) -> CheckedModel:
        models = self.context.models
        try:
            card = models.card(name)
        except NotFoundError:
            remote = self.context.remote_models.find(name) is not None
            return CheckedModel(available=remote, loaded=False, compact_id=None)
        return CheckedModel(available=True, loaded=_is_loaded(models, card), compact_id=compact_id(card))


class ThroughputEstimate(ReadResource):
    """`GET /v1/throughput`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with what memory of a bandwidth allows, and with what was measured lately."""
        models = self.context.models
        card = models.card(req.get_param("model"))
        text = req.get_param("bandwidth_gbps", default="50")
        try:
            bandwidth = float(text)
        except ValueError:
            bandwidth = math.nan
        if not 0.001 <= bandwidth <= 1e6:
            raise RequestError("bandwidth_gbps", "expected a number of GB/s from 0.001 to 1000000")
        recent = [s.engine.stats().tokens_per_second for s in models.loaded() if s.model.name == card.name]
        answer(
            resp,
            Throughput(
                model=card.name,
                bytes_per_token=card.weights_bytes,
                bandwidth_gbps=bandwidth,
                estimated_tokens_per_second=round(1e9 * bandwidth / max(card.weights_bytes, 1), 2),
                recent_tokens_per_second=round(sum(recent), 2),
            ),
        )


_QUERY: tuple[tuple[str, dict[str, object]], ...] = (
    ("model", {"type": "string"}),
    ("bandwidth_gbps", {"type": "number", "minimum": 0.001, "maximum": 1_000_000, "default": 50}),
)
ROUTES = [
    Route("/v1/models", ModelList, get=Operation("The models.", None, ModelListDocument)),
    Route(
        "/v1/models/check",
        CheckModels,
        post=Operation("Which of several models can be asked for.", CheckRequest, CheckDocument),
    ),
    Route("/v1/models/{model_id:path}", Model, get=Operation("A model.", None, ModelDocument)),
    Route(
        "/v1/throughput",
        ThroughputEstimate,
        get=Operation("How fast a model can be, by its bytes.", None, Throughput, query=_QUERY),
    ),
]
