"""`GET /models`."""

from __future__ import annotations

from typing import Any

import falcon

from ..core.resources import answer
from ..core.routes import Operation, Route
from ..openai.models import ModelResource
from .schema import NativeModel, NativeModelList, TokenizerCacheCounts


class NativeModels(ModelResource):
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
            NativeModel(path=card.path, size=card.size_bytes, metadata=dict(card.metadata))
            for card in models.cards()
            if not card.adapter
        ]
        answer(resp, NativeModelList(models=natives, tokenizer_cache=counts, data=self.documents()))


ROUTES = [
    Route("/models", NativeModels, get=Operation("The models, and the tokenizers' caches.", None, NativeModelList))
]
