"""Open a bundle: refuse anything that is not exactly what its manifest lists.

Every file is opened once, relative to the open folder and without following links, and is checked through the
descriptor that is then used. So a bundle that is replaced or tampered with meanwhile is either seen whole or
refused, never half of each (FAULTS 32, 42).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from .bundle_files import (
    Descriptor,
    check_digest,
    found_files,
    hash_file,
    in_folder,
    open_file,
    opened_file,
    read_all,
    read_file,
    reason,
)
from .companions import COMPANION_NAMES, MAX_COMPANION_BYTES, PULLED_NAME
from .errors import BundleError
from .layout import Layout
from .layout_file import MAX_LAYOUT_BYTES, decode_layout
from .manifest import (
    LAYOUT_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    WEIGHTS_NAME,
    Manifest,
    decode_manifest,
    listed_files,
)
from .manifest_entries import FileEntry, TargetEntry
from .mapped_weights import MappedWeights, Stamp, map_weights, stamp_of
from .pulled import decode_pulled, without_left_out

# All files but the weights are hashed when a bundle is opened, so their sum bounds the time that this takes.
MAX_SMALL_FILES_BYTES: Final = 1 << 30


class _Weights(Descriptor):
    """weights.bin, open, and the stamp with which its content counts as the manifest's."""

    __slots__ = ("refused", "stamp")

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.stamp = stamp_of(fd)
        self.refused: tuple[Stamp, BundleError] | None = None  # what was read since, and found to be something else


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle; close it, or use it in a `with`.

    When a compiler replaces the folder, the weights stay mapped; `read` then fails rather than mix the two. Where code
    was left out of a copy (`pulled.py`), `manifest` has neither the targets nor the files of it.
    """

    path: Path
    manifest: Manifest
    layouts: Mapping[str, Layout]  # by the file's name; those of parts too
    digests: Mapping[str, str]  # hex SHA-256 of each file by its name: of those left out, and of the manifest, too
    _folder: Descriptor
    _weights: _Weights
    layout_name: str = LAYOUT_NAME

    @property
    def layout(self) -> Layout:
        """The layout that every bundle has, `layout.msgpack`: its first target's."""
        return self.layouts[self.layout_name]

    def part(self, name: str) -> Bundle:
        """Return a part as a bundle with targets and layouts of its own, good as long as this one is open.

        Raises:
            BundleError: there is no such part.
        """
        if name not in self.manifest.parts:
            raise BundleError(self.path, f"parts.{name}", "expected a part of that name, found none")
        manifest = self.manifest.of_part(name)
        layouts = {one: layout for one, layout in self.layouts.items() if one.startswith(f"{name}/")}
        return replace(self, manifest=manifest, layouts=layouts, layout_name=f"{name}/{LAYOUT_NAME}")

    @property
    def is_whole(self) -> bool:
        """Whether no code was left out of this copy."""
        return len(self.digests) == len(self.manifest.files) + 1

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
        return read_file(self.path, self._folder.fd, name, entry)

    def read_companion(self, name: str) -> bytes | None:
        """Return the bytes of one of `COMPANION_NAMES`, of which nothing is known; None where there is none.

        Raises:
            BundleError: it cannot be read, or is too large.
        """
        return _read_companion(self.path, self._folder, name)

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
        found = stamp_of(weights.fd)
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

    def _check_weights(self, stamp: Stamp) -> None:
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
            found = hash_file(self._weights.fd, WEIGHTS_NAME, progress)
        except OSError as error:
            raise BundleError(self.path, WEIGHTS_NAME, f"expected readable, found {reason(error)}") from error
        check_digest(self.path, WEIGHTS_NAME, self.manifest.files[WEIGHTS_NAME].sha256, found)

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
    return in_folder(path, _open_files)


def check_replaceable(path: Path) -> None:
    """Refuse a folder that is anything but a bundle of ours: of whatever format version, sound or damaged, but with
    nothing beside what its manifest lists.

    Raises:
        BundleError: names what is no part of a bundle.
    """
    in_folder(path, _check_nothing_else)


def _check_nothing_else(path: Path, folder: Descriptor) -> None:
    """See `check_replaceable`."""
    listed = listed_files(path / MANIFEST_NAME, _read_manifest(path, folder))
    found_files(path, folder.fd, listed | {MANIFEST_NAME, *COMPANION_NAMES})
    folder.close()


def _read_manifest(path: Path, folder: Descriptor) -> bytes:
    with opened_file(path, folder.fd, MANIFEST_NAME, None, MAX_MANIFEST_BYTES) as fd:
        return read_all(fd, os.fstat(fd).st_size)


def _read_companion(path: Path, folder: Descriptor, name: str) -> bytes | None:
    try:
        os.lstat(name, dir_fd=folder.fd)
    except OSError:
        return None
    with opened_file(path, folder.fd, name, None, MAX_COMPANION_BYTES) as fd:
        return read_all(fd, os.fstat(fd).st_size)


def _open_files(path: Path, folder: Descriptor) -> Bundle:
    """Check the files of the open folder and return the bundle, which then owns `folder`."""
    data = _read_manifest(path, folder)
    manifest = decode_manifest(path / MANIFEST_NAME, data)
    digests = {name: entry.sha256 for name, entry in manifest.files.items()}
    digests[MANIFEST_NAME] = hashlib.sha256(data).hexdigest()
    pulled = _read_companion(path, folder, PULLED_NAME)
    if pulled is not None:
        manifest = without_left_out(path / PULLED_NAME, manifest, decode_pulled(path / PULLED_NAME, pulled))
    files = manifest.files
    _check_listing(path, folder.fd, manifest)
    small = sum(entry.n_bytes for name, entry in files.items() if name != WEIGHTS_NAME)
    if small > MAX_SMALL_FILES_BYTES:
        problem = f"expected at most {MAX_SMALL_FILES_BYTES} bytes beside the weights, found {small}"
        raise BundleError(path, "files", problem)
    layout_names = sorted(_layout_names(manifest))
    for name, entry in files.items():
        if name != WEIGHTS_NAME and name not in layout_names:
            with opened_file(path, folder.fd, name, entry.n_bytes) as fd:
                check_digest(path, name, entry.sha256, hash_file(fd, name, None))
    weights = _Weights(open_file(path, folder.fd, WEIGHTS_NAME, files[WEIGHTS_NAME].n_bytes))
    try:
        layouts = {name: _read_layout(path, folder, files, name) for name in layout_names}
    except BaseException:
        weights.close()
        raise
    return Bundle(path, manifest, layouts, digests, folder, weights)


def _layout_names(manifest: Manifest) -> set[str]:
    """Return the layouts of a bundle and of its parts, the first of each too where the code for it was left out."""
    first = (LAYOUT_NAME, *(f"{part}/{LAYOUT_NAME}" for part in manifest.parts))
    return {*first, *(target.layout for target in manifest.all_targets)}


def _read_layout(path: Path, folder: Descriptor, files: Mapping[str, FileEntry], name: str) -> Layout:
    entry = files[name]
    if entry.n_bytes > MAX_LAYOUT_BYTES:
        raise BundleError(path, name, f"expected at most {MAX_LAYOUT_BYTES} bytes, found {entry.n_bytes}")
    data = read_file(path, folder.fd, name, entry)
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


def _check_listing(path: Path, folder: int, manifest: Manifest) -> None:
    """Refuse what exists but is not listed, and what is listed but does not exist."""
    expected = manifest.files.keys() | {MANIFEST_NAME}
    for name in sorted(expected - found_files(path, folder, expected | COMPANION_NAMES)):
        raise BundleError(path, name, "expected a file, found none")
