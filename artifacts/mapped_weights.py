"""A file of weights, mapped: what is read from it is what was checked, or an error."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .bundle_files import Descriptor
from .errors import BundleError
from .manifest import WEIGHTS_NAME

if TYPE_CHECKING:
    from .bus_errors import BusErrorGuard

Stamp = tuple[int, int]  # size in bytes, and when the file was last written to, in nanoseconds


def stamp_of(fd: int) -> Stamp:
    """Return size and time of the last write of an open file."""
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns


class MappedWeights(mmap.mmap):
    """A file of weights, mapped read-only and shared; made by `map_weights`. Where it was cut, zeros are read."""

    _path: Path
    _name: str
    _file: Descriptor
    _stamp: Stamp
    _guard: BusErrorGuard

    def check(self) -> None:
        """Check that what was read is what was mapped. It takes microseconds, and any thread may ask.

        Raises:
            BundleError: the file was cut or written to, or the disk does not give it.
        """
        (n_bytes, _), found = self._stamp, stamp_of(self._file.fd)
        problem = ""
        if found[0] != n_bytes:
            problem = f"expected {n_bytes} bytes, found {found[0]}: it was changed while it was in use"
        elif found != self._stamp:
            problem = "expected it as it was opened, found that it was written to while it was in use"
        elif self._guard.broken:
            problem = "expected readable, found that the disk did not give a part of it"
        if problem:
            raise BundleError(self._path, self._name, problem)


def map_weights(
    path: Path, fd: int, stamp: Stamp | None = None, *, private: bool = False, name: str = WEIGHTS_NAME
) -> MappedWeights:
    """Map an open file of weights.

    Args:
        path: the bundle, for messages.
        fd: the file; the caller keeps it.
        stamp: which it has had since its content was known; None: which it has now.
        private: it may be written to, and what is written is this mapping's own.
        name: of the file, for messages.
    """
    from .bus_errors import BusErrorGuard  # noqa: PLC0415 - brings NumPy, which takes time to load

    stamp = stamp or stamp_of(fd)
    flags, prot = (mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) if private else (mmap.MAP_SHARED, mmap.PROT_READ)
    mapping = MappedWeights(fd, stamp[0], flags=flags, prot=prot)
    with contextlib.suppress(OSError):  # a kernel without such pages
        mapping.madvise(mmap.MADV_HUGEPAGE)  # what is not in memory yet comes in them; the file's, so others share them
    mapping._path, mapping._name, mapping._file, mapping._stamp = path, name, Descriptor(os.dup(fd)), stamp
    mapping._guard = BusErrorGuard(mapping)
    return mapping
