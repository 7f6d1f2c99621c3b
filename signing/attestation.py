"""Signed statements about a bundle, beside its signature: how it was made, and of what."""

from __future__ import annotations

from typing import Final

from ..artifacts.bundle import Bundle
from ..artifacts.companions import BOM_NAME, PROVENANCE_NAME
from ..artifacts.errors import BundleError, printable
from ..artifacts.manifest import MANIFEST_NAME
from .bill import BOM_TYPE, make_bill
from .envelope import Signing, Trust, sign_statement, verify_statement
from .model_signature import require_whole
from .provenance import PROVENANCE_TYPE, make_provenance, make_statement

_KINDS: Final = {PROVENANCE_NAME: PROVENANCE_TYPE, BOM_NAME: BOM_TYPE}


def attest_bundle(bundle: Bundle, signing: Signing, builder: str) -> dict[str, bytes]:
    """Both statements, signed, by the names of their files.

    Args:
        bundle: read whole.
        signing: who signs.
        builder: a URI that names who ran the build.

    Raises:
        RocmforgeError: as `sign_statement`.
    """
    require_whole(bundle)
    predicates = {PROVENANCE_NAME: make_provenance(bundle, builder), BOM_NAME: make_bill(bundle)}
    return {
        name: sign_statement(make_statement(bundle, _KINDS[name], predicate), signing)
        for name, predicate in predicates.items()
    }


def check_attestations(bundle: Bundle, trust: Trust, required: bool = False) -> None:
    """Refuse statements that are there but are about another bundle, or are not signed by whom `trust` names.

    Args:
        bundle: open.
        trust: whose signature counts.
        required: refuse a bundle that has none, too.

    Raises:
        BundleError: names the file.
        RocmforgeError: as `verify_statement`.
    """
    for name, kind in _KINDS.items():
        data = bundle.read_companion(name)
        if data is None:
            if required:
                raise BundleError(bundle.path, name, "expected a signed statement, found none (see rfc attest)")
            continue
        statement = verify_statement(data, trust, bundle.path, name)
        if statement.get("predicateType") != kind:
            found = printable(statement.get("predicateType"))
            raise BundleError(bundle.path, name, f"expected a statement of {kind}, found one of {found}")
        wanted = bundle.digests[MANIFEST_NAME]
        if wanted not in _subjects(statement.get("subject")):
            raise BundleError(bundle.path, name, f"expected a statement about sha256 {wanted}, found one about another")


def _subjects(found: object) -> list[object]:
    """SHA-256 digests of the manifests that a statement is about."""
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    digests = [row.get("digest") for row in rows if row.get("name") == MANIFEST_NAME]
    return [digest.get("sha256") for digest in digests if isinstance(digest, dict)]
