"""A cache of what is slow to make, by the digest of what it is made from.

An entry is the file `<kind>/<key[:2]>/<key>/<sha256 of its content>`. The name holds the digest, so one
rename makes an entry, with its digest, appear whole; every read checks it. The cache never fails a compile:
what it cannot read or write, it does without, and says so in the log.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ..artifacts.locked import locked

_log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 1 << 20
_HEX: Final = re.compile(r"[0-9a-f]{8,128}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_KIND: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}", re.ASCII)


def cache_key(*parts: bytes | str) -> str:
    """Return the hex SHA-256 of the parts, each with its length before it: ("ab", "c") is not ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


class BuildCache:
    """The cache below one folder, safe for any number of processes.

    Args:
        root: the folder, made at the first `put`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._warned = False

    def get(self, kind: str, key: str) -> bytes | None:
        """Return the content of an entry, checked; None where there is none, or it was corrupt.

        Args:
            kind: as `code`; lower case.
            key: hex, from `cache_key`.
        """
        for path in self._entries(kind, key):
            try:
                data = path.read_bytes()
            except OSError as error:
                self._warn(error)
                continue
            if hashlib.sha256(data).hexdigest() == path.name:
                return data
            self._discard(path)
        return None

    def get_file(self, kind: str, key: str) -> Path | None:
        """Return the path of an entry, its content checked; None as for `get`. For what is large."""
        for path in self._entries(kind, key):
            try:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                self._warn(error)
                continue
            if digest == path.name:
                return path
            self._discard(path)
        return None

    def put(self, kind: str, key: str, data: bytes) -> None:
        """Store an entry; several contents under one key do not disturb each other."""

        def fill(fd: int) -> str:
            _write_all(fd, data)
            return hashlib.sha256(data).hexdigest()

        self._store(kind, key, fill)

    def put_file(self, kind: str, key: str, source: Path) -> None:
        """Store a copy of a file.

        Raises:
            OSError: the source cannot be opened.
        """
        with open(source, "rb", buffering=0) as file:

            def fill(fd: int) -> str:
                digest = hashlib.sha256()
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    _write_all(fd, chunk)
                return digest.hexdigest()

            self._store(kind, key, fill)

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold a key, so that processes that need the same thing build it once; look again once inside.

        Not reentrant. The lock goes with its process, however that ends. Without a writable cache it is no
        lock, and the thing is built twice.
        """
        if not _HEX.fullmatch(key):
            raise ValueError(f"cache key {key!r} is not hex")
        with contextlib.ExitStack() as held:
            try:
                folder = self.root / "locks"
                folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(folder / f"{key}.lock"))
            except OSError as error:
                self._warn(error)
            yield

    def _folder(self, kind: str, key: str) -> Path:
        if not _KIND.fullmatch(kind) or kind == "locks":
            raise ValueError(f"cache kind {kind!r} is not a plain lower-case name")
        if not _HEX.fullmatch(key):
            raise ValueError(f"cache key {key!r} is not hex")
        return self.root / kind / key[:2] / key

    def _entries(self, kind: str, key: str) -> list[Path]:
        folder = self._folder(kind, key)
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._warn(error)
            return []
        return [folder / name for name in sorted(names) if _SHA256.fullmatch(name)]

    def _store(self, kind: str, key: str, fill: Callable[[int], str]) -> None:
        """Let `fill` write a temporary file and return its digest, then give it its name."""
        folder = self._folder(kind, key)
        temporary = folder / f"{secrets.token_hex(8)}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                digest = fill(fd)
            finally:
                os.close(fd)
            os.rename(temporary, folder / digest)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            if not isinstance(error, OSError):
                raise
            self._warn(error)

    def _discard(self, path: Path) -> None:
        _log.warning("corrupt cache entry removed: %s", path)
        with contextlib.suppress(OSError):
            path.unlink()

    def _warn(self, error: Exception) -> None:
        """Say once that the cache does not work."""
        if not self._warned:
            self._warned = True
            _log.warning("cannot use the build cache at %s, going on without: %s", self.root, error)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
