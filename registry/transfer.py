"""Blobs to and from a registry, which go on where they were cut off.

Source of the requests: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from ..artifacts.errors import BundleError, RocmforgeError, os_problem, printable
from ..artifacts.locked import is_at, open_locked
from .artifact import Descriptor
from .client import Client
from .errors import RegistryError

Progress = Callable[[str, int], None]
"""Told of a layer's name and of how many bytes of it more have come or gone."""

CHUNK_BYTES: Final = 32 << 20
_PIECE_BYTES: Final = 256 << 10  # of what breaks off, less than that is lost
_TRIES: Final = 5  # in a row that bring nothing
_RANGE: Final = re.compile(r"(?:bytes[= ])?0-([0-9]{1,18})", re.ASCII)


def layer_name(blob: Descriptor) -> str:
    """What a blob is called in messages."""
    return {"": "config", ".": "files", "src": "sources"}.get(blob.path) or printable(blob.path)


@contextlib.contextmanager
def exclusive_file(path: Path) -> Iterator[BinaryIO]:
    """Open the file of a download, to go on with what is in it, or one that only stands for something. One process at a
    time has it, until it has been moved away; an empty one is removed.

    Raises:
        RocmforgeError: it cannot be written.
    """
    try:
        file = os.fdopen(open_locked(path), "r+b")
    except OSError as error:
        raise RocmforgeError(f"cannot write {os_problem(error)}") from error
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # of a full disk, which has been told of
            if not os.fstat(file.fileno()).st_size and is_at(file.fileno(), path):
                path.unlink()
        with contextlib.suppress(OSError):
            file.close()


def download(client: Client, blob: Descriptor, file: BinaryIO, progress: Progress, near: Path | None = None) -> None:
    """Have a blob in a file, whole and with its digest, which is found while it comes. What is in the file already is
    taken for the beginning of it; where it turns out to be none, all comes again.

    Args:
        client: its repository.
        blob: what to get.
        file: as `exclusive_file` opens it; kept as far as it came where this fails, and emptied where its digest is
            wrong.
        progress: told of bytes as they come.
        near: a file that may have the same content, for an empty one.

    Raises:
        BundleError: the registry gave something else.
        RegistryError: it gave too little, or nothing.
        RocmforgeError: the file cannot be written.
    """
    try:
        if near is not None and not os.fstat(file.fileno()).st_size:
            with contextlib.suppress(OSError), near.open("rb") as source:
                shutil.copyfileobj(source, file, _PIECE_BYTES)
            file.flush()
            file.seek(0)
        digest, have = _resume(file, blob, progress)
        found = _receive(client, blob, file, (digest, have), progress)
        if found != blob.digest and have:
            _empty(file)
            found = _receive(client, blob, file, (hashlib.sha256(), 0), progress)
        if found != blob.digest:
            _empty(file)
            problem = f"expected {blob.digest} of {blob.n_bytes} bytes, found {found}"
            raise BundleError(str(client.reference), layer_name(blob), problem)
        file.flush()
    except OSError as error:
        raise RocmforgeError(f"cannot write {os_problem(error)}") from error


def _receive(client: Client, blob: Descriptor, file: BinaryIO, begin: tuple[Any, int], progress: Progress) -> str:
    """Have the rest of a blob come, behind what there is, of which the digest is given too; the digest of the whole,
    or that it is too short or too long.

    Raises:
        RegistryError: the registry gave too little, or nothing.
    """
    digest, have = begin
    tries, best = 0, have
    while have < blob.n_bytes:
        try:
            for piece, at in _pieces(client, blob, have):
                if at != have:  # it is 0: the registry knows no ranges: from the beginning again
                    _empty(file)
                    digest, have = hashlib.sha256(), 0
                have += len(piece)
                if have > blob.n_bytes:
                    break
                digest.update(piece)
                file.write(piece)
                progress(layer_name(blob), len(piece))
        except client.network_errors as error:
            tries, best = (0, have) if have > best else (tries + 1, best)
            if tries >= _TRIES:
                cut = f"{layer_name(blob)}: cut off after {have} of {blob.n_bytes} bytes: {printable(error)}"
                raise RegistryError(f"{client.reference}: {cut}") from error
            continue
        if have != blob.n_bytes:
            break
    return f"sha256:{digest.hexdigest()}" if have == blob.n_bytes else f"{have} bytes or more"


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def fetch(client: Client, blob: Descriptor, limit: int) -> bytes:
    """The bytes of a small blob, with its digest.

    Raises:
        BundleError: the registry gave something else, or says that it is larger than `limit`.
        RegistryError: it gave nothing.
    """
    if blob.n_bytes > limit:
        problem = f"expected at most {limit} bytes, found {blob.n_bytes}"
        raise BundleError(str(client.reference), layer_name(blob), problem)
    data = bytearray()
    try:
        for piece, _ in _pieces(client, blob, 0):
            data += piece
            if len(data) > blob.n_bytes:
                break
    except client.network_errors as error:
        raise RegistryError(f"{client.reference}: {layer_name(blob)}: {printable(error)}") from error
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != blob.digest or len(data) != blob.n_bytes:
        problem = f"expected {blob.digest} of {blob.n_bytes} bytes, found {found}"
        raise BundleError(str(client.reference), layer_name(blob), problem)
    return bytes(data)


def _pieces(client: Client, blob: Descriptor, begin: int) -> Iterator[tuple[bytes, int]]:
    """Pieces of a blob from `begin` on, or from 0 where the registry knows no ranges, with where each begins."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
    answer = client.request("GET", client.url(f"blobs/{blob.digest}"), headers, stream=True)
    with contextlib.closing(answer):
        whole = answer.status_code == 200
        place = re.fullmatch(r"bytes ([0-9]{1,18})-.*", answer.headers.get("Content-Range", ""))
        if not whole and (answer.status_code != 206 or place is None or int(place[1]) != begin):
            raise client.refused(layer_name(blob), answer)
        begin = 0 if whole else begin
        for piece in answer.iter_content(_PIECE_BYTES):
            yield piece, begin
            begin += len(piece)


def _resume(file: BinaryIO, blob: Descriptor, progress: Progress) -> tuple[Any, int]:
    """The digest of what the file has already, and how much that is."""
    digest, have = hashlib.sha256(), os.fstat(file.fileno()).st_size
    if have > blob.n_bytes:
        file.truncate(0)
        have = 0
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
        progress(layer_name(blob), len(piece))
    return digest, have


def has_blob(client: Client, blob: Descriptor) -> bool:
    """Whether the repository has a blob.

    Raises:
        RegistryError: it does not say.
    """
    answer = client.ask(layer_name(blob), "HEAD", client.url(f"blobs/{blob.digest}"), (200, 404))
    return bool(answer.status_code == 200)


def upload(
    client: Client, blob: Descriptor, file: BinaryIO, state: Path, progress: Progress, chunk_bytes: int = CHUNK_BYTES
) -> None:
    """Store a blob, in chunks. Where a registry still has the beginning of it, it goes on behind that: behind the last
    chunk, or within it where the registry has kept a part.

    Args:
        client: the repository.
        blob: what it is; the registry compares the digest.
        file: its bytes.
        state: a file that remembers where an upload is going on.
        progress: told of bytes as they go.
        chunk_bytes: sent at once.

    Raises:
        RegistryError: the registry did not take it; where it goes on is remembered.
    """
    what, tries, best = layer_name(blob), 0, 0

    def sent(n_bytes: int) -> None:
        """Tell of bytes that have not gone before."""
        nonlocal tries, best
        if n_bytes > best:
            progress(what, n_bytes - best)
            tries, best = 0, n_bytes

    while True:
        location, begin = _known_upload(client, blob, state) or _new_upload(client, what)
        _remember(state, location)
        sent(begin)
        try:
            _send(client, blob, file, state, (location, begin), sent, chunk_bytes)
            break
        except client.network_errors as error:
            tries += 1
            if tries >= _TRIES:
                cut = f"{what}: cut off after {best} of {blob.n_bytes} bytes: {printable(error)}"
                raise RegistryError(f"{client.reference}: {cut}") from error
        if has_blob(client, blob):  # it was the answer that was cut off
            break
    sent(blob.n_bytes)
    state.unlink(missing_ok=True)


def _send(
    client: Client,
    blob: Descriptor,
    file: BinaryIO,
    state: Path,
    begin_at: tuple[str, int],
    sent: Callable[[int], None],
    chunk_bytes: int,
) -> None:
    """Send the rest of a blob, from an upload's address and how much the registry has of it.

    Raises:
        network_errors: it was cut off.
    """
    what = layer_name(blob)
    location, begin = begin_at
    file.seek(begin)
    data = b""
    while begin < blob.n_bytes:
        data = file.read(min(chunk_bytes, blob.n_bytes - begin))
        if not data:
            raise BundleError(str(client.reference), what, f"expected {blob.n_bytes} bytes, found {begin}")
        if begin == 0 and len(data) == blob.n_bytes:
            break  # small: in one, below
        headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{begin}-{begin + len(data) - 1}"}
        answer = client.request("PATCH", location, headers, data)
        if answer.status_code != 202:
            raise client.refused(what, answer)
        location = client.location(what, answer)
        begin += len(data)
        data = b""
        _remember(state, location)
        sent(begin)
    url = f"{location}{'&' if '?' in location else '?'}digest={blob.digest}"
    answer = client.request("PUT", url, {"Content-Type": "application/octet-stream"}, data)
    if answer.status_code != 201:
        raise client.refused(what, answer)


def _remember(state: Path, location: str) -> None:
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        new = state.with_suffix(".new")
        new.write_text(json.dumps({"location": location}))
        new.replace(state)
    except OSError as error:
        raise RocmforgeError(f"cannot write {os_problem(error)}") from error


def _new_upload(client: Client, what: str) -> tuple[str, int]:
    answer = client.ask(what, "POST", client.url("blobs/uploads/"), (202,), headers={"Content-Length": "0"})
    return client.location(what, answer), 0


def _known_upload(client: Client, blob: Descriptor, state: Path) -> tuple[str, int] | None:
    """Where an upload that was cut off goes on, and how many bytes the registry has of it; None where it has none."""
    try:
        location = json.loads(state.read_text())["location"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    state.unlink(missing_ok=True)
    if not isinstance(location, str) or not client.is_own(location):
        return None
    answer = client.ask(layer_name(blob), "GET", location, tuple(range(200, 600)))
    have = _RANGE.fullmatch(answer.headers.get("Range", ""))
    if answer.status_code != 204 or have is None:
        return None
    begin = int(have[1]) + 1 if int(have[1]) else 0  # 0-0 is how registries say that they have nothing
    if begin > blob.n_bytes:
        return None
    return client.location(layer_name(blob), answer) if "Location" in answer.headers else location, begin
