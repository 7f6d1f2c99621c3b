"""Bundles that were pulled, kept by the digest of the registry's manifest, and what is on its way.

downloads/<hex>                  a layer, as far as it came
uploads/<hex>.json               where an upload goes on
uploads/<hex>.lock               locked by whoever sends it
bundles/<hex>-<arches>/in_use    locked, shared, by whoever serves what lies beside it
bundles/<hex>-<arches>/NAME.rfb
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..artifacts.cache_dir import default_cache_dir
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import RocmforgeError, os_problem
from ..artifacts.locked import open_locked
from ..artifacts.manifest import MANIFEST_NAME, WEIGHTS_NAMES
from .reference import Reference

DEFAULT_LIMIT: Final = 100 << 30
_IN_USE: Final = "in_use"


def default_root() -> Path:
    """Where bundles of registries are kept."""
    return default_cache_dir() / "registry"


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache's folder, and how many bytes may lie in it."""

    root: Path
    limit: int = DEFAULT_LIMIT

    def download(self, digest: str) -> Path:
        """The file of a layer that is on its way."""
        return self.root / "downloads" / digest.removeprefix("sha256:")

    def upload(self, reference: Reference, digest: str) -> Path:
        """The file that remembers an upload."""
        where = f"{reference.host}/{reference.repository}/{digest}"
        return self.root / "uploads" / f"{hashlib.sha256(where.encode()).hexdigest()}.json"

    def bundle(self, reference: Reference, arches: tuple[str, ...]) -> Path:
        """Where a bundle is kept that has the code of these arches; of all: none."""
        kept = "+".join(arches) or "all"
        return self.root / "bundles" / f"{reference.digest.removeprefix('sha256:')}-{kept}" / f"{reference.name}.rfb"

    def hold(self, bundle: Path) -> int:
        """Have a bundle kept while this process lives, or until the descriptor is closed; it counts as used now.

        Raises:
            RocmforgeError: the cache cannot be written.
        """
        try:
            fd = open_locked(bundle.parent / _IN_USE, fcntl.LOCK_SH)  # anew where it was being removed
            os.utime(fd)
            return fd
        except OSError as error:
            raise RocmforgeError(f"cannot write {os_problem(error)}") from error

    def find_weights(self, digest: str) -> Path | None:
        """The weights of another bundle here that has the same, as far as its manifest says."""
        for manifest in sorted(self.root.glob(f"bundles/*/*.rfb/{MANIFEST_NAME}")):
            try:
                files = json.loads(manifest.read_bytes())["files"]
                digests = {name: f"sha256:{files[name]['sha256']}" for name in WEIGHTS_NAMES if name in files}
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                continue
            for name, found in digests.items():
                if found == digest and (manifest.parent / name).exists():  # and was not left out
                    return manifest.parent / name
        return None

    def trim(self, spare: Path | None = None) -> list[Path]:
        """Remove what was used longest ago until the rest is within the limit, but nothing that is in use.

        Args:
            spare: a bundle that stays, too: the one that was asked for, however large it is.

        Returns:
            What was removed.
        """
        entries = sorted(self._entries())
        total, removed = sum(n_bytes for _, n_bytes, _ in entries), []
        for _, n_bytes, path in entries:
            if total <= self.limit:
                break
            if (spare is None or spare.parent != path) and _remove_unused(path):
                removed.append(path)
                total -= n_bytes
        return removed

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each was used last, its bytes, and where it is."""
        for path in (*self.root.glob("bundles/*"), *self.root.glob("downloads/*")):
            place = path / _IN_USE if path.is_dir() else path
            with contextlib.suppress(OSError):
                files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
                yield place.stat().st_mtime, sum(file.stat().st_size for file in files), path


def _remove_unused(path: Path) -> bool:
    """Remove an entry unless somebody has locked it."""
    try:
        with open(path / _IN_USE if path.is_dir() else path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_file():
                path.unlink()
                return True
            for manifest in path.glob(f"*/{MANIFEST_NAME}"):  # first: what an interruption leaves is no bundle
                manifest.unlink()
            shutil.rmtree(path)
            return True
    except OSError:
        return False
