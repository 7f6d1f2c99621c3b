"""The signature of a bundle, as OpenSSF Model Signing has it: a signed list of the digests of all files.

Format: https://github.com/ossf/model-signing-spec. Any verifier of it reads `model.sig`; here a bundle is checked by
the digests of an open one, so that what was signed is what is loaded, and nothing is read twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ..artifacts.bundle import Bundle
from ..artifacts.companions import COMPANION_NAMES, SIGNATURE_NAME
from ..artifacts.errors import BundleError, RocmforgeError, printable
from .envelope import MISSING, Signing, Trust, sign_statement, verify_statement

_PREDICATE: Final = "https://model_signing/signature/v1.0"


def require_whole(bundle: Bundle) -> None:
    """Refuse a copy that cannot all be read.

    Raises:
        RocmforgeError: code was left out of it.
    """
    if not bundle.is_whole:
        problem = "code of other machines was left out of this copy: sign the whole (rfc pull --arch all)"
        raise RocmforgeError(f"{printable(bundle.path)}: {problem}")


def sign_bundle(bundle: Bundle, signing: Signing) -> bytes:
    """Sign what a bundle's manifest says of its files; the caller has read them all.

    Raises:
        RocmforgeError: as `sign_statement`; or code was left out of this copy, so that not all could be read.
    """
    require_whole(bundle)
    try:
        from model_signing import manifest  # noqa: PLC0415 - only with the extra
        from model_signing._hashing.hashing import Digest  # noqa: PLC0415
        from model_signing._signing.signing import Payload  # noqa: PLC0415
    except ImportError as error:
        raise RocmforgeError(f"{MISSING} ({printable(error)})") from error
    digests = bundle.digests.items()
    items = [
        manifest.FileManifestItem(path=Path(name), digest=Digest("sha256", bytes.fromhex(digest)))
        for name, digest in digests
    ]
    how = manifest._FileSerialization("sha256", False, sorted(COMPANION_NAMES))
    payload = Payload(manifest.Manifest(f"rocmforge@{bundle.manifest.bundle_digest}", items, how))
    return sign_statement(payload.statement, signing)


def check_signature(bundle: Bundle, trust: Trust, data: bytes | None = None) -> None:
    """Refuse an open bundle unless it is signed by whom `trust` names, each of its files with the digest it has.

    Args:
        bundle: opening it has compared its files with these digests, but for the content of the weights.
        trust: whose signature counts.
        data: the signature; None: the bundle's own.

    Raises:
        BundleError: it is not signed so; names the file.
        RocmforgeError: as `verify_statement`.
    """
    data = bundle.read_companion(SIGNATURE_NAME) if data is None else data
    if data is None:
        raise BundleError(bundle.path, SIGNATURE_NAME, "expected a signature, found none (see rfc sign)")
    statement = verify_statement(data, trust, bundle.path, SIGNATURE_NAME)
    try:
        signed = _signed_digests(statement)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"expected SHA-256 digests of files as Model Signing has them, found otherwise: {printable(error)}"
        raise BundleError(bundle.path, SIGNATURE_NAME, problem) from error
    for name in sorted(signed.keys() | bundle.digests.keys()):
        wanted, found = signed.get(name, "none"), bundle.digests.get(name, "none")
        if wanted != found and not (name in COMPANION_NAMES and found == "none"):
            raise BundleError(bundle.path, name, f"expected sha256 {wanted}, as it was signed, found {found}")


def _signed_digests(statement: dict[str, Any]) -> dict[str, str]:
    """Hex SHA-256 of each file by its name, as a statement of Model Signing has them.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is none.
    """
    if statement["predicateType"] != _PREDICATE:
        raise ValueError(f"a statement of {statement['predicateType']}")
    method = statement["predicate"]["serialization"]["method"]
    if method != "files":
        raise ValueError(f"digests of {method}")
    digests: dict[str, str] = {}
    for resource in statement["predicate"]["resources"]:
        if resource["algorithm"] != "sha256":
            raise ValueError(f"digests by {resource['algorithm']}")
        digests[str(resource["name"])] = str(resource["digest"])
    return digests
