"""How any API gets embeddings of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import falcon
import numpy as np
import numpy.typing as npt

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError
from ...engine.embeddings import EmbeddingError, EmbeddingRequest, PendingEmbedding, Pooling
from ...engine.generation import FINISH_CANCELLED
from .access import cache_space_of, client_of
from .errors import CancelledError, ClientGoneError, ContextLengthError, GenerationFailedError, UnsupportedError
from .job import gone_of, look_of
from .model_card import hidden_size
from .prompts import read_prompts
from .registry import Lease
from .resources import Context
from .schema import EmbeddingFields
from .service import ServedModel, Service
from .text_apis import Look

Float32 = npt.NDArray[np.float32]

MAX_INPUTS = 2048
GROUP = 16  # texts that are with the engine at once: a request with many leaves room in the queue for others


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors, float32 of length 1 each, or scores; and the tokens of all texts."""

    vectors: list[Float32]
    tokens: int


def token_ids(
    service: Service, value: object, parameter: str, context: Context, look: Look, truncate: bool = False
) -> list[tuple[int, ...]]:
    """Texts of a request as tokens, all of them checked before any is computed.

    Args:
        value: as `read_prompts` takes it.
        parameter: what names it in the request.
        look: see `Look`.
        truncate: cut what exceeds the context, as Ollama does.

    Raises:
        RequestError: it is something else, there are too many, one is empty, or has ids that are none of the model's.
        ContextLengthError: one exceeds the context.
    """
    limit = min(service.engine.max_context, context.limits.max_prompt_tokens or service.engine.max_context)
    found = []
    try:
        prompts = read_prompts(service, value, look, parameter, MAX_INPUTS, truncate)
    except ContextLengthError as error:
        raise _too_long(parameter, error.prompt_tokens, limit) from None
    for prompt in prompts:
        ids = prompt[:limit] if truncate else prompt
        if not ids:
            raise RequestError(parameter, "expected at least one token in each text, found none")
        if len(ids) > limit:
            raise _too_long(parameter, len(ids), limit)
        found.append(ids)
    return found


def _too_long(parameter: str, count: int, limit: int) -> ContextLengthError:
    text = f"the text is too large: expected at most {limit} tokens (the context), found {count}"
    return ContextLengthError(parameter, text, count, limit)


def check_dimensions(model: ServedModel, dimensions: int | None) -> None:
    """Refuse to shorten vectors: those of a language model are not made for it.

    Raises:
        UnsupportedError: another length is asked for than the model's.
    """
    size = hidden_size(model)
    if dimensions is not None and dimensions != size:
        length = "that of the model's hidden states" if size is None else str(size)
        raise UnsupportedError("dimensions", f"expected {length}, found {dimensions}")


def embed(
    req: falcon.Request,
    lease: Lease,
    context: Context,
    pooling: Pooling | None,
    make: Callable[[], Sequence[tuple[int, ...]]],
    rank: bool = False,
) -> Embedded:
    """Take a slot, tokenize, and wait for all vectors, or for scores with `rank`. The lease is left to the caller.

    Raises:
        RequestError: a text cannot be served; see `token_ids`.
        EngineBusyError: no slot, or no room in the engine's queue.
        ClientGoneError: the client hung up, and what was queued is cancelled.
        GenerationFailedError, CancelledError: the engine gave a text up.
    """
    gone = gone_of(req)
    client, space = client_of(req), cache_space_of(req)
    slot = context.admission.enter()
    try:
        prompts = make()
        vectors: list[Float32] = []
        for start in range(0, len(prompts), GROUP):
            group = [
                EmbeddingRequest(ids, pooling, client, cache_space=space, rank=rank, adapters=lease.service.adapters)
                for ids in prompts[start : start + GROUP]
            ]
            vectors += _wait(lease.service.engine.embed(group), gone, context)
    finally:
        slot.release()
    return Embedded(vectors, sum(map(len, prompts)))


def _wait(pending: Sequence[PendingEmbedding], gone: Callable[[], bool], context: Context) -> list[Float32]:
    vectors: list[Float32] = []
    try:
        for one in pending:
            while (vector := one.result(context.limits.poll_seconds)) is None:
                if gone():
                    raise ClientGoneError
                if context.admission.aborted:
                    raise CancelledError
            vectors.append(vector)
    except EmbeddingError as error:
        if error.reason == FINISH_CANCELLED:
            raise CancelledError from None
        raise GenerationFailedError(str(error)) from None
    finally:
        for one in pending[len(vectors) :]:
            one.cancel()
    return vectors


def embed_fields(
    req: falcon.Request, lease: Lease, context: Context, body: EmbeddingFields, given: object, name: str
) -> Embedded:
    """`embed`, of what a request has in the field `name`, as its other fields say.

    Raises:
        As `embed`.
        UnsupportedError: see `check_dimensions`.
    """
    check_dimensions(lease.service.model, body.dimensions)
    look = look_of(req)
    return embed(req, lease, context, body.pooling, lambda: token_ids(lease.service, given, name, context, look))
