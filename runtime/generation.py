"""What a caller asks of the engine and what it gets back: the seam between HTTP and engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ..artifacts.errors import RocmforgeError

FINISH_LENGTH = "length"
FINISH_STOP = "stop"
FINISH_EOS = "eos"
FINISH_CANCELLED = "cancelled"
FINISH_FAILED = "failed"


class RequestError(RocmforgeError):
    """A request that cannot be served as asked; `parameter` names the field at fault (HTTP 400)."""

    def __init__(self, parameter: str, problem: str):
        super().__init__(f"{parameter}: {problem}")
        self.parameter = parameter


class EngineBusyError(RocmforgeError):
    """The queue is full, or the engine is stopping; try again later (HTTP 503, Retry-After)."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    `temperature` 0 means the most likely token. `top_k` 0 and `top_p` 1 and `min_p` 0 switch
    those filters off. Penalties: `repetition_penalty` as in CTRL (divides positive logits,
    multiplies negative ones, of every token of prompt and output), `presence_penalty` and
    `frequency_penalty` as OpenAI defines them (over the output alone). `seed` None: the engine
    draws one.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt, already tokenized, and the conditions under which its continuation ends."""

    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token, or the end of a generation.

    `text` holds only whole characters, and never a part of a stop string; a token whose text is
    not yet decided has `text` "" and the text arrives with a later event. The last event
    has `finished` True; `token` is None where the end came without a new token (a cancel, a failure).
    `error` says why where `finish_reason` is "failed".
    """

    token: int | None
    text: str
    finished: bool = False
    finish_reason: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GenerationState:
    """A snapshot of one request: everything generated so far."""

    request_id: int
    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finished: bool
    finish_reason: str | None
    error: str | None = None


class Generation(Protocol):
    """A submitted request, seen from the thread that waits for it."""

    @property
    def request_id(self) -> int:
        """Number by which `/status` and `/cancel` know it."""

    def events(self, timeout: float | None = None) -> Iterator[TokenEvent | None]:
        """Yield events as they come, and None each time `timeout` seconds pass without one."""

    def state(self) -> GenerationState:
        """What has been generated up to now."""

    def cancel(self) -> None:
        """Ask for the end; the last event says "cancelled" within a step. Harmless when finished."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts for `/health` and the gauges of `/metrics`."""

    running: bool
    active: int
    queued: int
    pages_used: int
    pages_total: int
    active_sequences: int
    tokens_per_second: float
    device_available: bool
    memory_free_bytes: int
    memory_total_bytes: int


class EngineApi(Protocol):
    """What the HTTP layer needs of the engine."""

    @property
    def max_context(self) -> int:
        """Most tokens, prompt and output together, of one request."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request.

        Raises:
            RequestError: the prompt is empty, has an id outside the vocabulary, or exceeds the context.
            EngineBusyError: no room in the queue, or the engine is stopping.
        """

    def find(self, request_id: int) -> Generation | None:
        """A live or recently finished request, or None."""

    def stats(self) -> EngineStats:
        """Current counts; never blocks on the device."""
