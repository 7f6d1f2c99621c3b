"""A request for an embedding on its way through the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from ..device.batch import Float32, Program
from ..device.head import EmbeddingHead, unit
from ..text.tokenizer import Tokenizer
from .embeddings import EmbeddingError, EmbeddingRequest
from .failure import Failure
from .generation import FINISH_FAILED, FINISH_STOP, GenerationRequest
from .scheduler import Chunk
from .sequence import ActiveSequence


class EmbeddingSequence(ActiveSequence):
    """A generation of no tokens, for the scheduler; also the `PendingEmbedding` that the HTTP thread holds."""

    ends_with_prompt = False  # but with what `take` makes of the hidden states

    def __init__(
        self, request_id: int, request: EmbeddingRequest, tokenizer: Tokenizer, head: EmbeddingHead | None = None
    ) -> None:
        carrier = GenerationRequest(
            request.prompt_token_ids,
            0,
            client=request.client,
            deadline_seconds=request.deadline_seconds,
            cache_space=request.cache_space,
            adapters=request.adapters,
        )
        super().__init__(request_id, carrier, 0, tokenizer)
        self._head = head if request.pooling is None and (head is None or head.ranks == request.rank) else None
        self._pooling = request.pooling or (head.pooling if head is not None else "mean")
        self._sum = np.zeros(0)  # float64[hidden_size] of the states taken so far
        self._embedding: Float32 | None = None
        self._done = threading.Event()

    @property
    def reuses_prefix(self) -> bool:
        """The cache has keys and values of tokens computed before, not their hidden states."""
        return self._pooling == "last"

    @property
    def prompt_tokens(self) -> int:
        """See `PendingEmbedding`."""
        return self.num_prompt_tokens

    def rows_of(self, chunk: Chunk) -> int:
        """Of how many tokens at the end of a chunk the hidden states are wanted."""
        if self._pooling == "mean" or (self._pooling == "cls" and chunk.start == 0):
            return chunk.count
        return int(chunk.completes)

    def take(self, chunk: Chunk, states: Float32) -> None:
        """Take float32[rows_of(chunk), hidden_size]; after the last chunk, finish.

        They are added token by token, so that no bit depends on where the chunks were cut.
        """
        if chunk.start == 0 or not self._sum.size:  # the first, or all over again
            self._sum = np.zeros(states.shape[1])
        if self._pooling == "cls":
            states = states[: int(chunk.start == 0)]
        for state in states:
            self._sum += state
        if not chunk.completes:
            return
        with np.errstate(invalid="ignore", over="ignore"):
            embedding = self._of_sum()
        if not np.isfinite(embedding).all():
            self.finish(FINISH_FAILED, Failure("the model's hidden states are not finite numbers (NaN or infinity)"))
            return
        embedding.flags.writeable = False
        self._embedding = embedding
        self.finish(FINISH_STOP)

    def _of_sum(self) -> Float32:
        """Return what is asked for, once the states of all tokens are in the sum."""
        if self._head is None:
            return unit(self._sum)  # the mean points the same way
        made = self._head.apply(self._sum / (self.num_prompt_tokens if self._pooling == "mean" else 1))
        return made.astype(np.float32) if self._head.ranks else unit(made)

    def finish(self, reason: str, error: Failure | None = None) -> None:
        """See `ActiveSequence`; the result waits for it."""
        super().finish(reason, error)
        self._done.set()

    def result(self, timeout: float | None = None) -> Float32 | None:
        """See `PendingEmbedding`."""
        if not self._done.wait(timeout):
            return None
        if self._embedding is None:
            raise EmbeddingError(self.finish_reason or FINISH_FAILED, str(self.error) if self.error else None)
        return self._embedding


def tokens_read(chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, EmbeddingSequence, range]]:
    """Yield chunks of which embeddings are made, and of which of the step's tokens the hidden states are wanted."""
    end = 0
    for chunk in chunks:
        end += chunk.num_tokens
        sequence = chunk.sequence
        if isinstance(sequence, EmbeddingSequence) and (rows := sequence.rows_of(chunk)):
            yield chunk, sequence, range(end - rows, end)


def hidden_states(program: Program, chunks: Sequence[Chunk]) -> list[tuple[Chunk, EmbeddingSequence, Float32]]:
    """Of the step's tokens, where embeddings are made of them: what `EmbeddingSequence.take` takes."""
    return [
        (chunk, sequence, program.hidden(tokens.start, len(tokens))) for chunk, sequence, tokens in tokens_read(chunks)
    ]
