"""The lines that people read when something is refused."""

from __future__ import annotations

import errno
import os

import pytest

from rocmforge.artifacts.errors import (
    BundleError,
    DeviceError,
    GgufError,
    InputError,
    RocmforgeError,
    ToolchainError,
    UsageError,
    os_problem,
    printable,
)


@pytest.mark.parametrize(
    "error, line",
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a\nb"), r"a\nb: No space left on device"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (OSError("it broke"), "it broke"),
    ],
    ids=["of-a-file", "of-none", "of-no-number"],
)
def test_what_the_system_refused(error: OSError, line: str) -> None:
    assert os_problem(error) == line


@pytest.mark.parametrize(
    "kind, code",
    [(UsageError, 2), (InputError, 3), (GgufError, 3), (BundleError, 3), (ToolchainError, 4), (DeviceError, 4)],
)
def test_exit_codes_are_those_that_the_readme_promises(kind: type[RocmforgeError], code: int) -> None:
    assert kind.exit_code == code
    assert RocmforgeError.exit_code == 1


def test_foreign_text_is_cut_where_it_is_too_long() -> None:
    assert printable("x" * 200) == "x" * 200
    assert printable("x" * 201) == "x" * 200 + "…"
    assert printable("xy", limit=1) == "x…"
    assert printable("\n\x1b\udc80é", limit=20) == r"\n\x1b\udc80é"
    assert printable("\n", limit=1) == "\\…"
    assert printable(7) == "7"


def test_an_input_error_names_file_field_problem_and_place() -> None:
    error = InputError("a\nb", "c\td", "e" * 601, offset=0)
    assert str(error) == rf"a\nb: c\td: {'e' * 600}… @0"
    assert (error.field, error.offset) == ("c\td", 0)
    error = InputError("a", "b" * 201, "c" * 600)
    assert str(error) == f"a: {'b' * 200}…: {'c' * 600}"
    assert error.offset is None
