"""Why something came to nothing, as a value that is kept, told and sent to another process."""

from __future__ import annotations

from typing import Final

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import (
    BundleError,
    DeviceError,
    EngineBusyError,
    RequestError,
    RocmforgeError,
    UsageError,
    printable,
)

_KINDS: Final[dict[str, type[RocmforgeError]]] = {
    kind.__name__: kind
    for kind in (RocmforgeError, UsageError, DeviceError, BundleError, EngineBusyError, RequestError)
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a generation or a call failed, or a time limit cancelled it: a value, for an exception would keep alive all
    that lies on its way.

    Attributes:
        message: one line.
        parameter: of the request, where that is at fault: asked again, it would fail again.
        kind: name of the `RocmforgeError` that it was.
    """

    message: str
    parameter: str | None = None
    kind: str = RocmforgeError.__name__

    def __str__(self) -> str:
        return self.message


def failure_of(error: BaseException) -> Failure:
    """What an exception says of that which it ended, as the nearest kind that is told apart."""
    if not isinstance(error, RocmforgeError):
        return Failure(f"internal error: {printable(repr(error))}")
    kind = next(one.__name__ for one in type(error).__mro__ if one.__name__ in _KINDS)
    return Failure(str(error), error.parameter if isinstance(error, RequestError) else None, kind)


def error_of(failure: Failure, before: str = "") -> RocmforgeError:
    """The error that a failure was: its text is that of the whole message, `before` it what is said first, and not an
    argument to make one of."""
    kind = _KINDS[failure.kind]
    error = kind.__new__(kind, f"{before}{failure.message}")
    if isinstance(error, RequestError) and failure.parameter is not None:
        error.parameter = failure.parameter
    return error
