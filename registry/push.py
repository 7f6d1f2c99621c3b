"""`rfc push`: a bundle into a registry."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

from ..artifacts.bundle import Bundle, open_bundle
from ..artifacts.errors import BundleError, UsageError
from .artifact import Blob, describe, make_blobs
from .cache import Cache
from .client import Client
from .reference import Reference
from .transfer import CHUNK_BYTES, Progress, exclusive_file, has_blob, layer_name, upload


def push_bundle(
    path: Path,
    reference: Reference,
    cache: Cache,
    progress: Progress,
    plain_http: bool | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Reference:
    """Store a bundle, with its signatures, under a tag; blobs that the registry has are not sent again. The manifest is
    stored last: nobody pulls half a bundle.

    Returns:
        The name by its digest.

    Raises:
        BundleError: the bundle is not what its manifest says.
        RegistryError: the registry cannot be reached, or refuses.
    """
    if reference.digest:
        raise UsageError(f"{reference}: expected a tag at most, found a digest: what is pushed makes it")
    with open_bundle(path) as bundle:
        blobs, data = make_blobs(bundle)
        client = Client(reference, plain_http)
        for blob in blobs:
            _push(client, bundle, blob, cache, progress, chunk_bytes)
        digest = describe("", data).digest
        client.put_manifest(data, reference.tag or digest)
    return reference.at(digest)


def _push(client: Client, bundle: Bundle, blob: Blob, cache: Cache, progress: Progress, chunk_bytes: int) -> None:
    what = blob.descriptor
    if not has_blob(client, what):
        state = cache.upload(client.reference, what.digest)
        with exclusive_file(state.with_suffix(".lock")):  # two that send parts of one upload destroy it
            if not has_blob(client, what):  # nor has whoever we have waited for sent it
                with _opened(bundle, blob) as file:
                    upload(client, what, file, state, progress, chunk_bytes)
                return
    progress(layer_name(what), what.n_bytes)


def _opened(bundle: Bundle, blob: Blob) -> BinaryIO:
    """What is to be sent; the registry compares its digest, so that a file changed since is refused there."""
    if blob.data is not None:
        return io.BytesIO(blob.data)
    try:
        return open(os.open(bundle.path / blob.descriptor.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        problem = f"expected a file, found {error.strerror}"
        raise BundleError(bundle.path, blob.descriptor.path, problem) from error
