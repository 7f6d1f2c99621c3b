"""Embeddings: what a caller asks of the engine and what it gets back."""

from __future__ import annotations

from typing import Literal, Protocol

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import RocmforgeError
from ..device.batch import Float32

Pooling = Literal["mean", "last", "cls"]
AdapterScales = tuple[tuple[str, float], ...]
"""Names of adapters, each once, and what each is multiplied by."""


class EmbeddingError(RocmforgeError):
    """There is no embedding; `reason` is that of a generation: cancelled or failed."""

    def __init__(self, reason: str, problem: str | None):
        super().__init__(problem or "the request was cancelled")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A text, already tokenized, and how the hidden states of its tokens become one vector, or scores.

    Attributes:
        prompt_token_ids: of the text.
        pooling: the mean of all, the last one, or the first; None: as the model is made for, with what its head makes
            of it, else the mean.
        client, deadline_seconds, cache_space: as in `GenerationRequest`.
        rank: the model's head makes scores of it, not a vector.
        adapters: as in `GenerationRequest`.
    """

    prompt_token_ids: tuple[int, ...]
    pooling: Pooling | None
    client: str = ""
    deadline_seconds: float | None = None
    cache_space: str = ""
    rank: bool = False
    adapters: AdapterScales = ()


class PendingEmbedding(Protocol):
    """A submitted request, seen from the thread that waits for it."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the text."""

    def result(self, timeout: float | None = None) -> Float32 | None:
        """A vector, float32 of length 1, or a ranking model's scores; read-only.

        None where `timeout` seconds pass before it is there.

        Raises:
            EmbeddingError: there will be none.
        """

    def cancel(self) -> None:
        """Ask for the end; it comes within a step. Harmless when finished."""
