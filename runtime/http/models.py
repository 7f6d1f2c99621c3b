"""The model that is served, natively and as /v1 lists it."""

from __future__ import annotations

from typing import Any

import falcon

from ...artifacts.errors import printable
from .errors import NotFoundError
from .resources import ReadResource, answer
from .service import Service


def _entry(service: Service) -> dict[str, object]:
    model = service.model
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "rocmforge",
        "context_length": service.engine.max_context,
    }


class NativeModels(ReadResource):
    """`GET /models`: the native fields, and beside them those of /v1, as clients ask this path for either."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the one model and the state of the tokenizer's cache."""
        model, cache = self.service.model, self.service.cache.stats()
        answer(
            resp,
            {
                "models": [{"path": model.path, "size": model.size_bytes, "metadata": dict(model.metadata)}],
                "tokenizer_cache": {"hits": cache.hits, "misses": cache.misses, "bytes": cache.bytes},
                "object": "list",
                "data": [_entry(self.service)],
            },
        )


class ModelList(ReadResource):
    """`GET /v1/models`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with a list of one."""
        answer(resp, {"object": "list", "data": [_entry(self.service)]})


class Model(ReadResource):
    """`GET /v1/models/{model_id}`; ids may hold `:` and `/`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the model, if it is the one served."""
        model_id = str(params["model_id"])
        if model_id != self.service.model.name:
            raise NotFoundError(f"model {printable(model_id)} not found", "model", "model_not_found")
        answer(resp, _entry(self.service))
