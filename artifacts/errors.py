"""Errors that a person sees: one clear line, one exit code.

Every error that bad input, a missing tool or a missing device can cause derives from
`RocmforgeError`. The command line prints `str(error)` and exits with `exit_code`;
a traceback means a defect of ours.
"""

from __future__ import annotations

from pathlib import Path


def printable(text: object, limit: int = 200) -> str:
    """Escape a foreign string for a message: no control characters, no newlines, bounded.

    Args:
        text: anything; `str(text)` is shown.
        limit: longest result, in characters, before it is cut with an ellipsis.
    """
    escaped = str(text)[: limit + 1]
    if not escaped.isprintable():
        escaped = "".join(
            c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in escaped
        )
    return escaped if len(escaped) <= limit else escaped[:limit] + "…"


def shown(value: object, limit: int = 60) -> str:
    """Return a program's value for a message, or its type where it cannot be written: an integer of too many digits."""
    try:
        return printable(repr(value), limit)
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"


def os_problem(error: OSError) -> str:
    """What the system refused, in one line: the file, where there is one, and why."""
    place = f"{printable(error.filename)}: " if error.filename else ""
    return f"{place}{printable(error.strerror or error)}"


class RocmforgeError(Exception):
    """Base of all errors that are reported as one line."""

    exit_code = 1


class UsageError(RocmforgeError):
    """A wrong option or argument."""

    exit_code = 2


class InputError(RocmforgeError):
    """A bad input file: names the file, the field, what was expected and what was found.

    Args:
        path: the file (or bundle) at fault.
        field: the key, tensor or part of it at fault; untrusted text is escaped here.
        problem: "expected …, found …".
        offset: byte offset in the file, where known.
    """

    exit_code = 3

    def __init__(self, path: Path | str, field: str, problem: str, offset: int | None = None):
        at = "" if offset is None else f" @{offset}"
        super().__init__(f"{printable(path)}: {printable(field)}: {printable(problem, 600)}{at}")
        self.field = field
        self.offset = offset


class GgufError(InputError):
    """A GGUF file that cannot be trusted or is not supported."""


class BundleError(InputError):
    """A bundle that cannot be trusted or is not supported."""


class ToolchainError(RocmforgeError):
    """A compiler is missing, too old, or failed."""

    exit_code = 4


class DeviceError(RocmforgeError):
    """A device is missing, unsupported, or failed."""

    exit_code = 4


class RequestError(RocmforgeError):
    """A request that cannot be served as asked; `parameter` names the field at fault (HTTP 400)."""

    def __init__(self, parameter: str, problem: str):
        super().__init__(f"{parameter}: {problem}")
        self.parameter = parameter


class EngineBusyError(RocmforgeError):
    """The queue is full, or the engine is stopping; try again later (HTTP 503, Retry-After)."""
