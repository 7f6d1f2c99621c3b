"""In-toto statements, signed: an envelope of DSSE in a bundle of Sigstore's, as OpenSSF Model Signing writes it.

Formats: https://github.com/in-toto/attestation/tree/main/spec/v1, https://github.com/secure-systems-lab/dsse,
https://docs.sigstore.dev/about/bundle. Keys are of the curves P-256, P-384 and P-521.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from ..artifacts.errors import BundleError, RocmforgeError, UsageError, printable

_STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MISSING: Final = "signatures need the extra `sign`: pip install 'rocmforge[sign]'"


@dataclass(frozen=True, slots=True)
class Signing:
    """How to sign: with a private key, with one and its certificate, or by Sigstore.

    Args:
        key: a PEM file of the private key.
        certificate: a PEM file of the key's certificate.
        chain: PEM files of the certificates between that one and the root that verifiers trust.
        password: of the key.
        sigstore: sign with an identity of OpenID Connect; needs a network.
        identity_token: that identity, else the one that CI offers.
        trust_config: Sigstore's endpoints and keys, where they are not the public ones.
    """

    key: Path | None = None
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    password: str | None = None
    sigstore: bool = False
    identity_token: str | None = None
    trust_config: Path | None = None


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signature counts: a public key's, one of certificates that lead to `certificates`, or an identity's.

    Args:
        key: a PEM file of the public key.
        certificates: PEM files of root certificates.
        identity: who signed by Sigstore, as an e-mail address or the URL of a workflow.
        issuer: who vouched for that identity, as https://accounts.google.com.
        trust_config: as for `Signing`.
    """

    key: Path | None = None
    certificates: tuple[Path, ...] = ()
    identity: str | None = None
    issuer: str | None = None
    trust_config: Path | None = None


def sign_statement(statement: Any, signing: Signing) -> bytes:
    """Sign a statement of in-toto (a `Statement` of `in_toto_attestation.v1.statement`).

    Returns:
        The signature with all that it signs, JSON.

    Raises:
        UsageError: the key or certificate is none.
        RocmforgeError: the extra is not installed, or Sigstore cannot be reached.
    """
    with _library_errors("cannot sign", signing.sigstore):
        signature = _signer(signing).sign(SimpleNamespace(statement=statement))
        # Its own words for one and the same JSON differ between versions.
        text = json.dumps(json.loads(signature.bundle.to_json()), sort_keys=True, separators=(",", ":"))
    return (text + "\n").encode("ascii")


def verify_statement(data: bytes, trust: Trust, path: Path | str, name: str) -> dict[str, Any]:
    """Return the statement that was signed, by whom `trust` names.

    Args:
        data: what `sign_statement` returned.
        trust: whose signature counts.
        path: the bundle, for messages.
        name: the file, for messages.

    Raises:
        BundleError: it is no such signature.
        UsageError: the key or certificate is none.
        RocmforgeError: the extra is not installed, or Sigstore cannot be reached.
    """
    verifier, kind = _verifier(trust)
    try:
        signature = _read_signature(kind, data)
        _check_exact(json.loads(data), json.loads(signature.bundle.to_json()))
        with contextlib.redirect_stdout(sys.stderr):  # it prints
            payload_type, payload = verifier._verify_signed_content(signature)
        statement = json.loads(payload)
        if payload_type != _PAYLOAD_TYPE or statement["_type"] != _STATEMENT_TYPE:
            raise ValueError(f"a payload of {payload_type}")
    except Exception as error:  # of five libraries, and whatever a hostile file brings about in them
        found = printable(error) or type(error).__name__
        raise BundleError(
            path, name, f"expected a signature by {_described(trust)}, found otherwise: {found}"
        ) from error
    if not isinstance(statement, dict):
        raise BundleError(path, name, "expected a statement, found otherwise")
    return statement


def check_trust(trust: Trust) -> None:
    """Refuse keys and certificates by which nothing can be verified, before there is anything to verify.

    Raises:
        UsageError, RocmforgeError: as `verify_statement`.
    """
    if trust.key is not None or trust.certificates:  # an identity is Sigstore's matter, and needs a network
        _verifier(trust)


def _read_signature(kind: Any, data: bytes) -> Any:
    """Have the library read the signature's bytes, by the path that it wants."""
    fd = os.memfd_create("signature", os.MFD_CLOEXEC)
    with os.fdopen(fd, "w+b") as file:
        file.write(data)
        file.flush()
        return kind.read(Path(f"/proc/self/fd/{fd}"))


def _check_exact(found: Any, read: Any) -> None:
    """Refuse a file that says more than was read of it, as in the bits behind the end of a base64 text.

    Raises:
        ValueError: it does.
    """
    if isinstance(found, dict) and isinstance(read, dict):
        for key, value in found.items():
            _check_exact(value, read.get(key, value))
    elif isinstance(found, list) and isinstance(read, list):
        for one, other in zip(found, read, strict=True):
            _check_exact(one, other)
    elif found != read:
        raise ValueError(f"{printable(found, 40)}, which reads as {printable(read, 40)}")


def _described(trust: Trust) -> str:
    """Whose signature is wanted, for messages."""
    if trust.key is not None:
        return f"the key {printable(trust.key)}"
    if trust.certificates:
        return f"a certificate of {', '.join(printable(path) for path in trust.certificates)}"
    return f"{printable(trust.identity)}, as {printable(trust.issuer)} knows them"


def _signer(signing: Signing) -> Any:
    """A signer of the library."""
    key, certificate = _modules()
    if signing.sigstore:
        from model_signing._signing import sign_sigstore  # noqa: PLC0415 - only with the extra

        return sign_sigstore.Signer(identity_token=signing.identity_token, trust_config=signing.trust_config)
    if signing.key is None:
        raise UsageError("--key: expected a private key, or --sigstore, found neither")
    try:
        if signing.certificate is None:
            if signing.chain:
                raise UsageError("--chain: expected together with --certificate, found alone")
            return key.Signer(signing.key, signing.password.encode() if signing.password else None)
        # It reads no empty chain: the certificate itself, said twice, leads nowhere else.
        return certificate.Signer(signing.key, signing.certificate, signing.chain or (signing.certificate,))
    except (ValueError, TypeError, AttributeError) as error:  # the last: a key of another kind has no curve
        files = ", ".join(printable(path) for path in (signing.key, signing.certificate, *signing.chain) if path)
        raise _no_key("a private key", files, error) from error


def _verifier(trust: Trust) -> tuple[Any, Any]:
    """A verifier of the library, and the class of the signatures that it takes."""
    key, certificate = _modules()
    given = [bool(trust.key), bool(trust.certificates), bool(trust.identity or trust.issuer)]
    if sum(given) != 1:
        raise UsageError("expected one of --key, --certificate and --identity with --issuer, found none or several")
    from model_signing._signing import sign_sigstore, sign_sigstore_pb  # noqa: PLC0415 - only with the extra

    if trust.key is None and not trust.certificates:
        if not (trust.identity and trust.issuer):
            raise UsageError("--identity: expected together with --issuer, found one alone")
        with _library_errors("cannot verify", True):
            kind = sign_sigstore.Signature
            return sign_sigstore.Verifier(
                identity=trust.identity, oidc_issuer=trust.issuer, trust_config=trust.trust_config
            ), kind
    try:
        if trust.key is not None:
            return key.Verifier(trust.key), sign_sigstore_pb.Signature
        return certificate.Verifier(trust.certificates), sign_sigstore_pb.Signature
    except (ValueError, TypeError, AttributeError) as error:
        files = ", ".join(printable(path) for path in (trust.key, *trust.certificates) if path)
        raise _no_key("a public key" if trust.key else "certificates", files, error) from error


def _no_key(what: str, files: str, error: Exception) -> UsageError:
    wanted = f"expected {what} in PEM, of the curve P-256, P-384 or P-521"
    return UsageError(f"{files}: {wanted}, found otherwise: {printable(error)}")


def _modules() -> tuple[Any, Any]:
    """The library's signers by keys and by certificates. Its public functions hash files anew, by their paths, and
    sign no statement but their own: hence what is below them, of one version."""
    try:
        from model_signing._signing import sign_certificate, sign_ec_key  # noqa: PLC0415 - only with the extra
    except ImportError as error:
        raise RocmforgeError(f"{MISSING} ({printable(error)})") from error
    return sign_ec_key, sign_certificate


@contextlib.contextmanager
def _library_errors(what: str, sigstore: bool) -> Any:
    """Say in a line what Sigstore's libraries raise where there is no network, no identity or no such service."""
    try:
        yield
    except RocmforgeError:
        raise
    except Exception as error:
        if not sigstore or (isinstance(error, OSError) and error.filename):
            raise
        cause = printable(error) or type(error).__name__
        raise RocmforgeError(f"{what} by Sigstore, which needs a network and an identity: {cause}") from error
