"""`POST /embedding`."""

from __future__ import annotations

import falcon

from ..core.embeddings import embed_fields
from ..core.resources import Resource, answer
from ..core.routes import Operation, Route
from .schema import LlamaEmbedding, LlamaEmbeddingsRequest


class LlamaEmbeddings(Resource):
    """`POST /embedding` and `/embeddings`, as llama.cpp has them without `/v1`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with an array, each of which has an array of vectors: one."""
        body = self.read(req, LlamaEmbeddingsRequest)
        given, name = (body.input, "input") if body.content is None else (body.content, "content")
        with self.context.models.lease(body.model) as lease:
            done = embed_fields(req, lease, self.context, body, given, name)
        answer(resp, [LlamaEmbedding(index=i, embedding=[one.tolist()]) for i, one in enumerate(done.vectors)])


ROUTES = [
    Route(
        "/embedding",
        LlamaEmbeddings,
        post=Operation("Turn texts into vectors, as llama.cpp does.", LlamaEmbeddingsRequest, list[LlamaEmbedding]),
        aliases=("/embeddings",),
    )
]
