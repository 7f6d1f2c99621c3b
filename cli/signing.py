"""`rfc sign`, and the options by which other commands ask for signatures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artifacts.errors import UsageError, printable

if TYPE_CHECKING:
    from ..artifacts.bundle import Bundle
    from ..signing.envelope import Signing

_PATH = click.Path(path_type=Path)


def signing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `signing`: who signs."""

    @click.option("--key", type=_PATH, envvar="ROCMFORGE_SIGNING_KEY", help="The private key, PEM (P-256, 384, 521).")
    @click.option("--certificate", type=_PATH, help="With --key: its certificate, PEM.")
    @click.option("--chain", type=_PATH, multiple=True, help="Certificates between that one and the trusted root.")
    @click.option("--key-password", envvar="ROCMFORGE_SIGNING_KEY_PASSWORD", help="Of the key. Better by environment.")
    @click.option(
        "--sigstore", is_flag=True, help="Sign by Sigstore, with an identity of OpenID Connect: needs a network."
    )
    @click.option("--identity-token", envvar="SIGSTORE_ID_TOKEN", help="With --sigstore: the identity. [default: CI's]")
    @click.option("--trust-config", type=_PATH, help="With --sigstore: another Sigstore than the public one, JSON.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        key: Path | None,
        certificate: Path | None,
        chain: tuple[Path, ...],
        key_password: str | None,
        sigstore: bool,
        identity_token: str | None,
        trust_config: Path | None,
        **extra: Any,
    ) -> None:
        from ..signing.envelope import Signing

        if sigstore and (key or certificate):
            raise UsageError("--sigstore: expected without --key and --certificate, found both")
        signing = Signing(key, certificate, chain, key_password, sigstore, identity_token, trust_config)
        command(*args, signing=signing, **extra)

    return wrapped


def trust_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `check`: refuses an open bundle that is not signed as asked; None where no signature is asked for."""

    @click.option("--key", type=_PATH, envvar="ROCMFORGE_VERIFY_KEY", help="Public key, PEM, that must have signed.")
    @click.option(
        "--certificate", type=_PATH, multiple=True, help="Root certificate, PEM, that the signer's must lead to."
    )
    @click.option("--identity", help="Who must have signed by Sigstore, as an e-mail address: needs a network.")
    @click.option("--issuer", help="With --identity: who vouches for it, as https://accounts.google.com.")
    @click.option("--trust-config", type=_PATH, help="With --identity: another Sigstore than the public one, JSON.")
    @click.option("--signature", type=_PATH, help="The signature. [default: model.sig in the bundle]")
    @click.option(
        "--require-signature", is_flag=True, help="Refuse what nobody named by these signed; said by each of them."
    )
    @click.option("--require-attestations", is_flag=True, help="Also refuse it without a provenance and a bill.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        key: Path | None,
        certificate: tuple[Path, ...],
        identity: str | None,
        issuer: str | None,
        trust_config: Path | None,
        signature: Path | None,
        require_signature: bool,
        require_attestations: bool,
        **extra: Any,
    ) -> None:
        if not (key or certificate or identity or issuer):
            if require_signature or signature or require_attestations:
                asked = "--require-signature" if require_signature else "--signature"
                asked = asked if require_signature or signature else "--require-attestations"
                raise UsageError(f"{asked}: expected --key, --certificate or --identity with it, found none")
            return command(*args, check=None, **extra)
        from ..signing.attestation import check_attestations
        from ..signing.envelope import Trust, check_trust
        from ..signing.files import read_signature_file
        from ..signing.model_signature import check_signature

        trust = Trust(key, certificate, identity, issuer, trust_config)
        check_trust(trust)

        def check(bundle: Bundle) -> None:
            check_signature(bundle, trust, None if signature is None else read_signature_file(signature))
            check_attestations(bundle, trust, require_attestations)

        return command(*args, check=check, **extra)

    return wrapped


@click.command()
@click.argument("bundle", type=_PATH)
@click.option("-o", "--output", type=_PATH, help="Where to. [default: model.sig in the bundle]")
@signing_options
def sign(bundle: Path, output: Path | None, signing: Signing) -> None:
    """Sign a BUNDLE, after reading all of it: OpenSSF Model Signing. Its digest stays as it is."""
    from ..artifacts.bundle import verify_bundle
    from ..artifacts.companions import SIGNATURE_NAME
    from ..signing.files import write_companion
    from ..signing.model_signature import sign_bundle

    with verify_bundle(bundle) as opened:
        data = sign_bundle(opened, signing)
        digest = opened.manifest.bundle_digest
    goal = bundle / SIGNATURE_NAME if output is None else output
    write_companion(goal, data)
    click.echo(f"{printable(goal)}  {digest}")


@click.command()
@click.argument("bundle", type=_PATH)
@click.option(
    "--builder",
    envvar="ROCMFORGE_BUILDER",
    default="urn:rocmforge:rfc-attest",
    show_default=True,
    help="Who ran the build: a URI, as of a CI's workflow.",
)
@click.option("--bom", type=_PATH, help="Write the bill of materials here too, as plain CycloneDX.")
@signing_options
def attest(bundle: Path, builder: str, bom: Path | None, signing: Signing) -> None:
    """Say of a BUNDLE how it was made (SLSA provenance) and of what (a CycloneDX bill of materials), signed."""
    import json

    from ..artifacts.bundle import verify_bundle
    from ..signing.attestation import attest_bundle
    from ..signing.bill import make_bill
    from ..signing.files import write_companion

    with verify_bundle(bundle) as opened:
        files = attest_bundle(opened, signing, builder)
        digest = opened.manifest.bundle_digest
        if bom is not None:
            write_companion(bom, json.dumps(make_bill(opened), indent=1).encode())
    for name, data in files.items():
        write_companion(bundle / name, data)
        click.echo(f"{printable(bundle / name)}  {digest}")
