"""Provenance and bills of materials: valid by their own standards, about this bundle, and signed."""

from __future__ import annotations

import base64
import dataclasses
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import BundleError, RocmforgeError, UsageError
from rocmforge.artifacts.pulled import Pulled
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.cli import main
from rocmforge.signing.attestation import attest_bundle, check_attestations
from rocmforge.signing.bill import make_bill
from rocmforge.signing.envelope import Signing, Trust
from rocmforge.signing.provenance import make_provenance
from rocmforge.tests.support.bundle import LAYOUT_DATA, MANIFEST, TARGET, WEIGHTS, write_bundle
from rocmforge.tests.support.keys import KeyPair, make_key

OPTIONS = {
    "archs": ["host"],
    "kv_type": "f16",
    "packages": {"numpy": "2.4.6"},
    "toolchains": {"zig": {"sha256": "ab" * 32, "version": "ziglang 0.17.0"}},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A bundle that records its build."""
    target = dataclasses.replace(TARGET, toolchain="zig", toolchain_version="ziglang 0.17.0")
    with BundleWriter(tmp_path / "model.rfb") as writer:
        for name, data in (("weights.bin", WEIGHTS), ("layout.msgpack", LAYOUT_DATA), ("code/host.so", b"\x7fELF")):
            writer.add_bytes(name, data)
        writer.add_bytes("src/embed.c", b"int x;\n")
        writer.finish(dataclasses.replace(MANIFEST, targets=(target,), options=OPTIONS))
    return tmp_path / "model.rfb"


@pytest.fixture
def key(tmp_path: Path) -> KeyPair:
    return make_key(tmp_path)


def attest(model: Path, key: KeyPair) -> None:
    with open_bundle(model) as bundle:
        for name, data in attest_bundle(bundle, Signing(key.private), "https://ci.example.com/1").items():
            (model / name).write_bytes(data)


def check(model: Path, key: KeyPair, required: bool = True) -> None:
    with open_bundle(model) as bundle:
        check_attestations(bundle, Trust(key.public), required)


def statement(path: Path) -> dict[str, Any]:
    envelope = json.loads(path.read_text())["dsseEnvelope"]
    found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return found


@pytest.mark.slow
def test_provenance_says_how_it_was_made(model: Path, key: KeyPair) -> None:
    attest(model, key)
    check(model, key)
    with open_bundle(model) as bundle:
        digest, manifest = bundle.manifest.bundle_digest, bundle.digests["manifest.json"]
    found = statement(model / "provenance.sig")
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    assert found["subject"] == [
        {"name": "bundle", "digest": {"sha256": digest.removeprefix("sha256:")}},
        {"name": "manifest.json", "digest": {"sha256": manifest}},
    ]
    build = found["predicate"]["buildDefinition"]
    assert build["externalParameters"] == {"archs": ["host"], "kv_type": "f16"}
    assert build["internalParameters"]["flags"] == {"host x86_64_v4": ["-O3"]}
    assert build["resolvedDependencies"] == [
        {"name": "Tiny", "digest": {"sha256": MANIFEST.model.source_sha256}},
        {"name": "zig", "annotations": {"version": "ziglang 0.17.0"}, "digest": {"sha256": "ab" * 32}},
        {"name": "rocmforge", "uri": "pkg:pypi/rocmforge@0.1.0"},
        {"name": "numpy", "uri": "pkg:pypi/numpy@2.4.6"},
    ]
    assert found["predicate"]["runDetails"]["builder"] == {
        "id": "https://ci.example.com/1",
        "version": {"rocmforge": "0.1.0"},
    }


def test_the_bill_lists_all_that_is_in_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with open_bundle(model) as bundle:
        bill, again, digests = make_bill(bundle), make_bill(bundle), dict(bundle.digests)
    assert bill == again
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert uuid.UUID(bill["serialNumber"].removeprefix("urn:uuid:")).version == 5
    rows = {(row["type"], row["name"]): row for row in bill["components"]}
    assert {name: row["hashes"][0]["content"] for (kind, name), row in rows.items() if kind == "file"} == digests
    assert rows["machine-learning-model", "Tiny"]["hashes"][0]["content"] == MANIFEST.model.source_sha256
    assert rows["application", "zig"]["hashes"][0]["content"] == "ab" * 32
    assert {row["purl"] for row in bill["components"] if row["type"] == "library"} == {
        "pkg:pypi/rocmforge@0.1.0",
        "pkg:pypi/numpy@2.4.6",
    }
    assert len(next(row for row in bill["dependencies"] if row["ref"] == "application:bundle")["dependsOn"]) == len(
        rows
    )
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with open_bundle(model) as bundle, pytest.raises(UsageError, match="SOURCE_DATE_EPOCH: expected seconds"):
        make_bill(bundle)


def test_a_bundle_that_records_little(tmp_path: Path) -> None:
    """As those before the record: compilers by version alone."""
    with open_bundle(write_bundle(tmp_path / "old.rfb")) as bundle:
        found = make_provenance(bundle, "urn:x")["buildDefinition"]["resolvedDependencies"]
        assert [row["name"] for row in found] == ["Tiny", "clang", "rocmforge"]
        assert found[1] == {"name": "clang", "annotations": {"version": "22.1"}}
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(make_bill(bundle))) is None


def test_statements_of_others_and_about_others_are_refused(model: Path, key: KeyPair, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"provenance\.sig: expected a signed statement, found none"):
        check(model, key)
    check(model, key, required=False)
    attest(model, key)
    with pytest.raises(BundleError, match=r"provenance\.sig: expected a signature by the key"):
        check(model, make_key(tmp_path, "other"))
    good = (model / "bom.sig").read_bytes()
    (model / "bom.sig").write_bytes((model / "provenance.sig").read_bytes())
    with pytest.raises(BundleError, match=r"bom\.sig: expected a statement of https://cyclonedx.org/bom, found one of"):
        check(model, key)
    changed = bytearray(good)
    changed[len(good) // 2] ^= 1
    (model / "bom.sig").write_bytes(changed)
    with pytest.raises(BundleError, match=r"bom\.sig: expected a signature by the key"):
        check(model, key, required=False)
    other = write_bundle(tmp_path / "other.rfb")
    attest(other, key)
    for name in ("bom.sig", "provenance.sig"):
        (model / name).write_bytes((other / name).read_bytes())
    with pytest.raises(BundleError, match=r"provenance\.sig: expected a statement about sha256 "):
        check(model, key)


def test_a_part_of_a_bundle_is_not_attested(tmp_path: Path, key: KeyPair) -> None:
    targets = (TARGET, dataclasses.replace(TARGET, arch="gfx942", backend="hip", file="code/gfx942.hsaco"))
    with BundleWriter(tmp_path / "model.rfb") as writer:
        for name, data in (("weights.bin", WEIGHTS), ("layout.msgpack", LAYOUT_DATA), ("code/host.so", b"\x7fELF")):
            writer.add_bytes(name, data)
        writer.add_bytes("code/gfx942.hsaco", b"\x7fELF")
        writer.finish(dataclasses.replace(MANIFEST, targets=targets))
    (tmp_path / "model.rfb" / "code/gfx942.hsaco").unlink()
    (tmp_path / "model.rfb" / "pulled.json").write_bytes(Pulled("", ("code/gfx942.hsaco",)).encode())
    with pytest.raises(RocmforgeError, match="code of other machines was left out of this copy: sign the whole"):
        attest(tmp_path / "model.rfb", key)


def test_the_command(model: Path, key: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROCMFORGE_BUILDER", raising=False)
    plain = tmp_path / "bom.json"
    done = CliRunner().invoke(main, ["attest", str(model), "--key", str(key.private), "--bom", str(plain)])
    with open_bundle(model) as bundle:
        digest = bundle.manifest.bundle_digest
    assert done.output == f"{model / 'provenance.sig'}  {digest}\n{model / 'bom.sig'}  {digest}\n"
    assert json.loads(plain.read_text())["components"] == statement(model / "bom.sig")["predicate"]["components"]
    check(model, key)
    done = CliRunner().invoke(main, ["verify", str(model), "--require-attestations"])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert done.output.startswith("rfc: --require-attestations: expected --key")
