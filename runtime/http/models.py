"""The models that are served, natively and as /v1 lists them."""

from __future__ import annotations

from typing import Any

import falcon

from .openapi import Operation, Route
from .resources import ReadResource, answer
from .schema.native import NativeModel, NativeModelList, TokenizerCacheCounts
from .schema.openai import ModelDocument, ModelListDocument
from .service import ServedModel


def model_document(card: ServedModel) -> ModelDocument:
    """A model as /v1 lists it."""
    return ModelDocument(id=card.name, created=card.created, context_length=card.context_length)


class NativeModels(ReadResource):
    """`GET /models`: the native fields, and beside them those of /v1, as clients ask this path for either."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the models and the state of their tokenizers' caches."""
        models = self.context.models
        caches = [service.cache.stats() for service in models.loaded()]
        counts = TokenizerCacheCounts(
            hits=sum(cache.hits for cache in caches),
            misses=sum(cache.misses for cache in caches),
            bytes=sum(cache.bytes for cache in caches),
        )
        natives = [
            NativeModel(path=card.path, size=card.size_bytes, metadata=dict(card.metadata)) for card in models.cards()
        ]
        data = [model_document(card) for card in models.cards()]
        answer(resp, NativeModelList(models=natives, tokenizer_cache=counts, data=data))


class ModelList(ReadResource):
    """`GET /v1/models`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with all models."""
        answer(resp, ModelListDocument(data=[model_document(card) for card in self.context.models.cards()]))


class Model(ReadResource):
    """`GET /v1/models/{model_id}`; ids may hold `:` and `/`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the model, if it is served."""
        answer(resp, model_document(self.context.models.card(str(params["model_id"]))))


ROUTES = [
    Route("/models", NativeModels, get=Operation("The models, and the tokenizers' caches.", None, NativeModelList)),
    Route("/v1/models", ModelList, "openai", get=Operation("The models.", None, ModelListDocument)),
    Route("/v1/models/{model_id:path}", Model, "openai", get=Operation("A model.", None, ModelDocument)),
]
