"""Bytes changed in a registry and on a disk, one at a time: each has to be refused by the name of what has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from rocmforge.registry.artifact import decode_artifact
from rocmforge.registry.reference import Reference
from rocmforge.tools.debian.registry import RunningRegistry

from .machines import Machine, ProofError


def tampered_registry(
    machine: Machine, registry: RunningRegistry, name: Reference, trust: tuple[object, ...], count: int, chosen: Random
) -> dict[str, int]:
    """Change `count` bytes of each blob of an artifact, and have it served by that name, each time.

    Returns: how many were refused of each.

    Raises:
        ProofError: one was served, kept, or refused by another name.
    """
    artifact = decode_artifact(str(name), registry.blob(name.digest).read_bytes())
    blobs = {layer.digest: {".": "files", "src": "sources"}.get(layer.path, layer.path) for layer in artifact.layers}
    kept, found = machine.home / ".cache/rocmforge/registry/bundles", {}
    for digest, what in {**blobs, artifact.config.digest: "config", name.digest: "manifest"}.items():
        for _ in range(count):
            with _changed(registry.blob(digest), chosen) as where:
                # Of a manifest that is no JSON any more the registry itself says so, by an error: exit code 1.
                codes = (1, 3) if what == "manifest" else (3,)
                _refused(machine, f"oci://{name}", trust, f"rfc: {name}: {what}: ", f"{what}, {where}", codes)
            if bundles := list(kept.glob("*/*.rfb")):
                raise ProofError(f"{what}, {where}: expected no bundle, found {bundles[0]}")
        found[what] = count
    return found


def tampered_files(
    machine: Machine, bundle: Path, trust: tuple[object, ...], count: int, chosen: Random
) -> dict[str, int]:
    """Change `count` bytes of each file of a bundle that is here, of all sources together, and have it served.

    Returns, raises: as `tampered_registry`.
    """
    paths = [path for path in sorted(bundle.rglob("*")) if path.is_file() and path.name != "pulled.json"]
    sources = [path for path in paths if path.is_relative_to(bundle / "src")]
    groups = {path.relative_to(bundle).as_posix(): [path] for path in paths if path not in sources}
    for what, group in (groups | ({"src": sources} if sources else {})).items():
        for _ in range(count):
            path = chosen.choice(group)
            inside = path.relative_to(bundle).as_posix()
            with _changed(path, chosen) as where:
                _refused(machine, bundle, trust, inside.rpartition("/")[2], f"{what}, {where}")
    return dict.fromkeys(groups, count) | ({"src": count} if sources else {})


@contextmanager
def _changed(path: Path, chosen: Random) -> Iterator[str]:
    """A file with one bit changed, for a while; where that is."""
    size, bit = path.stat().st_size, 1 << chosen.randrange(8)
    at = chosen.randrange(size)

    def change() -> None:
        with path.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ bit]))

    change()
    try:
        yield f"byte {at} of {size}"
    finally:
        change()


def _refused(
    machine: Machine, bundle: object, trust: tuple[object, ...], named: str, what: str, codes: tuple[int, ...] = (3,)
) -> None:
    said = machine.rfc("serve", bundle, *trust, "--device", "host", "--addr", "127.0.0.1:0")
    if said.code not in codes or named not in said.last:
        raise ProofError(f"{what}: expected exit code 3 and {named!r}, found {said.code}: {said.last}")
