"""How a bundle was made, as a signed statement: SLSA provenance, of what its manifest records of its build.

Format: https://slsa.dev/spec/v1.0/provenance. The manifest has it of the compiler that wrote the bundle; whoever signs
says that it is so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..artifacts.bundle import Bundle
from ..artifacts.errors import RocmforgeError, printable
from ..artifacts.manifest import MANIFEST_NAME
from .envelope import MISSING

PROVENANCE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:rocmforge:compile:v1"
"""What `externalParameters` mean: the options of `rfc compile`, by their names in the manifest."""


def make_statement(bundle: Bundle, predicate_type: str, predicate: Mapping[str, Any]) -> Any:
    """A statement of in-toto about a bundle: about its digest, and its manifest, which holds that of each file.

    Raises:
        RocmforgeError: the extra is not installed.
    """
    try:
        from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor  # noqa: PLC0415 - only with the extra
        from in_toto_attestation.v1.statement import Statement  # noqa: PLC0415
    except ImportError as error:
        raise RocmforgeError(f"{MISSING} ({printable(error)})") from error
    digests = {"bundle": bundle.manifest.bundle_digest, MANIFEST_NAME: bundle.digests[MANIFEST_NAME]}
    subjects = [
        ResourceDescriptor(name=name, digest={"sha256": digest.removeprefix("sha256:")}).pb
        for name, digest in digests.items()
    ]
    statement = Statement(subjects, predicate_type, dict(predicate))
    statement.validate()
    return statement


def make_provenance(bundle: Bundle, builder: str) -> dict[str, Any]:
    """The predicate of SLSA's: what was built, of what, by which options, and who says so.

    Args:
        bundle: open.
        builder: a URI that names who ran the build.

    Raises:
        RocmforgeError: the extra is not installed.
    """
    try:
        from google.protobuf import json_format  # type: ignore[import-untyped]  # noqa: PLC0415 - only with the extra
        from in_toto_attestation.predicates.provenance.v1 import provenance_pb2  # noqa: PLC0415
    except ImportError as error:
        raise RocmforgeError(f"{MISSING} ({printable(error)})") from error
    manifest = bundle.manifest
    asked = {key: value for key, value in manifest.options.items() if key not in ("toolchains", "packages")}
    flags = {" ".join(filter(None, (target.arch, target.level))): list(target.flags) for target in manifest.targets}
    document = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": asked,
            "internalParameters": {"flags": flags, "formatVersion": manifest.format_version},
            "resolvedDependencies": list(_dependencies(bundle)),
        },
        "runDetails": {"builder": {"id": builder, "version": {"rocmforge": manifest.generator}}},
    }
    # Through the library's own form of it: a field that SLSA does not have is an error.
    message = json_format.ParseDict(document, provenance_pb2.Provenance())
    predicate: dict[str, Any] = json_format.MessageToDict(message)
    return predicate


def _dependencies(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """What went into the build: the model, compilers with their digests, Python packages."""
    manifest = bundle.manifest
    yield {"name": manifest.model.name or "model", "digest": {"sha256": manifest.model.source_sha256}}
    for name, record in compilers(bundle).items():
        digest = {"digest": {"sha256": record["sha256"]}} if "sha256" in record else {}
        yield {"name": name, "annotations": {"version": record["version"]}, **digest}
    for name, version in packages(bundle).items():
        yield {"name": name, "uri": f"pkg:pypi/{name}@{version}"}


def compilers(bundle: Bundle) -> dict[str, dict[str, str]]:
    """Version and digest of each compiler, by its name; bundles that record no digests have versions alone."""
    found = {target.toolchain: {"version": target.toolchain_version} for target in bundle.manifest.all_targets}
    recorded = bundle.manifest.options.get("toolchains")
    for name, record in recorded.items() if isinstance(recorded, Mapping) else ():
        if isinstance(record, Mapping):
            found[str(name)] = {str(key): str(value) for key, value in record.items() if key in ("version", "sha256")}
    return {name: {"version": "", **record} for name, record in sorted(found.items())}


def packages(bundle: Bundle) -> dict[str, str]:
    """Versions of rocmforge and of the Python packages that made bytes of the bundle, by name."""
    recorded = bundle.manifest.options.get("packages")
    found = {str(name): str(version) for name, version in recorded.items()} if isinstance(recorded, Mapping) else {}
    return {"rocmforge": bundle.manifest.generator, **dict(sorted(found.items()))}
