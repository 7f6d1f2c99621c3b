"""`rfc push`, `rfc pull`, and bundles that other commands name by a registry."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..artifacts.errors import UsageError, printable
from .options import NumberRange, say
from .signing import trust_options

if TYPE_CHECKING:
    from ..artifacts.bundle import Bundle

_PATH = click.Path(path_type=Path)
_GIB = NumberRange(0)
_LIMIT_VARIABLE = "ROCMFORGE_REGISTRY_GIB"
PLAIN_HTTP = click.option(
    "--plain-http/--tls", default=None, help="Without TLS. [default: only where the registry is this machine]"
)
CACHE_GIB = click.option(
    "--cache-gib",
    type=_GIB,
    envvar=_LIMIT_VARIABLE,
    default=100.0,
    show_default=True,
    help="Bundles from registries that are kept, GiB; those used longest ago go first.",
)
REGISTRY_CACHE = click.option(
    "--registry-cache",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="ROCMFORGE_REGISTRY_CACHE",
    help="Where they are kept. [default: $XDG_CACHE_HOME/rocmforge/registry]",
)


class _Meter:
    """Counts bytes, for a line at the end."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._n_bytes = 0

    def __call__(self, name: str, n_bytes: int) -> None:
        self._n_bytes += n_bytes

    def __str__(self) -> str:
        return f"{self._n_bytes / 1e6:.1f} MB in {time.monotonic() - self._begin:.2f} s"


@click.command()
@click.argument("bundle", type=_PATH)
@click.argument("reference")
@click.option("--chunk-mib", type=click.IntRange(1, 1024), default=32, show_default=True, help="Sent at once, MiB.")
@PLAIN_HTTP
@REGISTRY_CACHE
def push(bundle: Path, reference: str, chunk_mib: int, plain_http: bool | None, registry_cache: Path | None) -> None:
    """Store a BUNDLE, with its signatures, as REFERENCE: HOST/REPOSITORY:TAG. Prints its name by its digest."""
    from ..registry.cache import Cache, default_root
    from ..registry.push import push_bundle
    from ..registry.reference import parse_reference

    meter, cache = _Meter(), Cache(registry_cache or default_root())
    done = push_bundle(bundle, parse_reference(reference), cache, meter, plain_http, chunk_mib << 20)
    say(f"{printable(bundle)}: {meter}")
    click.echo(str(done))


@click.command()
@click.argument("reference")
@click.option("-o", "--output", type=_PATH, help="The bundle. [default: in the cache]")
@click.option(
    "--arch",
    "archs",
    multiple=True,
    help="Code to get: host, a gfx name, all; may be several. [default: this machine's]",
)
@PLAIN_HTTP
@REGISTRY_CACHE
@CACHE_GIB
@trust_options
def pull(
    reference: str,
    output: Path | None,
    archs: tuple[str, ...],
    plain_http: bool | None,
    registry_cache: Path | None,
    cache_gib: float,
    check: Callable[[Bundle], None] | None,
) -> None:
    """Get a bundle from a registry: REFERENCE is HOST/REPOSITORY@sha256:DIGEST, or a tag. Prints where it is and its
    name by digest. With a key, one that is not signed by it never gets there."""
    from ..registry.reference import parse_reference

    path, name = _pulled(reference, output, archs, plain_http, registry_cache, cache_gib, check)
    click.echo(f"{printable(path)}  {name or parse_reference(reference)}")


def fetched(path: Path) -> Path:
    """The bundle itself; of a name in a registry, its bundle in the cache, pulled now unless it is there. It is kept
    while this process lives.

    Raises:
        UsageError: the name has no digest.
    """
    from ..registry.reference import is_reference

    if not is_reference(str(path)):
        return path
    import os

    from ..artifacts.manifest import MANIFEST_NAME
    from ..registry.cache import Cache, default_root
    from ..registry.reference import SCHEME, parse_reference

    reference = parse_reference(str(path))
    if not reference.digest:
        wanted = f"{SCHEME}{reference}@sha256:… (rfc pull {reference} says it)"
        raise UsageError(f"a bundle to run is named by its digest: expected {wanted}, found a tag alone")
    root = os.environ.get("ROCMFORGE_REGISTRY_CACHE")
    limit = _limit_of_environment()
    cache = Cache(Path(root) if root else default_root())
    while True:
        found, _ = _pulled(str(reference), None, (), None, cache.root, limit)
        held = cache.hold(found)  # until this process ends
        if (found / MANIFEST_NAME).exists():
            return found
        os.close(held)  # another process has just removed it


def _limit_of_environment() -> float:
    """GiB, as `--cache-gib` has it."""
    import os

    given = os.environ.get(_LIMIT_VARIABLE) or "100"
    try:
        return float(_GIB.convert(given, None, None))
    except click.BadParameter:
        raise UsageError(f"{_LIMIT_VARIABLE}: expected a number of GiB, found {printable(given)}") from None


def _check_kept(path: Path, check: Callable[[Bundle], None] | None) -> None:
    """Hold a bundle that is here against what the caller asks of those that come."""
    from ..artifacts.bundle import open_bundle

    if check is not None:
        with open_bundle(path) as bundle:
            check(bundle)


def _pulled(
    text: str,
    output: Path | None,
    archs: tuple[str, ...],
    plain_http: bool | None,
    root: Path | None,
    gib: float,
    check: Callable[[Bundle], None] | None = None,
) -> tuple[Path, str]:
    """A bundle, and its name by its digest; named so, one that is there already is not asked for again."""
    from ..registry.cache import Cache, default_root
    from ..registry.pull import cached_bundle, is_pulled, pull_bundle
    from ..registry.reference import parse_reference

    reference = parse_reference(text)
    cache = Cache(root or default_root(), int(gib * 2**30))
    if reference.digest:
        there = output if output is not None and is_pulled(reference, output, archs) else None
        kept = cached_bundle(reference, cache, archs) if output is None else there
        if kept is not None:
            _check_kept(kept, check)
            return kept, str(reference)
    meter = _Meter()
    path, name = pull_bundle(reference, output, cache, archs, meter, plain_http, check)
    say(f"{name}: {meter}")
    for gone in cache.trim(path):
        say(f"removed from the cache: {printable(gone.name)}")
    return path, str(name)
