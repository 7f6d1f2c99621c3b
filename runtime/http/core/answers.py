"""What answers of several APIs share: how an end is said, and ids of calls."""

from __future__ import annotations

import secrets

from ...engine.failure import Failure
from ...engine.generation import FINISH_CANCELLED, FINISH_FAILED, FINISH_LENGTH
from .errors import CancelledError, generation_error
from .schema import FinishReason


def new_call_id() -> str:
    """By which the result of a call will name it."""
    return f"call_{secrets.token_hex(12)}"


def check_finish(reason: str | None, error: Failure | None) -> FinishReason:
    """OpenAI's word for how a generation, or an answer to a chat, ended.

    Raises:
        GenerationFailedError: it failed.
        RequestFailedError: it failed by the request's own fault.
        CancelledError: somebody cancelled it.
    """
    if reason == FINISH_FAILED:
        raise generation_error(error)
    if reason == FINISH_CANCELLED:
        raise CancelledError
    if reason == "tool_calls":
        return "tool_calls"
    return "length" if reason == FINISH_LENGTH else "stop"
