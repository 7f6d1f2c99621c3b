"""Open a bundle: refuse anything that is not exactly what its manifest lists.

Every file is opened once, relative to the open folder and without following links, and is checked through the
descriptor that is then used. So a bundle that is replaced or tampered with meanwhile is either seen whole or
refused, never half of each (FAULTS 32, 42).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
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
    read_open,
    reason,
)
from .companions import COMPANION_NAMES, MAX_COMPANION_BYTES, PULLED_NAME
from .dataclass import dataclass
from .errors import BundleError
from .layout import Layout
from .layout_file import MAX_LAYOUT_BYTES, decode_layout
from .manifest import (
    LAYOUT_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    WEIGHTS_NAME,
    WEIGHTS_NAMES,
    Manifest,
    decode_manifest,
    listed_files,
)
from .manifest_entries import FileEntry, TargetEntry
from .mapped_weights import MappedWeights, Stamp, map_weights, stamp_of
from .pulled import decode_pulled, without_left_out

# All files but the weights are hashed when a bundle is opened, so their sum bounds the time that this takes.
MAX_SMALL_FILES_BYTES: Final = 1 << 30


class _Weights:
    """The files of weights, open, and the stamps with which their content counts as the manifest's."""

    def __init__(self) -> None:
        self.files: dict[str, Descriptor] = {}  # by name
        self.stamps: tuple[Stamp, ...] = ()  # of each
        self.refused: tuple[tuple[Stamp, ...], BundleError] | None = None  # what was read since, and is something else

    def found(self) -> tuple[Stamp, ...]:
        """The stamps of now."""
        return tuple(stamp_of(file.fd) for file in self.files.values())

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle; close it, or use it in a `with`.

    When a compiler replaces the folder, the weights stay mapped and a `reader` reads; `read` then fails rather than mix
    the two. Where code and weights were left out of a copy (`pulled.py`), `manifest` has neither the targets nor the
    files of them.
    """

    path: Path
    manifest: Manifest
    layouts: Mapping[str, Layout]  # by the file's name; those of parts too
    digests: Mapping[str, str]  # hex SHA-256 of each file by its name: of those left out, and of the manifest, too
    _folder: Descriptor
    _weights: _Weights
    _kept: dict[str, bytes]  # content of files, until it is read
    layout_name: str = LAYOUT_NAME

    @property
    def layout(self) -> Layout:
        """The layout of its first target."""
        targets = self.manifest.targets
        return self.layouts[targets[0].layout if targets else self.layout_name]

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
        """Whether nothing was left out of this copy."""
        return len(self.digests) == len(self.manifest.files) + 1

    def layout_of(self, target: TargetEntry) -> Layout:
        """The layout that the code of `target` was made for."""
        return self.layouts[target.layout]

    def read(self, name: str) -> bytes:
        """Return the bytes of a file (not the weights), its digest checked.

        Raises:
            BundleError: the file is not in the manifest, or is not what the manifest says.
        """
        entry, kept = self._entry(name), self._kept.pop(name, None)
        return read_file(self.path, self._folder.fd, name, entry) if kept is None else kept

    def reader(self, name: str) -> Callable[[], bytes]:
        """Open a file now, to read it later, as `read` does, though the folder was replaced or removed meanwhile and
        this bundle closed. The file stays open as long as what is returned is kept; one thread at a time may call it.

        Raises:
            BundleError: as `read`; of what it can see before it reads.
        """
        path, entry = self.path, self._entry(name)
        file = Descriptor(open_file(path, self._folder.fd, name, entry.n_bytes))
        return lambda: read_open(path, file.fd, name, entry)

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None or name in WEIGHTS_NAMES:
            raise BundleError(self.path, name, "expected a file of the manifest that is not mapped")
        return entry

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

    def map_weights(self, backend: str = "") -> MappedWeights:
        """Map what the code of a backend (none: of the first target) reads, through the descriptor that was checked at
        opening. Where weights were written to since, all are read first.

        Raises:
            BundleError: the file is empty, or is no longer what the manifest says.
        """
        weights, targets = self._weights, self.manifest.targets
        name = self.manifest.weights_of(backend or (targets[0].backend if targets else ""))
        n_bytes = self.manifest.files[name].n_bytes
        found = weights.found()
        stamp = dict(zip(weights.files, found, strict=True))[name]
        if stamp[0] != n_bytes or not n_bytes:
            raise BundleError(self.path, name, f"expected {max(n_bytes, 1)} bytes, found {stamp[0]}")
        if found != weights.stamps:
            self._check_weights(found)
        return map_weights(self.path, weights.files[name].fd, stamp, name=name)

    @property
    def weights_stamps(self) -> tuple[Stamp, ...]:
        """Bytes of each file of weights and when it was written to, in nanoseconds, as its content was last known."""
        return self._weights.stamps

    def trust_weights(self, stamps: tuple[Stamp, ...]) -> None:
        """Count the content of the weights as known where they have these stamps; else `map_weights` reads them."""
        self._weights.stamps = stamps

    def _check_weights(self, stamps: tuple[Stamp, ...]) -> None:
        """Read the weights whole, once for each stamp; with these their content counts from now on."""
        weights = self._weights
        if weights.refused is None or weights.refused[0] != stamps:
            try:
                self.read_weights()
                weights.stamps, weights.refused = stamps, None
                return
            except BundleError as error:
                weights.refused = stamps, error
        raise weights.refused[1]

    def read_weights(self, progress: Callable[[str, int], None] | None = None) -> None:
        """Check the digests of the weights.

        Args:
            progress: called with a file's name and the bytes of it read since the last call.

        Raises:
            BundleError: they are not what the manifest says, or cannot be read.
        """
        for name, file in self._weights.files.items():
            try:
                os.lseek(file.fd, 0, os.SEEK_SET)
                found = hash_file(file.fd, name, progress)
            except OSError as error:
                raise BundleError(self.path, name, f"expected readable, found {reason(error)}") from error
            check_digest(self.path, name, self.manifest.files[name].sha256, found)

    def close(self) -> None:
        """Close the descriptors; a mapping that was handed out stays valid."""
        self._folder.close()
        self._weights.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_bundle(path: Path, keep: Collection[str] = ()) -> Bundle:
    """Open a bundle after the quick check: everything but the contents of the weights.

    Args:
        path: the bundle's folder.
        keep: files, where it has them, whose content the first `read` of each gives as the check has found it.

    Raises:
        BundleError: the bundle is not exactly what its manifest says; names the file and the field.
    """
    return in_folder(path, lambda path, folder: _open_files(path, folder, keep))


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


def _open_files(path: Path, folder: Descriptor, keep: Collection[str]) -> Bundle:
    """Check the files of the open folder and return the bundle, which then owns `folder`."""
    data = _read_manifest(path, folder)
    manifest = whole = decode_manifest(path / MANIFEST_NAME, data)
    digests = {name: entry.sha256 for name, entry in manifest.files.items()}
    digests[MANIFEST_NAME] = hashlib.sha256(data).hexdigest()
    pulled = _read_companion(path, folder, PULLED_NAME)
    if pulled is not None:
        manifest = without_left_out(path / PULLED_NAME, manifest, decode_pulled(path / PULLED_NAME, pulled))
    files = manifest.files
    _check_listing(path, folder.fd, manifest)
    small = sum(entry.n_bytes for name, entry in files.items() if name not in WEIGHTS_NAMES)
    if small > MAX_SMALL_FILES_BYTES:
        problem = f"expected at most {MAX_SMALL_FILES_BYTES} bytes beside the weights, found {small}"
        raise BundleError(path, "files", problem)
    layout_names = sorted(_layout_names(manifest))
    kept: dict[str, bytes] = {}
    for name, entry in files.items():
        if name in keep:
            kept[name] = read_file(path, folder.fd, name, entry)
        elif name not in WEIGHTS_NAMES and name not in layout_names:
            with opened_file(path, folder.fd, name, entry.n_bytes) as fd:
                check_digest(path, name, entry.sha256, hash_file(fd, name, None))
    weights = _Weights()
    try:
        for name in (name for name in WEIGHTS_NAMES if name in files):
            weights.files[name] = Descriptor(open_file(path, folder.fd, name, files[name].n_bytes))
        weights.stamps = weights.found()
        layouts = {name: _read_layout(path, folder, whole, name) for name in layout_names}
    except BaseException:
        weights.close()
        raise
    return Bundle(path, manifest, layouts, digests, folder, weights, kept)


def _layout_names(manifest: Manifest) -> set[str]:
    """Return the layouts of a bundle and of its parts, the first of each too where the code for it was left out."""
    first = (LAYOUT_NAME, *(f"{part}/{LAYOUT_NAME}" for part in manifest.parts))
    return {*first, *(target.layout for target in manifest.all_targets)}


def _read_layout(path: Path, folder: Descriptor, manifest: Manifest, name: str) -> Layout:
    """Read a layout whose tensors lie within the weights of each of its targets, here or left out."""
    entry = manifest.files[name]
    if entry.n_bytes > MAX_LAYOUT_BYTES:
        raise BundleError(path, name, f"expected at most {MAX_LAYOUT_BYTES} bytes, found {entry.n_bytes}")
    data = read_file(path, folder.fd, name, entry)
    weights = {manifest.weights_of(target.backend) for target in manifest.all_targets if target.layout == name}
    n_bytes = min(manifest.files[file].n_bytes for file in weights or {WEIGHTS_NAME})
    return decode_layout(path / name, data, n_bytes)


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
