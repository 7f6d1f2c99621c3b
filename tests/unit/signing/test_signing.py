"""Signatures of bundles: whose they are, what they cover, and that an outside verifier reads them."""

from __future__ import annotations

import base64
import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement

from rocmforge.artifacts.bundle import check_replaceable, open_bundle, verify_bundle
from rocmforge.artifacts.companions import COMPANION_NAMES
from rocmforge.artifacts.errors import BundleError, RocmforgeError, UsageError
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.signing.envelope import Signing, Trust, sign_statement
from rocmforge.signing.files import read_signature_file, write_companion
from rocmforge.signing.model_signature import check_signature, sign_bundle
from rocmforge.tests.support.bundle import LAYOUT_DATA, MANIFEST, WEIGHTS, write_bundle
from rocmforge.tests.support.keys import KeyPair, make_authority, make_key, write_key


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "model.rfb")


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return make_key(tmp_path)


def sign(model: Path, signing: Signing) -> Path:
    with verify_bundle(model) as bundle:
        write_companion(model / "model.sig", sign_bundle(bundle, signing))
    return model / "model.sig"


def check(model: Path, trust: Trust) -> None:
    with open_bundle(model) as bundle:
        check_signature(bundle, trust)


def refused(model: Path, trust: Trust) -> str:
    with pytest.raises(BundleError) as caught:
        check(model, trust)
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix(f"{model}: ")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signed_bundle_is_the_same_bundle(model: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    pair = make_key(tmp_path, curve=curve, password="secret")
    with open_bundle(model) as bundle:
        before = bundle.manifest
    sign(model, Signing(pair.private, password="secret"))
    check(model, Trust(pair.public))
    with open_bundle(model) as bundle:
        assert bundle.manifest == before
    check_replaceable(model)  # a compiler may replace it, signature and all
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_others_verify_it_by_the_same_standard(model: Path, key: KeyPair) -> None:
    """OpenSSF's own verifier, hashing files by itself, and its signer, read here."""
    # Half a second and more, of each process that collects tests.
    from model_signing import hashing, verifying  # noqa: PLC0415
    from model_signing import signing as outside  # noqa: PLC0415

    signature = sign(model, Signing(key.private))
    verifying.Config().use_elliptic_key_verifier(public_key=key.public).verify(model, signature)
    (model / "src" / "embed.c").write_bytes(b"int y;\n")
    with pytest.raises(ValueError, match=r"src/embed\.c"):
        verifying.Config().use_elliptic_key_verifier(public_key=key.public).verify(model, signature)
    (model / "src" / "embed.c").write_bytes(b"int x;\n")
    signature.unlink()
    plain = hashing.Config().set_ignored_paths(paths=[signature])
    outside.Config().set_hashing_config(plain).use_elliptic_key_signer(private_key=key.private).sign(model, signature)
    check(model, Trust(key.public))


def test_a_certificate_leads_to_its_root(model: Path, tmp_path: Path) -> None:
    mine, other = make_authority(tmp_path), make_authority(tmp_path, "other")
    signature = sign(model, Signing(mine.key, mine.certificate, (mine.between,)))
    check(model, Trust(certificates=(mine.root,)))
    check(model, Trust(certificates=(other.root, mine.root)))
    assert refused(model, Trust(certificates=(other.root,))).startswith(
        "model.sig: expected a signature by a certifica"
    )
    flip_each(model, signature, Trust(certificates=(mine.root,)), 40)
    sign(model, Signing(mine.key, mine.certificate))  # nothing leads from it to the root
    assert "unable to get local issuer" in refused(model, Trust(certificates=(mine.root,)))
    wrong = make_authority(tmp_path, "wrong", signs=False)
    sign(model, Signing(wrong.key, wrong.certificate, (wrong.between,)))
    assert "cannot be used for signing" in refused(model, Trust(certificates=(wrong.root,)))


def flip_each(model: Path, path: Path, trust: Trust, count: int) -> None:
    """Change bytes of the signature, one at a time: each is refused by its name."""
    data, chosen = path.read_bytes(), random.Random(15)
    for _ in range(count):
        changed = bytearray(data)
        changed[chosen.randrange(len(data) - 1)] ^= 1 << chosen.randrange(8)
        path.write_bytes(changed)
        assert refused(model, trust).startswith("model.sig: expected a signature by ")
    path.write_bytes(data)
    check(model, trust)


def test_any_changed_byte_of_the_signature_is_refused(model: Path, key: KeyPair) -> None:
    flip_each(model, sign(model, Signing(key.private)), Trust(key.public), 200)


def test_spare_bits_behind_base64_are_refused(model: Path, key: KeyPair) -> None:
    """They change no byte of what is read, so that no digest shows them."""
    path = sign(model, Signing(key.private))
    envelope = json.loads(path.read_text())
    entry = envelope["dsseEnvelope"]["signatures"][0]
    text = entry["sig"].rstrip("=")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    while len(text) % 4 == 0:  # as long as it happens to fill its last letter
        path = sign(model, Signing(key.private))
        envelope = json.loads(path.read_text())
        entry = envelope["dsseEnvelope"]["signatures"][0]
        text = entry["sig"].rstrip("=")
    changed = text[:-1] + letters[letters.index(text[-1]) ^ 1]
    assert base64.b64decode(changed + "==") == base64.b64decode(entry["sig"])
    entry["sig"] = changed + "=" * (-len(changed) % 4)
    path.write_text(json.dumps(envelope))
    assert "which reads as" in refused(model, Trust(key.public))


def other_code(model: Path) -> None:
    """A whole and sound bundle with other code, under the signature of the first."""
    signature = (model / "model.sig").read_bytes()
    write_bundle(model, code=b"\x7fELF evil")
    (model / "model.sig").write_bytes(signature)


def one_file_less(model: Path) -> None:
    signature = (model / "model.sig").read_bytes()
    with BundleWriter(model) as writer:
        for name, data in (
            ("weights.bin", WEIGHTS),
            ("layout.msgpack", LAYOUT_DATA),
            ("code/host.so", b"\x7fELF code"),
        ):
            writer.add_bytes(name, data)
        writer.finish(MANIFEST)
    (model / "model.sig").write_bytes(signature)


@pytest.mark.parametrize("change, name", [(other_code, "code/host.so"), (one_file_less, "manifest.json")])
def test_another_bundle_is_not_what_was_signed(
    model: Path, key: KeyPair, change: Callable[[Path], None], name: str
) -> None:
    sign(model, Signing(key.private))
    change(model)
    assert refused(model, Trust(key.public)).startswith(f"{name}: expected sha256 ")


def test_whose_signature_it_is(model: Path, tmp_path: Path, key: KeyPair) -> None:
    other = make_key(tmp_path, "other")
    assert refused(model, Trust(key.public)) == "model.sig: expected a signature, found none (see rfc sign)"
    sign(model, Signing(other.private))
    assert refused(model, Trust(key.public)).startswith(
        f"model.sig: expected a signature by the key {key.public}, found"
    )
    hinted = json.loads((model / "model.sig").read_text())
    sign(model, Signing(key.private))
    mine = json.loads((model / "model.sig").read_text())
    hinted["verificationMaterial"] = mine["verificationMaterial"]  # the other's signature, as if by this key
    (model / "model.sig").write_text(json.dumps(hinted))
    assert refused(model, Trust(key.public)).startswith("model.sig: expected a signature by the key")
    shutil.copy(model / "manifest.json", model / "model.sig")
    assert refused(model, Trust(key.public)).startswith("model.sig: expected a signature by the key")


def test_a_signed_statement_of_another_kind_is_no_signature(model: Path, key: KeyPair) -> None:
    for kind, predicate in (
        ("https://slsa.dev/provenance/v1", {"a": 1}),
        ("https://model_signing/signature/v1.0", {"resources": []}),
        ("https://model_signing/signature/v1.0", {"serialization": {"method": "shards"}, "resources": []}),
        (
            "https://model_signing/signature/v1.0",
            {"serialization": {"method": "files"}, "resources": [{"algorithm": "x"}]},
        ),
    ):
        subject = ResourceDescriptor(name="x", digest={"sha256": "0" * 64}).pb
        data = sign_statement(Statement([subject], kind, predicate), Signing(key.private))
        (model / "model.sig").write_bytes(data)
        assert refused(model, Trust(key.public)).startswith("model.sig: expected SHA-256 digests of files")


def test_keys_that_are_none(model: Path, tmp_path: Path, key: KeyPair) -> None:
    modern = write_key(tmp_path, "modern", ed25519.Ed25519PrivateKey.generate())
    locked = make_key(tmp_path, "locked", password="secret")
    one, other = make_authority(tmp_path, "one"), make_authority(tmp_path, "two")
    for signing, problem in (
        (Signing(), "expected a private key, or --sigstore"),
        (Signing(modern.private), r"modern\.pem: expected a private key in PEM, of the curve P-256"),
        (Signing(key.public), r"key\.pub: expected a private key in PEM"),
        (Signing(locked.private), r"locked\.pem: expected a private key"),
        (Signing(locked.private, password="wrong"), r"locked\.pem: expected a private key"),
        (Signing(one.key, other.certificate), "does not match"),
        (Signing(one.key, chain=(one.between,)), "--chain: expected together with --certificate"),
    ):
        with pytest.raises(UsageError, match=problem):
            sign(model, signing)
    sign(model, Signing(key.private))
    for trust, problem in (
        (Trust(key.private), r"key\.pem: expected a public key in PEM"),
        (Trust(modern.public), r"modern\.pub: expected a public key in PEM"),
        (Trust(certificates=(key.public,)), r"key\.pub: expected certificates in PEM"),
        (Trust(key.public, (one.root,)), "expected one of --key, --certificate and --identity"),
        (Trust(), "expected one of --key"),
        (Trust(identity="me@example.com"), "--identity: expected together with --issuer"),
    ):
        with pytest.raises(UsageError, match=problem):
            check(model, trust)
    with pytest.raises(FileNotFoundError):  # the command says it in a line
        check(model, Trust(tmp_path / "absent.pub"))


def test_sigstore_without_a_network_is_said_in_a_line(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to tuf-repo")

    monkeypatch.setattr("sigstore.models.ClientTrustConfig.production", unreachable)
    with pytest.raises(
        RocmforgeError, match="cannot sign by Sigstore, which needs a network and an identity: no route"
    ):
        sign(model, Signing(sigstore=True))
    (model / "model.sig").write_text("{}")
    with pytest.raises(RocmforgeError, match=r"cannot verify by Sigstore, which needs a network .*: no route"):
        check(model, Trust(identity="me@example.com", issuer="https://example.com"))


def test_a_signature_elsewhere_needs_its_own_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one above, which is another's where it is that of all users, and another disk where a volume begins."""
    seen: list[str] = []
    real = os.replace

    def replace(source: Path, goal: Path) -> None:
        seen.append(os.path.dirname(source))
        real(source, goal)

    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for goal in (tmp_path / "here" / "model.sig", Path("bom.json")):
        write_companion(goal, b"x")
    assert seen == [str(tmp_path / "here")] * 2
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["bom.json", "model.sig"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EACCES, errno.EROFS])
def test_a_bundle_that_is_a_volume_gets_its_signature(model: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside it lies another disk, or what is another's; and in it never a file that it does not have."""
    real_open, listings = os.open, list[set[str]]()

    def opened(path: Any, *arguments: Any, **named: Any) -> int:
        if Path(path).parent == model.parent and path != model:
            raise OSError(code, os.strerror(code), str(path))
        listings.append(set(os.listdir(model)))
        return real_open(path, *arguments, **named)

    monkeypatch.setattr(os, "open", opened)
    before = set(os.listdir(model))
    for data in (b"first", b"second"):
        write_companion(model / "model.sig", data)
        assert (model / "model.sig").read_bytes() == data
        assert (model / "model.sig").stat().st_mode & 0o777 == 0o644
    assert all(names - {"model.sig"} == before for names in listings)
    monkeypatch.undo()
    with open_bundle(model) as bundle:
        assert bundle.read_companion("model.sig") == b"second"
    write_companion(model / "model.sig", b"third")
    assert (model / "model.sig").read_bytes() == b"third"
    assert not list(model.parent.glob(".*"))


def test_files_of_signatures(model: Path, tmp_path: Path) -> None:
    assert all(not name.startswith(".") for name in COMPANION_NAMES)
    with pytest.raises(RocmforgeError, match="cannot write"):
        write_companion(tmp_path / "absent" / "model.sig", b"")
    with pytest.raises(BundleError):
        open_bundle(tmp_path / "absent")
    (model / "model.sig").mkdir()
    with pytest.raises(BundleError, match=r"model\.sig"):
        open_bundle(model)
    (model / "model.sig").rmdir()
    with (model / "model.sig").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with open_bundle(model) as bundle, pytest.raises(BundleError, match=r"model\.sig: expected at most"):
        bundle.read_companion("model.sig")
    with pytest.raises(RocmforgeError, match="expected at most"):
        read_signature_file(model / "model.sig")
    with pytest.raises(RocmforgeError, match="expected a signature, found No such file"):
        read_signature_file(tmp_path / "absent")
