"""Locks between processes and between threads: files that stay, and files that whoever had them may have removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, waiting for who has it. Not reentrant; it goes with its process, however that ends.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def open_locked(path: Path, operation: int = fcntl.LOCK_EX) -> int:
    """Lock a file that its holders may remove or move away, waiting for who has it; what lies at the path when the lock
    is had is what is locked. Folders are made.

    Args:
        path: no symbolic link.
        operation: `fcntl.LOCK_SH` for a lock that is shared.

    Returns:
        Its descriptor, to read and to write; the lock goes with it.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    while True:
        fd = _make(path)
        try:
            fcntl.flock(fd, operation)
            if is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _make(path: Path, more_tries: int = 100) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except (FileExistsError, FileNotFoundError):  # its folder has gone since
        if not more_tries:
            raise
    return _make(path, more_tries - 1)


def is_at(fd: int, path: Path) -> bool:
    """Whether an open file is the one that has this path now."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
