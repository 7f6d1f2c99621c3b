"""What a build took beside the model: compilers by the digest of their programs, and the packages that decide bytes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from ..artifacts.errors import ToolchainError, os_problem
from .build_cache import BuildCache, cache_key
from .toolchain import Toolchain

PACKAGES = ("gguf", "jinja2", "numpy", "safetensors", "tokenizers")
"""Python packages whose code makes bytes of a bundle: formats, sources, tables and packing, tensors, golden prompts."""
_KIND = "programs"  # of the cache


def package_versions() -> dict[str, str]:
    """Return the versions of `PACKAGES`. Python's is not among them: no byte of a bundle depends on it."""
    return {name: metadata.version(name) for name in PACKAGES}


def toolchain_records(toolchains: Sequence[Toolchain], cache: BuildCache) -> dict[str, dict[str, str]]:
    """Return version and digest of each toolchain, by name.

    Raises:
        ToolchainError: a program of one cannot be read.
    """
    return {tool.name: {"version": tool.version, "sha256": programs_digest(tool, cache)} for tool in toolchains}


def programs_digest(toolchain: Toolchain, cache: BuildCache) -> str:
    """Return the hex SHA-256 of a toolchain's programs and of the headers that come with it: of name, size and content.

    A compiler has hundreds of megabytes, so the cache keeps what was found, by where the files are and when they were
    written; a cache that is new finds it anew.

    Raises:
        ToolchainError: one cannot be read.
    """
    try:
        files = [found for part in toolchain.programs for found in _files(part)]
        key = cache_key(*(_stamp(path, found) for _, path, found in files))
        kept = cache.get(_KIND, key)
        if kept is not None:
            return kept.decode("ascii")
        digest = hashlib.sha256()
        for name, path, found in files:
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256")
            digest.update(f"{name}\n{found.st_size}\n{content.hexdigest()}\n".encode())
    except OSError as error:
        raise ToolchainError(f"{toolchain.name}: cannot read its programs: {os_problem(error)}") from None
    cache.put(_KIND, key, digest.hexdigest().encode())
    return digest.hexdigest()


def _files(part: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield a file, or those below a folder in order, with names that do not say where the toolchain lies, and where
    each is."""
    if not part.is_dir():
        yield part.name, os.path.realpath(part), part.stat()
        return
    root = os.path.realpath(part)
    names = [os.path.join(folder, name) for folder, _, files in os.walk(root) for name in files]
    for path in sorted(names, key=lambda name: name.split(os.sep)):
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            yield os.path.relpath(path, root), path, found


def _stamp(path: str, found: os.stat_result) -> str:
    return f"{path}\n{found.st_size}\n{found.st_mtime_ns}\n{found.st_ctime_ns}\n{found.st_ino}"
