"""Open a bundle: refuse anything that is not exactly what its manifest lists.

Every file is opened once, relative to the open folder and without following links, and is checked through the
descriptor that is then used. So a bundle that is replaced or tampered with meanwhile is either seen whole or
refused, never half of each (FAULTS 32, 42).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from .errors import BundleError
from .layout import Layout
from .layout_file import MAX_LAYOUT_BYTES, decode_layout
from .manifest import (
    LAYOUT_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    WEIGHTS_NAME,
    FileEntry,
    Manifest,
    TargetEntry,
    decode_manifest,
    listed_files,
)

if TYPE_CHECKING:
    from .bus_errors import BusErrorGuard

CHUNK_BYTES: Final = 1 << 20
# All files but the weights are hashed when a bundle is opened, so their sum bounds the time that this takes.
MAX_SMALL_FILES_BYTES: Final = 1 << 30

_Result = TypeVar("_Result")
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Descriptor:
    """Owns one file descriptor and closes it once."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()


_Stamp = tuple[int, int]  # size in bytes, and when it was last written to, in nanoseconds


class _Weights(_Descriptor):
    """weights.bin, open, and the stamp with which its content counts as the manifest's."""

    __slots__ = ("refused", "stamp")

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.stamp = _stamp(fd)
        self.refused: tuple[_Stamp, BundleError] | None = None  # what was read since, and found to be something else


def _stamp(fd: int) -> _Stamp:
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns


class MappedWeights(mmap.mmap):
    """weights.bin, mapped read-only and shared; made by `map_weights`. Where it was cut, zeros are read."""

    _path: Path
    _file: _Descriptor
    _stamp: _Stamp
    _guard: BusErrorGuard

    def check(self) -> None:
        """Whether what was read is what was mapped. Takes microseconds; from any thread.

        Raises:
            BundleError: the file was cut or written to, or the disk does not give it.
        """
        (n_bytes, _), found = self._stamp, _stamp(self._file.fd)
        problem = ""
        if found[0] != n_bytes:
            problem = f"expected {n_bytes} bytes, found {found[0]}: it was changed while it was in use"
        elif found != self._stamp:
            problem = "expected it as it was opened, found that it was written to while it was in use"
        elif self._guard.broken:
            problem = "expected readable, found that the disk did not give a part of it"
        if problem:
            raise BundleError(self._path, WEIGHTS_NAME, problem)


def map_weights(path: Path, fd: int, stamp: _Stamp | None = None) -> MappedWeights:
    """Map an open weights.bin.

    Args:
        path: the bundle, for messages.
        fd: the file; the caller keeps it.
        stamp: which it has had since its content was known; None: which it has now.
    """
    from .bus_errors import BusErrorGuard  # noqa: PLC0415 - brings NumPy, which takes time to load

    stamp = stamp or _stamp(fd)
    mapping = MappedWeights(fd, stamp[0], flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    mapping._path, mapping._file, mapping._stamp = path, _Descriptor(os.dup(fd)), stamp
    mapping._guard = BusErrorGuard(mapping)
    return mapping


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle; close it, or use it in a `with`.

    When a compiler replaces the folder, the weights stay mapped; `read` then fails rather than mix the two.
    """

    path: Path
    manifest: Manifest
    layouts: Mapping[str, Layout]  # by the file's name
    _folder: _Descriptor
    _weights: _Weights

    @property
    def layout(self) -> Layout:
        """The layout that every bundle has, `layout.msgpack`: its first target's."""
        return self.layouts[LAYOUT_NAME]

    def layout_of(self, target: TargetEntry) -> Layout:
        """The layout that the code of `target` was made for."""
        return self.layouts[target.layout]

    def read(self, name: str) -> bytes:
        """Return the bytes of a file (not the weights), its digest checked.

        Raises:
            BundleError: the file is not in the manifest, or is not what the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None or name == WEIGHTS_NAME:
            raise BundleError(self.path, name, "expected a file of the manifest that is not mapped")
        with _opened(self.path, self._folder.fd, name, entry.n_bytes) as fd:
            data = _read_all(fd, entry.n_bytes)
        _check_digest(self.path, name, entry.sha256, hashlib.sha256(data).hexdigest())
        return data

    def open_code(self, name: str) -> int:
        """Return a descriptor of a sealed copy in memory of a code file, for `dlopen("/proc/self/fd/N")`.

        The copy is what was checked, and nobody can change it afterwards. The caller closes the descriptor.

        Raises:
            BundleError: the file is not in the manifest, or is not what the manifest says.
        """
        data = memoryview(self.read(name))
        fd = os.memfd_create(name.rpartition("/")[2][:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            while data:
                data = data[os.write(fd, data) :]
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            os.lseek(fd, 0, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def map_weights(self) -> MappedWeights:
        """Map weights.bin through the descriptor that was checked at opening. Where the file was written to since, all
        of it is read first.

        Raises:
            BundleError: the file is empty, or is no longer what the manifest says.
        """
        weights, n_bytes = self._weights, self.manifest.files[WEIGHTS_NAME].n_bytes
        found = _stamp(weights.fd)
        if found[0] != n_bytes or not n_bytes:
            expected = f"expected {max(n_bytes, 1)} bytes, found {found[0]}"
            raise BundleError(self.path, WEIGHTS_NAME, expected)
        if found != weights.stamp:
            self._check_weights(found)
        return map_weights(self.path, weights.fd, found)

    @property
    def weights_stamp(self) -> tuple[int, int]:
        """Bytes of weights.bin and when it was written to, in nanoseconds, as its content was last known."""
        return self._weights.stamp

    def trust_weights(self, stamp: tuple[int, int]) -> None:
        """Count the content of weights.bin as known where it has this stamp; else `map_weights` reads it first."""
        self._weights.stamp = stamp

    def _check_weights(self, stamp: _Stamp) -> None:
        """Read weights.bin whole, once for each stamp; with this one its content counts from now on."""
        weights = self._weights
        if weights.refused is None or weights.refused[0] != stamp:
            try:
                self.read_weights()
                weights.stamp, weights.refused = stamp, None
                return
            except BundleError as error:
                weights.refused = stamp, error
        raise weights.refused[1]

    def read_weights(self, progress: Callable[[str, int], None] | None = None) -> None:
        """Check the digest of weights.bin.

        Args:
            progress: called with the file's name and the bytes of it read since the last call.

        Raises:
            BundleError: it is not what the manifest says, or cannot be read.
        """
        try:
            os.lseek(self._weights.fd, 0, os.SEEK_SET)
            found = _hash(self._weights.fd, WEIGHTS_NAME, progress)
        except OSError as error:
            raise BundleError(self.path, WEIGHTS_NAME, f"expected readable, found {_reason(error)}") from error
        _check_digest(self.path, WEIGHTS_NAME, self.manifest.files[WEIGHTS_NAME].sha256, found)

    def close(self) -> None:
        """Close the descriptors; a mapping that was handed out stays valid."""
        self._folder.close()
        self._weights.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_bundle(path: Path) -> Bundle:
    """Open a bundle after the quick check: everything but the contents of weights.bin.

    Args:
        path: the bundle's folder.

    Raises:
        BundleError: the bundle is not exactly what its manifest says; names the file and the field.
    """
    return _in_folder(path, _open_files)


def check_replaceable(path: Path) -> None:
    """Refuse a folder that is anything but a bundle of ours: of whatever format version, sound or damaged, but with
    nothing beside what its manifest lists.

    Raises:
        BundleError: names what is no part of a bundle.
    """
    _in_folder(path, _check_nothing_else)


def _in_folder(path: Path, action: Callable[[Path, _Descriptor], _Result]) -> _Result:
    """Open the folder and call `action`, which then owns it unless it raises."""
    while True:
        try:
            folder = _Descriptor(os.open(path, _FOLDER_FLAGS))
        except (OSError, ValueError) as error:
            raise BundleError(path, "bundle", f"expected a readable folder, found {_reason(error)}") from error
        try:
            return action(path, folder)
        except BundleError:
            # A compiler may have replaced this folder and be removing it: then the new one counts.
            replaced = _is_replaced(path, folder)
            folder.close()
            if not replaced:
                raise


def _is_replaced(path: Path, folder: _Descriptor) -> bool:
    try:
        return not os.path.samestat(os.stat(path), os.fstat(folder.fd))
    except OSError:
        return False


def _check_nothing_else(path: Path, folder: _Descriptor) -> None:
    """See `check_replaceable`."""
    listed = listed_files(path / MANIFEST_NAME, _read_manifest(path, folder))
    _found_files(path, folder.fd, listed | {MANIFEST_NAME})
    folder.close()


def _read_manifest(path: Path, folder: _Descriptor) -> bytes:
    with _opened(path, folder.fd, MANIFEST_NAME, None, MAX_MANIFEST_BYTES) as fd:
        return _read_all(fd, os.fstat(fd).st_size)


def _open_files(path: Path, folder: _Descriptor) -> Bundle:
    """Check the files of the open folder and return the bundle, which then owns `folder`."""
    manifest = decode_manifest(path / MANIFEST_NAME, _read_manifest(path, folder))
    files = manifest.files
    _check_listing(path, folder.fd, manifest)
    small = sum(entry.n_bytes for name, entry in files.items() if name != WEIGHTS_NAME)
    if small > MAX_SMALL_FILES_BYTES:
        problem = f"expected at most {MAX_SMALL_FILES_BYTES} bytes beside the weights, found {small}"
        raise BundleError(path, "files", problem)
    layout_names = sorted({LAYOUT_NAME, *(target.layout for target in manifest.targets)})
    for name, entry in files.items():
        if name != WEIGHTS_NAME and name not in layout_names:
            with _opened(path, folder.fd, name, entry.n_bytes) as fd:
                _check_digest(path, name, entry.sha256, _hash(fd, name, None))
    weights = _Weights(_open(path, folder.fd, WEIGHTS_NAME, files[WEIGHTS_NAME].n_bytes))
    try:
        layouts = {name: _read_layout(path, folder, files, name) for name in layout_names}
    except BaseException:
        weights.close()
        raise
    return Bundle(path, manifest, layouts, folder, weights)


def _read_layout(path: Path, folder: _Descriptor, files: Mapping[str, FileEntry], name: str) -> Layout:
    entry = files[name]
    if entry.n_bytes > MAX_LAYOUT_BYTES:
        raise BundleError(path, name, f"expected at most {MAX_LAYOUT_BYTES} bytes, found {entry.n_bytes}")
    with _opened(path, folder.fd, name, entry.n_bytes) as fd:
        data = _read_all(fd, entry.n_bytes)
    _check_digest(path, name, entry.sha256, hashlib.sha256(data).hexdigest())
    return decode_layout(path / name, data, files[WEIGHTS_NAME].n_bytes)


def verify_bundle(path: Path, progress: Callable[[str, int], None] | None = None) -> Bundle:
    """Open a bundle and read all of it, the weights too.

    Args:
        path: the bundle's folder.
        progress: called with a file's name and the bytes of it read since the last call.

    Raises:
        BundleError: as `open_bundle`, or the weights are not what the manifest says.
    """
    bundle = open_bundle(path)
    try:
        bundle.read_weights(progress)
    except BaseException:
        bundle.close()
        raise
    return bundle


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _check_digest(path: Path, name: str, expected: str, found: str) -> None:
    if found != expected:
        raise BundleError(path, name, f"expected sha256 {expected}, found {found}")


def _check_listing(path: Path, folder: int, manifest: Manifest) -> None:
    """Refuse what exists but is not listed, and what is listed but does not exist."""
    expected = manifest.files.keys() | {MANIFEST_NAME}
    for name in sorted(expected - _found_files(path, folder, expected)):
        raise BundleError(path, name, "expected a file, found none")


def _found_files(path: Path, folder: int, expected: Set[str]) -> set[str]:
    """Names below the open folder; refuses what is neither expected nor the folder of such a file."""
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
        raise BundleError(path, name or ".", f"expected a folder, found {_reason(error)}") from error
    finally:
        os.close(fd)


def _open(path: Path, folder: int, name: str, n_bytes: int | None, limit: int | None = None) -> int:
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
            raise BundleError(path, name, f"expected a file, found {_reason(error)}") from error
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
def _opened(path: Path, folder: int, name: str, n_bytes: int | None, limit: int | None = None) -> Iterator[int]:
    """`_open`, closed at the end; a failing read becomes a `BundleError` too."""
    fd = _open(path, folder, name, n_bytes, limit)
    try:
        yield fd
    except OSError as error:
        raise BundleError(path, name, f"expected readable, found {_reason(error)}") from error
    finally:
        os.close(fd)


def _read_all(fd: int, n_bytes: int) -> bytes:
    """Read `n_bytes`, or fewer where the file ends; a short read is not the end."""
    chunks = []
    while n_bytes > 0 and (chunk := os.read(fd, min(n_bytes, CHUNK_BYTES))):
        chunks.append(chunk)
        n_bytes -= len(chunk)
    return b"".join(chunks)


def _hash(fd: int, name: str, progress: Callable[[str, int], None] | None) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(fd, CHUNK_BYTES):
        digest.update(chunk)
        if progress is not None:
            progress(name, len(chunk))
    return digest.hexdigest()
