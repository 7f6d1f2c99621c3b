"""How Anthropic says what went wrong."""

from __future__ import annotations

from ..core.errors import ContextLengthError, ErrorFormat, Problem
from ..openai.errors import openai_error
from .schema import AnthropicError

# By status. Source: Anthropic's API reference, "Errors".
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


def _describe(problem: Problem) -> dict[str, object]:
    """Its shape, with the fields of /v1 beside it."""
    error = openai_error(problem) | {"type": _KINDS.get(problem.status, "invalid_request_error")}
    if problem.too_long is not None:
        error["message"] = _too_long(problem.too_long)
    return {"type": "error", "error": error}


def _too_long(error: ContextLengthError) -> str:
    """In these words: Claude Code reads them, and asks for less."""
    if error.max_tokens is None:
        return f"prompt is too long: {error.prompt_tokens} tokens > {error.most} maximum"
    sum_and_limit = f"{error.prompt_tokens} + {error.max_tokens} > {error.most}"
    return (
        f"input length and `max_tokens` exceed context limit: {sum_and_limit}, "
        "decrease input length or `max_tokens` and try again"
    )


ANTHROPIC = ErrorFormat("anthropic", AnthropicError, _describe, prefixes=("/v1/messages",))
