"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64

import falcon

from ..core.embeddings import Float32, embed_fields
from ..core.resources import Resource, answer
from ..core.routes import Operation, Route
from .schema import Embedding, EmbeddingList, EmbeddingsRequest, EmbeddingUsage


class Embeddings(Resource):
    """`POST /v1/embeddings`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with a vector a text."""
        body = self.read(req, EmbeddingsRequest)
        with self.context.models.lease(body.model) as lease:
            model = lease.service.model
            done = embed_fields(req, lease, self.context, body, body.input, "input")
        as_text = body.encoding_format == "base64"
        data = [
            Embedding(index=index, embedding=_base64(vector) if as_text else vector.tolist())
            for index, vector in enumerate(done.vectors)
        ]
        usage = EmbeddingUsage(prompt_tokens=done.tokens, total_tokens=done.tokens)
        answer(resp, EmbeddingList(data=data, model=model.name, usage=usage))


def _base64(vector: Float32) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


ROUTES = [
    Route(
        "/v1/embeddings",
        Embeddings,
        post=Operation("Turn texts into vectors.", EmbeddingsRequest, EmbeddingList),
        forwarded=True,
    )
]
