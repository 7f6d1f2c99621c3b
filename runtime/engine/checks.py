"""Whether a request can ever be computed: asked before it is queued."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from ...artifacts.errors import RequestError, printable
from ...artifacts.layout import Layout
from .embeddings import AdapterScales, EmbeddingRequest
from .generation import GenerationRequest
from .kv_cache import BlockPool

if TYPE_CHECKING:
    from ...artifacts.vision import Vision

MAX_SCALE: Final = 1e6
"""Of an adapter, either way: nothing sensible is near it, and no product with it leaves float32 by itself."""


def check_generation(request: GenerationRequest, layout: Layout, max_context: int, pool: BlockPool) -> None:
    """Hold a request against the model and the cache.

    Raises:
        RequestError: the prompt is empty, has an id outside the vocabulary, or exceeds context or cache; or the bundle
            has no such adapter.
    """
    check_adapters(request.adapters, layout)
    ids, more = request.prompt_token_ids, request.max_tokens
    _check_ids("prompt", ids, layout.vocab_size)
    if more < 0:
        raise RequestError("max_tokens", f"expected at least 0, found {more}")
    if len(ids) + more > max_context:
        raise RequestError(
            "max_tokens", f"prompt ({len(ids)}) and max_tokens ({more}) exceed a context of {max_context}"
        )
    if problem := too_long(len(ids) + more, pool) or _not_whole(len(ids) + more, layout):
        raise RequestError("max_tokens", problem)
    if layout.both_ways and request.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs", "expected none of a model that sees both ways: it sees the next token")


def check_pictures(request: GenerationRequest, layout: Layout, vision: Vision | None) -> None:
    """Hold the pictures of a request against its prompt and the model.

    Raises:
        RequestError: the model has no eyes; rows do not stand in the prompt one behind another; or a picture whose rows
            see one another has more than a step takes.
    """
    if not request.pictures:
        return
    if vision is None:
        raise RequestError("images", "the model reads text alone")
    end = 0
    for one in request.pictures:
        for first, count in one.runs:
            if not end <= first < first + count <= len(request.prompt_token_ids):
                raise RequestError("images", "expected rows of pictures one behind another within the prompt")
            end = first + count
        if one.grid != one.picture.grid(vision) or sum(count for _, count in one.runs) != one.num_rows:
            raise RequestError("images", "expected as many tokens as a picture has rows")
        first, last = one.span
        if vision.both_ways and last - first > (most := layout.max_batch_tokens - layout.max_sequences):
            raise RequestError("images", f"expected at most {most} tokens of a picture, found {last - first}")
    if vision.both_ways and request.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs", "expected none beside images, whose tokens see one another")


def check_embedding(request: EmbeddingRequest, layout: Layout, max_context: int, pool: BlockPool) -> None:
    """Hold the tokens of a text against the model and the cache.

    Raises:
        RequestError: see `check_generation`.
    """
    ids = request.prompt_token_ids
    check_adapters(request.adapters, layout)
    _check_ids("input", ids, layout.vocab_size)
    if len(ids) > max_context:
        raise RequestError("input", f"{len(ids)} tokens exceed the context of {max_context}")
    if problem := too_long(len(ids), pool) or _not_whole(len(ids), layout):
        raise RequestError("input", problem)


def check_adapters(adapters: AdapterScales, layout: Layout) -> None:
    """Hold the adapters of a request against those of the bundle.

    Raises:
        RequestError: it has no such one, or one is named twice, or times what is no finite float32.
    """
    names = [name for name, _ in adapters]
    for name, scale in adapters:
        if name not in layout.adapters:
            have = f"one of {', '.join(layout.adapters)}" if layout.adapters else "none, as the model has none"
            raise RequestError("adapter", f"expected {have}, found {printable(name, 100)}")
        if names.count(name) > 1:
            raise RequestError("adapter", f"expected each adapter once, found {name} twice")
        check_scale(scale)


def check_scale(scale: float) -> None:
    """Hold what an adapter is multiplied by against its range.

    Raises:
        RequestError: it is beyond, or no number.
    """
    if abs(scale) <= MAX_SCALE:
        return
    try:
        found = f"{scale:g}"
    except OverflowError:  # of an integer, which a float64 does not hold
        found = f"an integer of {int(scale).bit_length()} bits"
    raise RequestError("adapter", f"expected a scale from {-MAX_SCALE:g} to {MAX_SCALE:g}, found {found}")


def too_long(tokens: int, pool: BlockPool) -> str | None:
    """Why a request of so many tokens does not fit into the cache, where it does not."""
    needed = pool.blocks_for(tokens)
    return f"needs {needed} KV blocks, the cache has {pool.num_blocks}" if needed > pool.num_blocks else None


def _not_whole(tokens: int, layout: Layout) -> str | None:
    """Why a sequence of so many tokens cannot be computed in one step, where it has to be and cannot."""
    if not layout.both_ways or tokens <= layout.max_batch_tokens:
        return None
    return f"{tokens} tokens exceed the {layout.max_batch_tokens} of a step, and the model takes a text whole"


def _check_ids(parameter: str, ids: Collection[int], vocab_size: int) -> None:
    if not ids:
        raise RequestError(parameter, "expected at least one token, found none")
    if min(ids) < 0 or max(ids) >= vocab_size:
        raise RequestError(parameter, f"expected token ids from 0 to {vocab_size - 1}")
