"""`POST /rerank`: documents by how well they answer a query, in Jina's, Cohere's and TEI's form."""

from __future__ import annotations

import uuid

import falcon

from ....artifacts.errors import RequestError
from ..core.embeddings import MAX_INPUTS, embed
from ..core.job import look_of
from ..core.rerank import prompts_of
from ..core.resources import Resource, answer
from ..core.routes import Operation, Route
from .schema import RankedText, RerankAnswer, RerankDocument, RerankRequest, RerankResult, RerankUsage


class Rerank(Resource):
    """`POST /rerank`. Where a request has `texts`, it and the answer are TEI's."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the best first; equal ones in the order in which they came."""
        body = self.read(req, RerankRequest)
        name, documents = _documents(body)
        with self.context.models.lease(body.model) as lease:
            look, service = look_of(req), lease.service
            scored = embed(
                req,
                lease,
                self.context,
                None,
                lambda: prompts_of(service, body.query, documents, name, look),
                rank=True,
            )
        scores = [float(vector[0]) for vector in scored.vectors]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
        if body.texts is not None:
            answer(resp, [RankedText.of(i, scores[i], documents[i] if body.return_text else None) for i in order])
            return
        results = [RerankResult.of(i, scores[i], documents[i] if body.return_documents else None) for i in order]
        usage = RerankUsage(prompt_tokens=scored.tokens, total_tokens=scored.tokens)
        answer(
            resp, RerankAnswer(id=f"rerank-{uuid.uuid4().hex}", model=service.model.name, results=results, usage=usage)
        )


def _documents(body: RerankRequest) -> tuple[str, list[str]]:
    """The field that has the texts to be ranked, and these.

    Raises:
        RequestError: there are none, or too many.
    """
    name = "documents" if body.texts is None else "texts"
    given = body.documents if body.texts is None else body.texts
    if not 1 <= len(given or ()) <= MAX_INPUTS:
        raise RequestError(name, f"expected 1 to {MAX_INPUTS} texts, found {len(given or ())}")
    return name, [one.text if isinstance(one, RerankDocument) else one for one in given or ()]


ROUTES = [
    Route(
        "/rerank",
        Rerank,
        post=Operation("Rank documents by a query.", RerankRequest, RerankAnswer | list[RankedText]),
        aliases=("/reranking", "/v1/rerank", "/v1/reranking", "/v2/rerank"),
    )
]
