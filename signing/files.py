"""Files of signatures: where they lie, and how they get there."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ..artifacts.companions import MAX_COMPANION_BYTES
from ..artifacts.errors import InputError, RocmforgeError, os_problem


def write_companion(goal: Path, data: bytes) -> None:
    """Write a file whole or not at all. It grows beside the folder that it is for: nobody meets half a file in it.

    Raises:
        RocmforgeError: it cannot be written.
    """
    goal = Path(os.path.abspath(goal))
    staging = goal.parent.with_name(f".{goal.parent.name}.{secrets.token_hex(8)}.{goal.name}")
    try:
        fd = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(staging, goal)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(staging)
        raise RocmforgeError(f"cannot write {os_problem(error)}") from error


def read_signature_file(path: Path) -> bytes:
    """Read a file of a signature.

    Raises:
        InputError: it cannot be read, or is too large for one.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_COMPANION_BYTES + 1)
    except OSError as error:
        raise InputError(path, "file", f"expected a signature, found {error.strerror}") from error
    if len(data) > MAX_COMPANION_BYTES:
        raise InputError(path, "file", f"expected at most {MAX_COMPANION_BYTES} bytes, found more")
    return data
