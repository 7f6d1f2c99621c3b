"""How OpenAI says what went wrong."""

from __future__ import annotations

from ..core.errors import ErrorFormat, Problem
from .schema import OpenAIError

# Type and code of errors that are no fault of the request itself, by status.
_KINDS = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_permissions"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


def openai_error(problem: Problem) -> dict[str, object]:
    """What stands in `error`."""
    other = "server_error" if problem.status >= 500 else "invalid_request_error"
    kind, usual_code = _KINDS.get(problem.status, (other, None))
    return {
        "message": problem.message,
        "type": kind,
        "param": problem.parameter,
        "code": problem.code or usual_code,
    }


def _describe(problem: Problem) -> dict[str, object]:
    return {"error": openai_error(problem)}


OPENAI = ErrorFormat("openai", OpenAIError, _describe, prefixes=("/v1/",))
