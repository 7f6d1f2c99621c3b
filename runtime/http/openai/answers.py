"""What OpenAI's endpoints share: ids, usage, how a generation's end is said."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from ...engine.generation import FINISH_CANCELLED, FINISH_FAILED, FINISH_LENGTH, Failure
from ..core.errors import CancelledError, generation_error
from ..core.schema import UNSET, Unset
from ..core.service import ServedModel
from .schema import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that all parts of one answer share."""

    id: str
    created: int
    model: str
    system_fingerprint: str | Unset


def new_envelope(prefix: str, request_id: int, model: ServedModel) -> Envelope:
    """Of a new answer."""
    return Envelope(f"{prefix}-{request_id}", int(time.time()), model.name, model.fingerprint or UNSET)


def new_call_id() -> str:
    """By which the result of a call will name it."""
    return f"call_{secrets.token_hex(12)}"


def usage_of(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
    """Usage, its sum, and how much of the prompt lay in the prefix cache."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details={"cached_tokens": cached_tokens},
    )


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
