"""The lines that people read when something is refused."""

from __future__ import annotations

import errno
import os

import pytest

from rocmforge.artifacts.errors import os_problem


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
