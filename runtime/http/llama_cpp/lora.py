"""llama.cpp's `/lora-adapters`: the adapters of a model, and those of requests that choose none."""

from __future__ import annotations

from typing import Any

import falcon

from ..core.access import Scope
from ..core.errors import UnsupportedError
from ..core.resources import ReadResource, answer
from ..core.routes import Operation, Route
from ..core.schema import LoraScales
from ..core.service import adapters_of
from .schema import LoraAdapter, LoraSet

PATH = "/lora-adapters"


def needed_scope(req: falcon.Request) -> Scope | None:
    """What is set here holds for everybody's requests."""
    return Scope.ADMIN if req.path == PATH and req.method == "POST" else None


class LoraAdapters(ReadResource):
    """`/lora-adapters`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the adapters of a model."""
        model = self.context.models.card(req.get_param("model"))
        scales = dict(model.defaults.scales)
        answer(
            resp,
            [
                LoraAdapter(id=number, path=name, scale=scales.get(name, 0.0))
                for number, name in enumerate(model.adapters)
            ],
        )

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Set what each is multiplied by for requests that choose none; those that are left out are not used."""
        model = self.context.models.card(req.get_param("model"))
        if not model.adapters:
            raise UnsupportedError(PATH, "the model has no adapters: compile them with it, as --adapter NAME=FILE")
        given = self.read(req, LoraScales)
        scales = adapters_of(model, [(one.id, one.scale) for one in given])
        model.defaults.scales = tuple((name, scale) for name, scale in scales if scale)
        answer(resp, LoraSet())


_MODEL: tuple[tuple[str, dict[str, object]], ...] = (("model", {"type": "string"}),)
ROUTES = [
    Route(
        PATH,
        LoraAdapters,
        get=Operation("The adapters of a model.", None, list[LoraAdapter], query=_MODEL),
        post=Operation("Set the adapters of requests that choose none.", LoraScales, LoraSet, query=_MODEL),
        private=True,
    ),
]
