"""Prompts of models that rank, of a request."""

from __future__ import annotations

from collections.abc import Sequence

from ....artifacts.errors import RequestError
from ....artifacts.manifest import RERANK_TEMPLATE
from ...text.control_text import NoMarkError
from ...text.rerank import rerank_ids
from ...text.tokenizer import TooManyTokensError
from .errors import ContextLengthError
from .service import Service
from .text_apis import Look


def prompts_of(service: Service, query: str, documents: Sequence[str], name: str, look: Look) -> list[tuple[int, ...]]:
    """Return the token ids of a prompt a document; `name` is that of the documents in the request.

    Raises:
        ContextLengthError: one exceeds the context.
        RequestError: it cannot be a prompt.
    """
    template = service.model.metadata.get(RERANK_TEMPLATE)
    limit = service.engine.max_context
    found = []
    for index, document in enumerate(documents):
        at = f"{name}[{index}]"
        try:
            ids = rerank_ids(
                service.tokenizer,
                template if isinstance(template, str) else None,
                query,
                document,
                service.most_tokens,
                look,
            )
            count = len(ids)
        except NoMarkError:
            raise RequestError(at, "expected not every character that is for private use") from None
        except TooManyTokensError as error:
            count = error.count
        if not count:
            raise RequestError(at, "expected at least one token, found none")
        if count > limit:
            problem = f"too large with the query: expected at most {limit} tokens (the context), found {count}"
            raise ContextLengthError(at, problem, count, limit)
        found.append(ids)
    return found
