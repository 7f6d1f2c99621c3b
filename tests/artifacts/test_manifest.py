"""manifest.json: round trips, and tables that nobody should trust."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout import Checker
from rocmforge.artifacts.manifest import (
    FORMAT_MAJOR,
    FORMAT_MINOR,
    FileEntry,
    Manifest,
    ModelIdentity,
    TargetEntry,
    check_file_name,
    compute_digest,
    decode_manifest,
    encode_manifest,
)

PATH = Path("model.rfb/manifest.json")
SHA = hashlib.sha256(b"").hexdigest()
TARGET = TargetEntry(
    "host",
    "host",
    "x86_64_v4",
    "code/host.so",
    "layout.msgpack",
    "rf_step",
    "clang",
    "22.1",
    ("-O3",),
    1,
    "bitwise",
    0.0,
)
MANIFEST = Manifest(
    model=ModelIdentity("Tiny", "llama", SHA, 1000, "Q8_0", 128, {"general.license": "mit", "x": 1.5}),
    targets=(TARGET,),
    tokenizer={"kind": "bpe", "bos": 1, "stop": [1, 2]},
    memory={"host": {"weights": 2304}},
    kernels=({"symbol": "embed", "bytes": 4},),
    golden=({"prompt": [1, 2], "logits": [0.5, -1.25]},),
    generator="0.1.0",
    options={"arch": ["host"]},
    files={
        name: FileEntry(0, SHA)
        for name in ("layout.msgpack", "weights.bin", "code/host.so", "src/embed.c", "tokenizer.json")
    },
)
DATA = encode_manifest(MANIFEST)


def edited(path: str, value: Any) -> bytes:
    """The canonical manifest with one value changed (... removes it) and the digest made right again."""
    root: Any = json.loads(DATA)
    inner, parts = root, path.split("|")
    for part in parts[:-1]:
        inner = inner[int(part) if part.isdigit() else part]
    if value is ...:
        del inner[parts[-1]]
    else:
        inner[parts[-1]] = value
    if path != "bundle_digest":
        root["bundle_digest"] = ""
        root["bundle_digest"] = "sha256:" + hashlib.sha256(canonical(root)).hexdigest()
    return canonical(root)


def canonical(root: Any) -> bytes:
    return (json.dumps(root, sort_keys=True, separators=(",", ":")) + "\n").encode()


def test_round_trip() -> None:
    manifest = decode_manifest(PATH, DATA)
    assert manifest == dataclasses.replace(MANIFEST, bundle_digest=compute_digest(MANIFEST))
    assert encode_manifest(manifest) == DATA
    assert DATA.endswith(b"}\n")
    assert edited("generator", "0.1.0") == DATA


def test_digest_covers_every_file() -> None:
    other = dict(MANIFEST.files) | {"tokenizer.json": FileEntry(1, SHA)}
    assert compute_digest(dataclasses.replace(MANIFEST, files=other)) != compute_digest(MANIFEST)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: "Infinity" not in json.dumps(value))
tables = st.dictionaries(st.text(), json_values, max_size=4)


contracts = st.dictionaries(st.text(), st.dictionaries(st.text(), st.integers(0, 2**60), max_size=3), max_size=3)


@given(tables, tables, contracts, st.text(max_size=30))
def test_any_manifest_round_trips(
    options: dict[str, object], row: dict[str, object], memory: dict[str, dict[str, int]], name: str
) -> None:
    model = dataclasses.replace(MANIFEST.model, name=name)
    manifest = dataclasses.replace(MANIFEST, options=options, kernels=(row,), memory=memory, model=model)
    data = encode_manifest(manifest)
    assert encode_manifest(decode_manifest(PATH, data)) == data


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_bytes_give_a_bundle_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DATA)
    for at, value in changes:
        data[at] = value
    if bytes(data) == DATA:
        return
    with pytest.raises(BundleError) as caught:
        decode_manifest(PATH, bytes(data))
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=100))
def test_foreign_bytes_give_a_bundle_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode_manifest(PATH, data)


@given(st.sampled_from(sorted(json.loads(DATA))), json_values)
def test_any_value_in_any_field_gives_a_manifest_or_a_bundle_error(key: str, value: Any) -> None:
    try:
        decode_manifest(PATH, edited(key, value))
    except BundleError:
        return


def with_files(*names: str) -> bytes:
    row = {"n_bytes": 0, "sha256": SHA}
    return edited("files", json.loads(DATA)["files"] | dict.fromkeys(names, row))


@pytest.mark.parametrize(
    "data, field",
    [
        pytest.param(with_files("../evil"), "files.../evil", id="F32-parent"),
        pytest.param(with_files("code/../../evil"), "files.code/../../evil", id="F32-parent-inside"),
        pytest.param(with_files("/etc/passwd"), "files./etc/passwd", id="F32-absolute"),
        pytest.param(with_files("a\\b"), "files.a", id="F32-backslash"),
        pytest.param(with_files("a\0b"), "files.a", id="F32-nul"),
        pytest.param(with_files("a\nb"), "files.a", id="F32-newline"),
        pytest.param(with_files("\ud800"), "files.", id="F32-surrogate"),
        pytest.param(with_files("a//b"), "files.a//b", id="F32-empty-part"),
        pytest.param(with_files("a/"), "files.a/", id="F32-trailing-slash"),
        pytest.param(with_files("./a"), "files../a", id="F32-dot"),
        pytest.param(with_files(""), "files.", id="F32-empty"),
        pytest.param(with_files("a" * 256), "files.a", id="F32-long"),
        pytest.param(with_files("manifest.json"), "files.manifest.json", id="F32-manifest"),
        pytest.param(with_files("weights.bin/x"), "files.weights.bin", id="F32-file-and-folder"),
        pytest.param(with_files("../model.rfb_evil/x"), "files.../model.rfb_evil", id="F33-sibling-prefix"),
        pytest.param(with_files("Weights.bin"), "files.", id="F34-case"),
        pytest.param(with_files("Code/x"), "files.", id="F34-case-of-a-folder"),
        pytest.param(with_files("e\u0301"), "files.", id="F34-not-nfc"),
        pytest.param(with_files("straße", "STRASSE"), "files.", id="F34-case-folding"),
        pytest.param(edited("format_version", "2.0"), "format_version", id="F40-next-major"),
        pytest.param(edited("format_version", "0.9"), "format_version", id="F40-earlier-major"),
        pytest.param(edited("format_version", f"{FORMAT_MAJOR}.{FORMAT_MINOR + 1}"), "format_version", id="F40-minor"),
        pytest.param(edited("format_version", "1.0.0"), "format_version", id="F40-malformed"),
        pytest.param(edited("format_version", 1), "format_version", id="F40-type"),
        pytest.param(edited("format_version", ...), "format_version", id="F40-missing"),
        pytest.param(edited("bundle_digest", "sha256:12"), "bundle_digest", id="F43-short"),
        pytest.param(edited("bundle_digest", "md5:" + SHA), "bundle_digest", id="F43-algorithm"),
        pytest.param(
            DATA.replace(compute_digest(MANIFEST).encode(), b"sha256:" + SHA.encode()),
            "bundle_digest",
            id="F43-mismatch",
        ),
        pytest.param(edited("files|weights.bin|sha256", SHA.upper()), "weights.bin.sha256", id="F43-upper"),
        pytest.param(edited("files|weights.bin|sha256", SHA + "\n"), "weights.bin.sha256", id="F43-newline"),
        pytest.param(edited("files|weights.bin|n_bytes", -1), "weights.bin.n_bytes", id="negative-size"),
        pytest.param(edited("files|weights.bin|n_bytes", True), "weights.bin.n_bytes", id="bool-size"),
        pytest.param(edited("files|weights.bin", ...), "files.weights.bin", id="no-weights"),
        pytest.param(edited("model|context_length", 0), "model.context_length", id="context"),
        pytest.param(edited("model|metadata|x", [1]), "model.metadata.x", id="metadata"),
        pytest.param(edited("model|extra", 1), "model.extra", id="extra-field"),
        pytest.param(edited("targets|0|file", "other"), "targets[0].file", id="target-file"),
        pytest.param(edited("targets|0|layout", "other"), "targets[0].layout: expected a file", id="target-layout"),
        pytest.param(edited("targets", ["host"]), "targets[0]: expected an object, found str", id="target-type"),
        pytest.param(edited("targets|0|backend", []), "targets[0].backend", id="backend"),
        pytest.param(edited("targets|0|golden_tolerance", -1.0), "golden_tolerance", id="tolerance"),
        pytest.param(edited("targets|0|flags", [1]), "targets[0].flags[0]", id="flags"),
        pytest.param(edited("targets|0|abi", ...), "targets[0].abi", id="field-missing"),
        pytest.param(edited("memory|host|weights", "1"), "memory.host.weights", id="memory"),
        pytest.param(edited("kernels", [1]), "kernels[0]", id="kernels"),
        pytest.param(b"[" * 100_000, "json", id="nesting"),
        pytest.param(b"[]", "manifest", id="not-an-object"),
        pytest.param(DATA.replace(b":1.5", b":NaN"), "json", id="nan"),
        pytest.param(DATA.replace(b":1.5", b":1e999"), "json", id="infinity"),
        pytest.param(DATA.replace(b":1.5", b":" + b"9" * 5000), "json", id="long-number"),
        pytest.param(DATA[:-1] + b" \n", "json", id="not-canonical"),
        pytest.param(b'{"memory":{},' + DATA[1:], "json", id="key-twice"),
        pytest.param(b" " * ((16 << 20) + 1), "size", id="too-large"),
    ],
)
def test_bad_fields_are_named(data: bytes, field: str) -> None:
    with pytest.raises(BundleError) as caught:
        decode_manifest(PATH, data)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [511, 512, 513])
def test_names_of_files_have_at_most_512_characters(length: int) -> None:
    name = "/".join(["a" * 100] * 5)
    name += "/" + "b" * (length - len(name) - 1)
    assert len(name) == length
    if length <= 512:
        check_file_name(Checker("bundle"), name)
        return
    with pytest.raises(BundleError):
        check_file_name(Checker("bundle"), name)
