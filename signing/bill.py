"""What is in a bundle: a bill of materials, as CycloneDX has it (https://cyclonedx.org/docs/1.6/json/)."""

from __future__ import annotations

import datetime
import json
import os
import uuid
from typing import Any, Final

from ..artifacts.bundle import Bundle
from ..artifacts.errors import RocmforgeError, UsageError, printable
from ..artifacts.manifest import MANIFEST_NAME
from .envelope import MISSING
from .provenance import compilers, packages

BOM_TYPE: Final = "https://cyclonedx.org/bom"


def make_bill(bundle: Bundle) -> dict[str, Any]:
    """The model, each file of the bundle (kernels among them) with its digest, compilers and Python packages.

    Its date is $SOURCE_DATE_EPOCH, or now; all else follows from the bundle.

    Raises:
        RocmforgeError: the extra is not installed.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType  # noqa: PLC0415 - only with the extra
        from cyclonedx.model.bom import Bom, BomMetaData  # noqa: PLC0415
        from cyclonedx.model.component import Component, ComponentType  # noqa: PLC0415
        from cyclonedx.output import make_outputter  # noqa: PLC0415
        from cyclonedx.schema import OutputFormat, SchemaVersion  # noqa: PLC0415
        from packageurl import PackageURL  # noqa: PLC0415
    except ImportError as error:
        raise RocmforgeError(f"{MISSING} ({printable(error)})") from error

    def component(kind: Any, name: str, version: str, sha256: str, purl: Any = None) -> Any:
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []
        where = f"{kind.value}:{name}"
        return Component(name=name, type=kind, version=version or None, hashes=hashes, bom_ref=where, purl=purl)

    manifest, kinds = bundle.manifest, ComponentType
    digest = manifest.bundle_digest.removeprefix("sha256:")
    name = manifest.model.name or "model"
    root = component(kinds.APPLICATION, "bundle", manifest.bundle_digest, digest)
    parts = [component(kinds.MACHINE_LEARNING_MODEL, name, "", manifest.model.source_sha256)]
    files = {
        **{path: entry.sha256 for path, entry in manifest.files.items()},
        MANIFEST_NAME: bundle.digests[MANIFEST_NAME],
    }
    parts += [component(kinds.FILE, path, "", sha256) for path, sha256 in sorted(files.items())]
    for tool, record in compilers(bundle).items():
        parts.append(component(kinds.APPLICATION, tool, record["version"], record.get("sha256", "")))
    for package, version in packages(bundle).items():
        purl = PackageURL(type="pypi", name=package, version=version)
        parts.append(component(kinds.LIBRARY, package, version, "", purl))
    bill = Bom(
        components=parts,
        metadata=BomMetaData(component=root, timestamp=_date()),
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:rocmforge:{manifest.bundle_digest}"),
    )
    bill.register_dependency(root, parts)
    text = make_outputter(bill, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    document: dict[str, Any] = json.loads(text)
    return document


def _date() -> datetime.datetime:
    given = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        return (
            datetime.datetime.now(datetime.UTC)
            if not given
            else datetime.datetime.fromtimestamp(int(given), datetime.UTC)
        )
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH: expected seconds, found {printable(given)}") from error
