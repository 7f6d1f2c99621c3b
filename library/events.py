"""What the engine's events say to who generates."""

from __future__ import annotations

from typing import Final, cast

from ..artifacts.errors import RequestError, RocmforgeError
from ..runtime.engine.generation import FINISH_CANCELLED, FINISH_FAILED, Failure, Generation, TokenEvent
from .answers import Completion, FinishReason

_RAISED: Final = (FINISH_FAILED, FINISH_CANCELLED)


def reason_of(event: TokenEvent) -> FinishReason | None:
    """Why it ended; None where it goes on, or `check_event` raises."""
    return None if event.finish_reason in _RAISED else cast("FinishReason | None", event.finish_reason)


def completion_of(generation: Generation) -> Completion:
    """What a generation that has ended came to."""
    state = generation.state()
    reason = cast("FinishReason", state.finish_reason)
    return Completion(state.text, state.tokens, reason, state.prompt_tokens, state.cached_tokens, state.logprobs)


def check_event(event: TokenEvent) -> None:
    """Raise where a generation has failed, or was cancelled because the model was closed."""
    failure: Failure | None = event.error
    if failure is not None and failure.parameter is not None:
        raise RequestError(failure.parameter, failure.message.removeprefix(f"{failure.parameter}: "))
    if failure is not None:
        raise RocmforgeError(f"generation failed: {failure}")
    if event.finish_reason == FINISH_CANCELLED:
        raise RocmforgeError("generation failed: the model was closed")
