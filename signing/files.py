"""Files of signatures: where they lie, and how they get there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import BinaryIO, Final

from ..artifacts.companions import MAX_COMPANION_BYTES
from ..artifacts.errors import InputError, RocmforgeError, printable
from ..artifacts.manifest import MANIFEST_NAME

_NOT_OUTSIDE: Final = (errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)


def write_companion(goal: Path, data: bytes) -> None:
    """Write a file whole or not at all. Of one in a bundle nothing lies in its folder meanwhile: who opens the bundle
    would take it for damaged, and for ever where we are killed.

    Raises:
        RocmforgeError: it cannot be written.
    """
    goal = Path(os.path.realpath(goal.parent), goal.name)
    try:
        if not (goal.parent / MANIFEST_NAME).exists():
            _write_beside(goal, goal.parent, data)
            return
        try:
            _write_beside(goal, goal.parent.parent, data)
        except OSError as error:
            if error.errno not in _NOT_OUTSIDE:
                raise
            _write_nameless(goal, data)
    except OSError as error:
        raise RocmforgeError(f"cannot write {printable(goal)}: {error.strerror or error}") from error


def _write_beside(goal: Path, folder: Path, data: bytes) -> None:
    """Write a file of another name in a folder, and move it to its goal."""
    staging = folder / f".{secrets.token_hex(16)}.partial"
    try:
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
            _write(file, data)
        os.replace(staging, goal)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(staging)
        raise


def _write_nameless(goal: Path, data: bytes) -> None:
    """Write a file that has no name, and give it its own: of a bundle that is a volume, or beside which nothing may be
    written. For a moment there is none where there was one before."""
    with os.fdopen(os.open(goal.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o644), "wb") as file:
        _write(file, data)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(goal)
        folder = os.open(goal.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A folder's descriptor has it called linkat, which follows the link to the file.
            os.link(f"/proc/self/fd/{file.fileno()}", goal.name, dst_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


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
