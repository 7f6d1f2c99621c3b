"""What is noted of a request that is traced, while it runs: a few numbers, of which `spans` makes spans later."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from ...artifacts.dataclass import dataclass
from ..engine.lifecycle import ADMITTED, FINISHED, FIRST_TOKEN, PREEMPTED, PREFIX_HIT, RequestEvent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span, as its `traceparent` header names it."""

    trace_id: int
    span_id: int
    sampled: bool


@dataclass(slots=True)
class GenerationRecord:
    """What is noted of one generation. Times: seconds of `time.monotonic`. The engine's lock guards it."""

    model: str
    request_id: int
    prompt_tokens: int
    queued_at: float
    admitted_at: float | None = None
    first_token_at: float | None = None
    finished_at: float = 0.0
    output_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    reason: str | None = None

    def take(self, event: RequestEvent) -> None:
        """Note a turn of its life."""
        if event.kind == ADMITTED and self.admitted_at is None:
            self.admitted_at = event.at
        elif event.kind == PREFIX_HIT:
            self.prefix_hit_tokens += event.tokens
        elif event.kind == PREEMPTED:
            self.preemptions += 1
        elif event.kind == FIRST_TOKEN:
            self.first_token_at = event.at
        elif event.kind == FINISHED:
            self.finished_at, self.output_tokens, self.reason = event.at, event.tokens, event.reason


@dataclass(slots=True)
class HttpRecord:
    """What is noted of an HTTP request when it has been answered."""

    method: str
    route: str
    path: str
    status: int
    request_id: str


@dataclass(slots=True)
class Trace:
    """An HTTP request that is traced, and its generations."""

    parent: Parent | None
    began_at: float
    ended_at: float = 0.0
    http: HttpRecord | None = None
    generations: list[GenerationRecord] = field(default_factory=list)
    open: int = 1  # itself, and each generation that has not finished
    spans: tuple[ReadableSpan, ...] | None = None  # once made
