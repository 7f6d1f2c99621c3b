"""What OpenAI's endpoints share: ids and usage."""

from __future__ import annotations

import time
from typing import TypedDict

from ..core.schema import UNSET, Unset
from ..core.service import ServedModel
from .schema import Usage


class Envelope(TypedDict):
    """The fields that all parts of one answer share."""

    id: str
    created: int
    model: str
    system_fingerprint: str | Unset


def new_envelope(prefix: str, request_id: int, model: ServedModel) -> Envelope:
    """Of a new answer."""
    return {
        "id": f"{prefix}-{request_id}",
        "created": int(time.time()),
        "model": model.name,
        "system_fingerprint": model.fingerprint or UNSET,
    }


def usage_of(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> Usage:
    """Usage, its sum, and how much of the prompt lay in the prefix cache."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details={"cached_tokens": cached_tokens},
    )
