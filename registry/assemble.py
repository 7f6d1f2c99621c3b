"""A bundle of layers that were downloaded: made beside its goal, checked, and moved into place."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..artifacts.bundle import Bundle
from ..artifacts.companions import PULLED_NAME
from ..artifacts.errors import BundleError, RocmforgeError, os_problem, printable
from ..artifacts.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, WEIGHTS_NAMES, decode_manifest
from ..artifacts.pulled import Pulled
from ..artifacts.writer import BundleWriter
from .artifact import FILES_TYPE, MAX_ARCHIVE_BYTES, SOURCES_TYPE, Artifact, Descriptor
from .cache import Cache
from .transfer import layer_name

_ONCE: Final = "expected files of a bundle, each once"


def assemble(
    reference: str,
    artifact: Artifact,
    layers: Sequence[Descriptor],
    cache: Cache,
    goal: Path,
    check: Callable[[Bundle], None] | None = None,
) -> None:
    """Make a bundle of downloads, each of which has its digest. They are gone then.

    Args:
        reference: the artifact's name by its digest, for messages and for `pulled.json`.
        artifact: what it is.
        layers: those of it that were downloaded.
        cache: where they are.
        goal: the bundle; replaced if it is one.
        check: as `pull_bundle` has it.

    Raises:
        BundleError: they make no bundle, or another than the artifact says.
        RocmforgeError: it cannot be written.
    """
    uses = Counter(layer.digest for layer in layers)  # two files may be equal
    left_out = tuple(layer.path for layer in artifact.layers if layer not in layers)
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with BundleWriter(goal) as writer:
            for layer in layers:
                source = cache.download(layer.digest)
                uses[layer.digest] -= 1
                if layer.media_type in (FILES_TYPE, SOURCES_TYPE):
                    for name, data in _members(reference, layer, source):
                        _write(_free_place(reference, layer, writer.staging, name), data)
                else:
                    place = _free_place(reference, layer, writer.staging, layer.path)
                    _bring(source, place, shutil.copyfile if uses[layer.digest] else shutil.move)
            _check_identity(reference, artifact, writer.staging)
            _write(writer.staging / PULLED_NAME, Pulled(reference, left_out).encode())
            writer.finish_copy(check and (lambda bundle: check(replace(bundle, path=Path(reference)))))
    except OSError as error:
        raise RocmforgeError(f"cannot write {os_problem(error)}") from error
    for layer in layers:
        cache.download(layer.digest).unlink(missing_ok=True)


def _free_place(reference: str, layer: Descriptor, folder: Path, name: str) -> Path:
    """Where a file goes, whose name is a stranger's: below the folder, and none is there."""
    goal = folder / name
    is_inside = all(part not in {"", ".", ".."} for part in name.split("/")) and name.isprintable()
    if not is_inside or name == PULLED_NAME or os.path.lexists(goal):
        raise BundleError(reference, layer_name(layer), f"{_ONCE}, found {printable(name)}")
    goal.parent.mkdir(parents=True, exist_ok=True)
    return goal


def _members(reference: str, layer: Descriptor, source: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the files in an archive.

    Raises:
        BundleError: it is none, holds more than plain files, or is too large.
    """
    total = 0
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                total += member.size
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is None or member.issparse() or total > MAX_ARCHIVE_BYTES:
                    problem = f"{_ONCE}, and {MAX_ARCHIVE_BYTES} bytes at most, found {printable(member.name)}"
                    raise BundleError(reference, layer_name(layer), problem)
                yield member.name, stream.read()
    except (tarfile.TarError, ArithmeticError, LookupError, ValueError, RecursionError) as error:  # it has no one type
        raise BundleError(reference, layer_name(layer), f"expected a tar archive, found otherwise: {error}") from error


def _bring(source: Path, goal: Path, how: Callable[[Path, Path], object]) -> None:
    """Move or copy a file, which has reached the disk then."""
    how(source, goal)
    fd = os.open(goal, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(goal: Path, data: bytes) -> None:
    with goal.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _check_identity(reference: str, artifact: Artifact, folder: Path) -> None:
    """Hold the bundle's manifest against what the registry's says: which bundle it is, and its weights, whose content
    nobody reads again."""
    try:
        with (folder / MANIFEST_NAME).open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(reference, MANIFEST_NAME, "expected a file, found none") from error
    manifest = decode_manifest(f"{reference}: {MANIFEST_NAME}", data)
    if manifest.bundle_digest != artifact.bundle_digest:
        found = f"expected {artifact.bundle_digest}, as the registry says, found {manifest.bundle_digest}"
        raise BundleError(reference, "bundle_digest", found)
    for name in (name for name in WEIGHTS_NAMES if name in manifest.files):
        expected = f"sha256:{manifest.files[name].sha256}"
        found_digests = [layer.digest for layer in artifact.layers if layer.path == name]
        if found_digests != [expected]:
            raise BundleError(reference, name, f"expected one layer, {expected}, found {found_digests}")
