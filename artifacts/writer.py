"""Write a bundle beside its goal and move it into place whole.

The staging folder `.<goal>.<random>.partial` holds an flock as long as its writer lives. The kernel drops
that lock even on kill -9, so a later writer can tell an abandoned folder from one in use without trusting a
process id, which another container may have given to somebody else (FAULTS 61, 65).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from .bundle import Bundle, check_replaceable, open_bundle
from .bundle_files import PAGE_BYTES
from .checker import Checker
from .errors import BundleError, RocmforgeError, UsageError, printable
from .locked import is_at
from .manifest import MANIFEST_NAME, Manifest, check_file_name, decode_manifest, encode_manifest, oldest_version
from .manifest_entries import FileEntry

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_NO_EXCHANGE: Final = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def exchange(one: Path, other: Path) -> None:
    """Swap two names in one step, with Linux's renameat2.

    Raises:
        OSError: the call failed, or the C library does not have it (ENOSYS).
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = (ctypes.c_char_p(os.fsencode(one)), ctypes.c_char_p(os.fsencode(other)))
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class BundleStream:
    """One file being written and hashed; use it in a `with`. Made by `BundleWriter.open_stream`."""

    def __init__(self, writer: BundleWriter, name: str, fd: int) -> None:
        self._writer = writer
        self._name = name
        self._fd = fd
        self._digest = hashlib.sha256()
        self._position = 0
        self._waiting = bytearray()

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._position

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Append contiguous bytes (a `memoryview` of any item type).

        Raises:
            RocmforgeError: the disk is full or fails.
        """
        rest = memoryview(data)
        if not rest.nbytes:
            return
        rest = rest.cast("B")
        self._position += rest.nbytes
        with self._writer._failing_in_one_line():
            while rest:
                part = rest[: PAGE_BYTES - len(self._waiting)]
                rest = rest[part.nbytes :]
                if part.nbytes == PAGE_BYTES:
                    self._put(part)
                    continue
                self._waiting += part
                if len(self._waiting) == PAGE_BYTES:
                    self._put_waiting()

    def _put(self, data: memoryview) -> None:
        """Write bytes to the file: whole large pages, which the system then keeps as such, and at last what is left."""
        self._digest.update(data)
        while data:
            data = data[os.write(self._fd, data) :]  # a write may take fewer bytes than it was given

    def _put_waiting(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        self._put(memoryview(waiting))

    def align(self, alignment: int) -> int:
        """Write zeros up to a multiple of `alignment` bytes and return the position there."""
        self.write(bytes(-self._position % alignment))
        return self._position

    def close(self) -> None:
        """Flush the file to the disk and enter it in the manifest; a second call does nothing."""
        if self._fd < 0:
            return
        with self._writer._failing_in_one_line():
            try:
                self._put_waiting()
                os.fsync(self._fd)
            finally:
                fd, self._fd = self._fd, -1
                os.close(fd)
        self._writer._files[self._name] = FileEntry(self._position, self._digest.hexdigest())

    def __enter__(self) -> BundleStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class BundleWriter:
    """Writes one bundle; use it in a `with`, and call `finish` last.

    Without `finish`, or after any exception, nothing of it is left.

    Args:
        goal: where the bundle will be; replaced if it is a bundle already, and holds nothing else.

    Raises:
        UsageError: the goal exists and is not such a bundle (raised by `__enter__`, before anything is written).
        RocmforgeError: the folder of the goal cannot be written.
    """

    def __init__(self, goal: Path) -> None:
        # Where the goal is a link to a bundle, the bundle is replaced and the link kept.
        self._goal = Path(os.path.realpath(goal))
        self._staging = self._goal
        self._lock = -1
        self._files: dict[str, FileEntry] = {}

    def __enter__(self) -> BundleWriter:
        check_goal(self._goal)
        with self._failing_in_one_line():
            _remove_abandoned(self._goal)
            check_goal(self._goal)  # one that was moved aside may be back
            self._staging, self._lock = _make_staging(self._goal)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._lock >= 0:
            # After `finish`, the staging name is gone, or is the old bundle.
            _remove(self._staging)
            os.close(self._lock)
            self._lock = -1

    @property
    def staging(self) -> Path:
        """The folder in which the bundle grows."""
        return self._staging

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """The files written whole up to now."""
        return self._files

    def add_bytes(self, name: str, data: bytes) -> None:
        """Write one whole file.

        Raises:
            BundleError: the name is not allowed in a bundle.
            RocmforgeError: the disk is full or fails.
        """
        with self.open_stream(name) as stream:
            stream.write(data)

    def open_stream(self, name: str) -> BundleStream:
        """Begin a file that is written piece by piece, and hashed meanwhile."""
        check_file_name(Checker(self._goal), name)
        return self._create(name)

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest, check the whole, and move the bundle to the goal.

        Args:
            manifest: its `files`, `format_version` and `bundle_digest` are ignored and filled in.

        Returns:
            The manifest as written.
        """
        version = oldest_version(self._files, manifest.parts)
        data = encode_manifest(dataclasses.replace(manifest, files=dict(self._files), format_version=version))
        final = decode_manifest(self._goal / MANIFEST_NAME, data)
        with self._create(MANIFEST_NAME) as stream:
            stream.write(data)
        self.finish_copy()
        return final

    def finish_copy(self, check: Callable[[Bundle], None] | None = None) -> None:
        """Check a bundle of which the caller has put every file into `staging`, and move it to the goal. The content of
        the weights is for the caller to check.

        Args:
            check: refuses it by an error, opened where it is now; then nothing is moved.

        Raises:
            BundleError: it is not what its manifest says.
        """
        with open_bundle(self._staging) as bundle:
            if check is not None:
                check(bundle)
        with self._failing_in_one_line():
            for folder, _, _ in os.walk(self._staging):
                _sync_folder(Path(folder))
            self._publish()
            _sync_folder(self._goal.parent)

    def _create(self, name: str) -> BundleStream:
        path = self._staging / name
        with self._failing_in_one_line():
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            return BundleStream(self, name, os.open(path, flags, 0o666))

    def _publish(self) -> None:
        """Move the staging folder to the goal, or swap it with the bundle there; the last writer wins."""
        asides: list[Path] = []
        while True:
            try:
                os.rename(self._staging, self._goal)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            check_goal(self._goal)
            try:
                exchange(self._staging, self._goal)
                break
            except OSError as error:
                if error.errno not in (*_NO_EXCHANGE, errno.ENOENT):
                    raise
            # Names cannot be swapped here: free the goal. Should we die now, `_remove_abandoned` restores it.
            aside = self._goal.with_name(f".{self._goal.name}.{secrets.token_hex(8)}.aside.partial")
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._goal, aside)
                asides.append(aside)
        for aside in asides:
            _remove(aside)

    @contextlib.contextmanager
    def _failing_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise RocmforgeError(f"cannot write {printable(self._goal)}: {reason}") from error


def check_goal(goal: Path) -> None:
    """Refuse to replace what is not a bundle, or holds more than one.

    Raises:
        UsageError: it is there, and is no such bundle.
    """
    if not os.path.lexists(goal):
        return
    try:
        check_replaceable(goal)
    except BundleError as error:
        if os.path.lexists(goal):  # nobody has just moved it away
            problem = "what is not a bundle alone is not replaced: remove it or name another goal"
            raise UsageError(f"{error}; {problem}") from None


def _make_staging(goal: Path) -> tuple[Path, int]:
    """Make the staging folder and return it with the descriptor that holds its lock."""
    while True:
        path = goal.with_name(f".{goal.name}.{secrets.token_hex(8)}.partial")
        os.mkdir(path)
        fd = -1
        try:
            # Another writer may take the folder for abandoned until it is locked: then make another.
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                _lock(fd, fcntl.LOCK_EX)
                if is_at(fd, path):
                    return path, fd
        except BaseException:
            _remove(path)
            if fd >= 0:
                os.close(fd)
            raise
        if fd >= 0:
            os.close(fd)


def _lock(fd: int, operation: int) -> None:
    """Lock; where the file system has no locks, go on without, and nothing is taken for abandoned."""
    try:
        fcntl.flock(fd, operation)
    except OSError as error:
        if operation & fcntl.LOCK_NB or error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _remove_abandoned(goal: Path) -> None:
    """Remove what dead writers of this goal left, and put back a bundle that one of them had moved aside."""
    pattern = re.compile(re.escape(f".{goal.name}.") + r"[0-9a-f]{16}(\.aside)?\.partial")
    for name in os.listdir(goal.parent):
        match = pattern.fullmatch(name)
        if match is None:
            continue
        path = goal.parent / name
        # An error here means that the folder is in use, or gone, or not ours to remove.
        with contextlib.suppress(OSError, BundleError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Without a manifest it was never finished, or is half removed.
                whole = match[1] and os.path.lexists(path / MANIFEST_NAME)
                if whole and not os.path.lexists(goal):
                    os.rename(path, goal)
                    continue
                if whole:
                    check_replaceable(path)
                _remove(path)
            finally:
                os.close(fd)


def _remove(path: Path) -> None:
    """Remove a folder, its manifest first, so that what an interruption leaves is no bundle."""
    with contextlib.suppress(OSError):
        os.unlink(path / MANIFEST_NAME)
    shutil.rmtree(path, ignore_errors=True)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
