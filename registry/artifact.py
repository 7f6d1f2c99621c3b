"""A bundle as an artifact of a registry: which layers it has, and which of them a machine needs.

Media types and annotations are those of CNCF ModelPack, https://github.com/modelpack/model-spec: an OCI image manifest
whose layers are files, or tar archives of several. The code of each arch is a layer, and so are the weights of the host
and of all GPUs, where they are two files.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Sequence
from typing import Any, Final

from ..artifacts.bundle import Bundle
from ..artifacts.checker import Checker
from ..artifacts.companions import SIGNED_NAMES
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import RocmforgeError, printable
from ..artifacts.manifest import MANIFEST_NAME, WEIGHTS_NAMES, Manifest, encode_manifest

ARTIFACT_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
WEIGHTS_TYPE: Final = "application/vnd.cncf.model.weight.v1.raw"
FILES_TYPE: Final = "application/vnd.cncf.model.weight.config.v1.tar"
SOURCES_TYPE: Final = "application/vnd.cncf.model.code.v1.tar"
CODE_TYPE: Final = "application/vnd.cncf.model.code.v1.raw"
COMPANION_TYPE: Final = "application/vnd.cncf.model.doc.v1.raw"
FILEPATH: Final = "org.cncf.model.filepath"
ARCH: Final = "org.rocmforge.arch"
BUNDLE_DIGEST: Final = "org.rocmforge.bundle.digest"
_SOURCES: Final = "src"
MAX_ARCHIVE_BYTES: Final = 1 << 30
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob of the registry.

    Args:
        media_type: what it holds.
        digest: `sha256:` and 64 hex digits.
        n_bytes: its size.
        path: the file of the bundle, or the folder of an archive; empty for the config.
        arches: that alone need it; none: all do.
    """

    media_type: str
    digest: str
    n_bytes: int
    path: str = ""
    arches: tuple[str, ...] = ()

    def table(self) -> dict[str, object]:
        """As OCI's JSON has it."""
        notes = {FILEPATH: self.path} | ({ARCH: ",".join(self.arches)} if self.arches else {})
        table: dict[str, object] = {"mediaType": self.media_type, "digest": self.digest, "size": self.n_bytes}
        return table | ({"annotations": notes} if self.path else {})


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a manifest of a registry says of a bundle."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    bundle_digest: str


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that is to be stored: its bytes, or the bundle's file that has them."""

    descriptor: Descriptor
    data: bytes | None = None


def describe(media_type: str, data: bytes, path: str = "") -> Descriptor:
    """The descriptor of bytes."""
    return Descriptor(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), path)


def make_blobs(bundle: Bundle) -> tuple[list[Blob], bytes]:
    """The blobs of an open bundle, the config last, and the registry's manifest of them. Equal bundles with equal
    signatures give equal bytes.

    Raises:
        RocmforgeError: code was left out of this copy.
    """
    manifest = bundle.manifest
    if not bundle.is_whole:
        problem = "code of other machines was left out of this copy: push the whole (rfc pull --arch all)"
        raise RocmforgeError(f"{printable(bundle.path)}: {problem}")
    arches = {target.file: target.arch for target in manifest.all_targets}
    weights = [name for name in WEIGHTS_NAMES if name in manifest.files]
    readers = {
        name: [t.arch for t in manifest.all_targets if manifest.weights_of(t.backend) == name] for name in weights
    }
    alone = {name: tuple(dict.fromkeys(found)) if len(weights) > 1 else () for name, found in readers.items()}
    blobs = [Blob(_raw(manifest, name, WEIGHTS_TYPE, alone[name])) for name in weights]
    files = {MANIFEST_NAME: encode_manifest(manifest)}
    sources: dict[str, bytes] = {}
    for name in sorted(manifest.files.keys() - {*weights} - arches.keys()):
        (sources if name.startswith(f"{_SOURCES}/") else files)[name] = bundle.read(name)
    for media_type, path, table in ((FILES_TYPE, ".", files), (SOURCES_TYPE, _SOURCES, sources)):
        data = _archive(table)
        blobs += [Blob(describe(media_type, data, path), data)] if table else []
    blobs += [Blob(_raw(manifest, name, CODE_TYPE, (arch,))) for name, arch in arches.items()]
    for name in SIGNED_NAMES:
        signed = bundle.read_companion(name)
        blobs += [] if signed is None else [Blob(describe(COMPANION_TYPE, signed, name), signed)]
    config = _json(_config(manifest, [blob.descriptor for blob in blobs]))
    blobs.append(Blob(describe(CONFIG_TYPE, config), config))
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": blobs[-1].descriptor.table(),
        "layers": [blob.descriptor.table() for blob in blobs[:-1]],
        "annotations": {BUNDLE_DIGEST: manifest.bundle_digest},
    }
    return blobs, _json(document)


def decode_artifact(path: str, data: bytes) -> Artifact:
    """Decode and check a registry's manifest.

    Args:
        path: the reference, for messages.
        data: its bytes.

    Raises:
        BundleError: it is not one of a bundle, or has an archive that is too large to be read; names the field.
    """
    check = Checker(path)
    table = _decode(check, data, "manifest")
    if table.get("artifactType") != ARTIFACT_TYPE:
        kind = printable(table.get("artifactType") or table.get("mediaType") or "none")
        check.fail("manifest", f"expected a model, artifactType {ARTIFACT_TYPE}, found {kind}")
    layers = check.array(table.get("layers"), "manifest.layers", 1, 4096)
    notes = table.get("annotations")
    digest = notes.get(BUNDLE_DIGEST) if isinstance(notes, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        check.fail("manifest.annotations", f"expected {BUNDLE_DIGEST}: a bundle of rocmforge, found another model")
    config = _descriptor(check, table.get("config"), "manifest.config")
    found = tuple(_descriptor(check, row, f"manifest.layers[{i}]") for i, row in enumerate(layers))
    for i, layer in enumerate(found):
        if layer.media_type in (FILES_TYPE, SOURCES_TYPE):
            check.integer(layer.n_bytes, f"manifest.layers[{i}].size", high=MAX_ARCHIVE_BYTES)
    return Artifact(config, found, digest)


def check_config(path: str, artifact: Artifact, data: bytes) -> None:
    """Refuse a config that speaks of other layers.

    Raises:
        BundleError: it does.
    """
    check = Checker(path)
    found = _decode(check, data, "config").get("modelfs")
    expected = {"type": "layers", "diffIds": [layer.digest for layer in artifact.layers]}
    if artifact.config.media_type != CONFIG_TYPE or found != expected:
        check.fail("config.modelfs", "expected the digests of the manifest's layers, found others")


def choose_layers(path: str, artifact: Artifact, wanted: Sequence[str] | None) -> list[Descriptor]:
    """Return the layers that are needed where only the code for some arches is, and its weights.

    Args:
        path: the reference, for messages.
        artifact: what there is.
        wanted: arches; None: all.

    Raises:
        BundleError: there is no code for one of them.
    """
    arches = sorted(code_arches(artifact))
    for arch in wanted or ():
        if arch not in arches:
            has = ", ".join(map(printable, arches))
            Checker(path).fail("arch", f"expected one that the bundle has code for, {has}, found {arch}")
    return [
        layer
        for layer in artifact.layers
        if wanted is None or not layer.arches or not set(wanted).isdisjoint(layer.arches)
    ]


def code_arches(artifact: Artifact) -> set[str]:
    """The arches that there is code for."""
    return {arch for layer in artifact.layers for arch in layer.arches if layer.media_type == CODE_TYPE}


def _raw(manifest: Manifest, name: str, media_type: str, arches: tuple[str, ...]) -> Descriptor:
    entry = manifest.files[name]
    return Descriptor(media_type, f"sha256:{entry.sha256}", entry.n_bytes, name, arches)


def _config(manifest: Manifest, layers: Sequence[Descriptor]) -> dict[str, object]:
    """What ModelPack says of a model; nothing in it has a date, so that equal bundles have equal ones."""
    model = manifest.model
    facts = {"architecture": "transformer", "format": "rocmforge", "quantization": model.quantization}
    facts["paramSize"] = next(
        (f"{model.parameters / n:.1f}{unit}" for unit, n in (("B", 1e9), ("M", 1e6)) if model.parameters >= n),
        f"{model.parameters / 1e3:.1f}K",
    )
    descriptor = {"family": model.architecture, "version": manifest.bundle_digest}
    return {
        "descriptor": descriptor | ({"name": model.name} if model.name else {}),
        "config": facts,
        "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
    }


def _archive(files: dict[str, bytes]) -> bytes:
    """A tar archive in which nothing is by chance: names in order, no owner, no date."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    return out.getvalue()


def _json(table: dict[str, Any]) -> bytes:
    return json.dumps(table, sort_keys=True, separators=(",", ":")).encode("ascii")


def _decode(check: Checker, data: bytes, at: str) -> dict[str, Any]:
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        check.fail(at, f"expected JSON, found otherwise ({error})")
    if not isinstance(table, dict):
        check.fail(at, f"expected an object, found {type(table).__name__}")
    return table


def _descriptor(check: Checker, value: object, at: str) -> Descriptor:
    if not isinstance(value, dict):
        check.fail(at, f"expected an object, found {type(value).__name__}")
    digest = check.text(value.get("digest"), f"{at}.digest", 128)
    if not _DIGEST.fullmatch(digest):
        check.fail(f"{at}.digest", f"expected sha256: and 64 hex digits, found {digest}")
    notes = value.get("annotations") or {}
    if not isinstance(notes, dict):
        check.fail(f"{at}.annotations", f"expected an object, found {type(notes).__name__}")
    return Descriptor(
        check.text(value.get("mediaType"), f"{at}.mediaType"),
        digest,
        check.integer(value.get("size"), f"{at}.size"),
        check.text(notes.get(FILEPATH, ""), f"{at}.annotations", empty=True),
        tuple(filter(None, check.text(notes.get(ARCH, ""), f"{at}.annotations", empty=True).split(","))),
    )
