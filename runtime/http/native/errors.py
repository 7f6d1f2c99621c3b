"""How the native API says what went wrong."""

from __future__ import annotations

from ..core.errors import ErrorFormat, Problem
from .schema import NativeError


def _describe(problem: Problem) -> dict[str, object]:
    return {"error": problem.message, "status": "error"}


NATIVE = ErrorFormat("native", NativeError, _describe, prefixes=("",))
