"""Files of a bundle's folder, each opened once and checked through the descriptor that is then used."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Final, TypeVar

from .errors import BundleError
from .manifest_entries import FileEntry

CHUNK_BYTES: Final = 1 << 20
PAGE_BYTES: Final = 2 << 20  # the larger pages of x86-64 and of 64-bit ARM
_Result = TypeVar("_Result")
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Descriptor:
    """Owns one file descriptor and closes it once."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close it, where that has not been done."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


def in_folder(path: Path, action: Callable[[Path, Descriptor], _Result]) -> _Result:
    """Open a bundle's folder and call `action`, which then owns the descriptor unless it raises."""
    while True:
        try:
            folder = Descriptor(os.open(path, _FOLDER_FLAGS))
        except (OSError, ValueError) as error:
            raise BundleError(path, "bundle", f"expected a readable folder, found {reason(error)}") from error
        try:
            return action(path, folder)
        except BundleError:
            # A compiler may have replaced this folder and be removing it: then the new one counts.
            replaced = _is_replaced(path, folder)
            folder.close()
            if not replaced:
                raise


def _is_replaced(path: Path, folder: Descriptor) -> bool:
    try:
        return not os.path.samestat(os.stat(path), os.fstat(folder.fd))
    except OSError:
        return False


def reason(error: Exception) -> str:
    """Return what the system says of an error, without its number and path."""
    return getattr(error, "strerror", None) or str(error)


def check_digest(path: Path, name: str, expected: str, found: str) -> None:
    """Refuse a file whose digest is another than the manifest's."""
    if found != expected:
        raise BundleError(path, name, f"expected sha256 {expected}, found {found}")


def found_files(path: Path, folder: int, expected: Set[str]) -> set[str]:
    """Return the names below the open folder; refuse what is neither expected nor the folder of such a file."""
    folders = {name[:cut] for name in expected for cut, c in enumerate(name) if c == "/"}
    found: set[str] = set()
    pending = [""]
    while pending:
        below = pending.pop()
        with _opened_folder(path, folder, below) as fd, os.scandir(fd) as entries:
            for entry in entries:
                name = f"{below}/{entry.name}" if below else entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if name not in (folders if is_folder else expected):
                    raise BundleError(path, name, "expected only files of the manifest, found another")
                if is_folder:
                    pending.append(name)
                found.add(name)
    return found


@contextlib.contextmanager
def _opened_folder(path: Path, folder: int, name: str) -> Iterator[int]:
    """Open a folder below `folder` ("" for itself), one part at a time, following no link."""
    fd = os.open(".", _FOLDER_FLAGS, dir_fd=folder)
    try:
        for part in name.split("/") if name else ():
            inner = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    except OSError as error:
        raise BundleError(path, name or ".", f"expected a folder, found {reason(error)}") from error
    finally:
        os.close(fd)


def open_file(path: Path, folder: int, name: str, n_bytes: int | None, limit: int | None = None) -> int:
    """Open one regular file and check its size; the caller closes the descriptor.

    Args:
        path: the bundle, for messages.
        folder: descriptor of the bundle's folder.
        name: checked relative name.
        n_bytes: expected size, or None where the size is only bounded.
        limit: largest size allowed.
    """
    parent, _, last = name.rpartition("/")
    with _opened_folder(path, folder, parent) as inside:
        try:
            fd = os.open(last, _FILE_FLAGS, dir_fd=inside)
        except OSError as error:
            raise BundleError(path, name, f"expected a file, found {reason(error)}") from error
    status = os.fstat(fd)
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "expected a regular file, found another kind"
    elif status.st_nlink > 1:
        # A second name elsewhere lets somebody change the file behind our back.
        problem = f"expected one name for the file, found {status.st_nlink} hard links"
    elif n_bytes is not None and status.st_size != n_bytes:
        problem = f"expected {n_bytes} bytes, found {status.st_size}"
    elif limit is not None and status.st_size > limit:
        problem = f"expected at most {limit} bytes, found {status.st_size}"
    if problem:
        os.close(fd)
        raise BundleError(path, name, problem)
    return fd


@contextlib.contextmanager
def opened_file(path: Path, folder: int, name: str, n_bytes: int | None, limit: int | None = None) -> Iterator[int]:
    """Open a file as `open_file` does, closed at the end; a failing read becomes a `BundleError` too."""
    fd = open_file(path, folder, name, n_bytes, limit)
    try:
        yield fd
    except OSError as error:
        raise BundleError(path, name, f"expected readable, found {reason(error)}") from error
    finally:
        os.close(fd)


def read_file(path: Path, folder: int, name: str, entry: FileEntry) -> bytes:
    """Return the bytes of a file below the open folder, which are what its entry in the manifest says."""
    with opened_file(path, folder, name, entry.n_bytes) as fd:
        return read_open(path, fd, name, entry)


def read_open(path: Path, fd: int, name: str, entry: FileEntry) -> bytes:
    """Return the bytes of an open file, wherever it stands, which are what its entry in the manifest says."""
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        data = read_all(fd, entry.n_bytes)
    except OSError as error:
        raise BundleError(path, name, f"expected readable, found {reason(error)}") from error
    check_digest(path, name, entry.sha256, hashlib.sha256(data).hexdigest())
    return data


def read_all(fd: int, n_bytes: int) -> bytes:
    """Read `n_bytes`, or fewer where the file ends; a short read is not the end."""
    chunks = []
    while n_bytes > 0 and (chunk := os.read(fd, min(n_bytes, CHUNK_BYTES))):
        chunks.append(chunk)
        n_bytes -= len(chunk)
    return b"".join(chunks)


def hash_file(fd: int, name: str, progress: Callable[[str, int], None] | None) -> str:
    """Return the SHA-256 of an open file from where it stands; `progress` is called as in `verify_bundle`."""
    digest = hashlib.sha256()
    while chunk := os.read(fd, CHUNK_BYTES):
        digest.update(chunk)
        if progress is not None:
            progress(name, len(chunk))
    return digest.hexdigest()
