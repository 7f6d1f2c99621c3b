"""Why something came to nothing, as a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.artifacts.errors import BundleError, DeviceError, RequestError, RocmforgeError, ToolchainError
from rocmforge.runtime.engine.failure import Failure, error_of, failure_of


def test_what_a_failure_says() -> None:
    assert failure_of(RequestError("top_k", "too large")) == Failure("top_k: too large", "top_k", "RequestError")
    assert failure_of(DeviceError("lost")) == Failure("lost", None, "DeviceError")
    assert failure_of(ValueError("two\nlines")) == Failure(r"internal error: ValueError('two\nlines')")
    assert str(Failure("words", "top_k")) == "words"


@pytest.mark.parametrize(
    ("error", "kind", "exit_code"),
    [
        (BundleError(Path("a.rfb"), "golden", "expected 1, found 2"), BundleError, 3),
        (DeviceError("lost"), DeviceError, 4),
        (ToolchainError("no compiler"), RocmforgeError, 1),
        (ValueError("x"), RocmforgeError, 1),
    ],
)
def test_a_failure_becomes_an_error_of_its_kind(error: Exception, kind: type[RocmforgeError], exit_code: int) -> None:
    failure = failure_of(error)
    made = error_of(failure, "generation failed: ")
    assert (type(made), str(made), made.exit_code) == (kind, f"generation failed: {failure}", exit_code)


def test_a_request_at_fault_is_named() -> None:
    made = error_of(failure_of(RequestError("grammar", "too long")))
    assert isinstance(made, RequestError)
    assert (made.parameter, str(made)) == ("grammar", "grammar: too long")
