"""Keys and certificates for signatures, made anew for a test."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM
_BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class KeyPair:
    """PEM files of a key."""

    private: Path
    public: Path


def make_key(folder: Path, name: str = "key", curve: ec.EllipticCurve | None = None, password: str = "") -> KeyPair:
    return write_key(folder, name, ec.generate_private_key(curve or ec.SECP256R1()), password)


def write_key(folder: Path, name: str, key: Any, password: str = "") -> KeyPair:
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.pub")
    pair.private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, locked))
    public = key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    pair.public.write_bytes(public)
    return pair


def make_certificate(folder: Path) -> Path:
    """A PEM file of a key and of the certificate that it gave itself, for a server on this machine."""
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("server")
    first, last = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2000, 2200))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number()).not_valid_before(first).not_valid_after(last)
    signed = built.add_extension(here, critical=False).sign(key, hashes.SHA256())
    path = folder / "server.pem"
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + signed.public_bytes(_PEM))
    return path


@dataclass(frozen=True)
class Authority:
    """A root, the certificate that it gave another authority, and the one that this gave to a key; PEM files."""

    root: Path
    between: Path
    certificate: Path
    key: Path


def make_authority(folder: Path, name: str = "ca", signs: bool = True) -> Authority:
    """`signs`: whether the last certificate is for signatures."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
    files = [folder / f"{name}-{part}.crt" for part in ("root", "between", "leaf")]
    for i, (key, path) in enumerate(zip(keys, files, strict=True)):
        last = i == 2
        built = (
            x509.CertificateBuilder()
            .subject_name(_name(f"{name} {i}"))
            .issuer_name(_name(f"{name} {max(i - 1, 0)}"))
            .public_key(key.public_key())
            .serial_number(i + 1)
            .not_valid_before(_BEGIN)
            .not_valid_after(_BEGIN + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=not last, path_length=None), critical=True)
            .add_extension(_usage(signs and last, not last), critical=True)
        )
        path.write_bytes(built.sign(keys[max(i - 1, 0)], hashes.SHA256()).public_bytes(_PEM))
    root, between, leaf = files
    return Authority(root, between, leaf, write_key(folder, f"{name}-leaf", keys[2]).private)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(signs: bool, issues: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=not (signs or issues),
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )
