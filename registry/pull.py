"""`rfc pull`: a bundle out of a registry, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Final

from ..artifacts.bundle import Bundle, open_bundle, verify_bundle
from ..artifacts.companions import PULLED_NAME
from ..artifacts.errors import BundleError
from ..artifacts.hip import installed_arches
from ..artifacts.host import host_arch
from ..artifacts.manifest import MANIFEST_NAME, WEIGHTS_NAMES, decode_manifest
from ..artifacts.pulled import decode_pulled
from ..artifacts.targets import generic_arch
from ..artifacts.writer import check_goal
from .artifact import check_config, choose_layers, code_arches, decode_artifact, describe
from .assemble import assemble
from .cache import Cache
from .client import Client
from .reference import Reference
from .transfer import Progress, download, exclusive_file, fetch

ALL: Final = "all"
_MAX_CONFIG_BYTES: Final = 1 << 20


def pull_bundle(
    reference: Reference,
    goal: Path | None,
    cache: Cache,
    arches: Sequence[str],
    progress: Progress,
    plain_http: bool | None = None,
    check: Callable[[Bundle], None] | None = None,
) -> tuple[Path, Reference]:
    """Have a bundle here, checked by the digests of the registry's manifest and of its own.

    Args:
        reference: by its digest, or by a tag.
        goal: where to, as a compiler would; None: in the cache.
        cache: of what is on its way, too.
        arches: for which code is wanted; `all`; none: what this machine has, or else the host.
        progress: told of bytes.
        plain_http: as `Client` has it.
        check: refuses a bundle by an error, before it is there: its signature.

    Returns:
        The bundle, and its name by its digest.

    Raises:
        BundleError: something is not what its digest says; names it.
        RegistryError: the registry cannot be reached, or has none.
        UsageError: the goal exists, and is not a bundle that can be replaced.
        RocmforgeError: the bundle cannot be written.
    """
    if goal is not None:
        check_goal(Path(os.path.realpath(goal)))  # before all comes for nothing
    client = Client(reference, plain_http)
    data = client.manifest()
    digest = describe("", data).digest
    if reference.digest not in {"", digest}:
        raise BundleError(str(reference), "manifest", f"expected {reference.digest}, found {digest}")
    reference = reference.at(digest)
    artifact = decode_artifact(str(reference), data)
    check_config(str(reference), artifact, fetch(client, artifact.config, _MAX_CONFIG_BYTES))
    wanted = _wanted(code_arches(artifact), arches)
    layers = choose_layers(str(reference), artifact, wanted)
    with contextlib.ExitStack() as opened:
        is_new = cached_bundle(reference, cache, arches) is None
        in_cache = goal is None
        if goal is None:
            goal = cache.bundle(reference, () if len(layers) == len(artifact.layers) else tuple(wanted or ()))
            opened.callback(os.close, cache.hold(goal))
        # In one order, so that of two pulls none has what the other waits for; until all of it has been moved away.
        digests = sorted({layer.digest for layer in layers})
        files = {digest: opened.enter_context(exclusive_file(cache.download(digest))) for digest in digests}
        made = cached_bundle(reference, cache, arches) if in_cache and is_new else None
        if made is not None:  # by whom we have waited for
            _check_made(made, check)
            return made, reference
        for layer in layers:
            near = cache.find_weights(layer.digest) if layer.path in WEIGHTS_NAMES else None
            download(client, layer, files[layer.digest], progress, near)
        assemble(str(reference), artifact, layers, cache, goal, check)
    return goal, reference


def _check_made(path: Path, check: Callable[[Bundle], None] | None) -> None:
    if check is not None:
        with open_bundle(path) as bundle:
            check(bundle)


def cached_bundle(reference: Reference, cache: Cache, arches: Sequence[str]) -> Path | None:
    """A bundle that was pulled before by this digest, with the code that would be pulled now; nobody is asked."""
    found = sorted(cache.root.glob(f"bundles/{reference.digest.removeprefix('sha256:')}-*/{reference.name}.rfb"))
    return next((path for path in found if _has_code(path, arches)), None)


def is_pulled(reference: Reference, path: Path, arches: Sequence[str]) -> bool:
    """Whether a bundle was pulled by this digest, with the code that would be pulled now, and is sound: all of it is
    read, and nobody is asked."""
    with contextlib.suppress(BundleError, OSError):
        origin = decode_pulled(path / PULLED_NAME, (path / PULLED_NAME).read_bytes()).reference
        if origin.endswith(f"@{reference.digest}") and _has_code(path, arches):
            verify_bundle(path).close()
            return True
    return False


def _has_code(path: Path, arches: Sequence[str]) -> bool:
    """Whether a bundle is one, and has the code that would be pulled of it."""
    with contextlib.suppress(BundleError, OSError), open_bundle(path) as bundle:
        whole = decode_manifest(path, (path / MANIFEST_NAME).read_bytes())
        wanted = _wanted({target.arch for target in whole.targets}, arches)
        here = {target.arch for target in bundle.manifest.targets}
        return bundle.is_whole or (wanted is not None and here.issuperset(wanted))
    return False


def _wanted(has: Set[str], arches: Sequence[str]) -> list[str] | None:
    """The arches whose code is pulled, of those that a bundle has; None: all. As a device is chosen: the GPUs that
    there is code for, of exactly their arch or their family, else the host, else all."""
    if list(arches) == [ALL]:
        return None
    if arches:
        return sorted(set(arches))
    found = {arch if arch in has else generic_arch(arch) for arch in installed_arches()} & has
    return sorted(arch for arch in found if arch) or ([host_arch()] if host_arch() in has else None)
