"""What the engine's events say to who generates."""

from __future__ import annotations

from typing import Final, cast

from ..artifacts.errors import RocmforgeError
from ..runtime.engine.failure import error_of
from ..runtime.engine.generation import FINISH_CANCELLED, FINISH_FAILED, Generation, TokenEvent
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
    if event.error is not None:
        raise error_of(event.error, "generation failed: " if event.error.parameter is None else "")
    if event.finish_reason == FINISH_CANCELLED:
        raise RocmforgeError("generation failed: the model was closed")
