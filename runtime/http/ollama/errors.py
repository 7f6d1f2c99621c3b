"""How Ollama says what went wrong."""

from __future__ import annotations

from ..core.errors import ErrorFormat, Problem
from .schema import TextError


def _describe(problem: Problem) -> dict[str, object]:
    return {"error": problem.message}


OLLAMA = ErrorFormat("ollama", TextError, _describe, prefixes=("/api/",))
