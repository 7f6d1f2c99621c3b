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

from rocmforge.artifacts.checker import Checker
from rocmforge.artifacts.errors import BundleError, printable
from rocmforge.artifacts.manifest import (
    FORMAT_MAJOR,
    FORMAT_MINOR,
    check_file_name,
    compute_digest,
    decode_manifest,
    encode_manifest,
    listed_files,
)
from rocmforge.artifacts.manifest_entries import FileEntry
from rocmforge.tests.support.bundle import MANIFEST, SHA, TARGET

PATH = Path("model.rfb/manifest.json")
DATA = encode_manifest(MANIFEST)
READS = f"{FORMAT_MAJOR}.0 to {FORMAT_MAJOR}.{FORMAT_MINOR}"
OTHER_DIGEST = "bundle_digest: expected the digest of the manifest itself, found another"


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


@pytest.mark.slow
@given(tables, tables, contracts, st.text(max_size=30))
def test_any_manifest_round_trips(
    options: dict[str, object], row: dict[str, object], memory: dict[str, dict[str, int]], name: str
) -> None:
    model = dataclasses.replace(MANIFEST.model, name=name)
    manifest = dataclasses.replace(MANIFEST, options=options, kernels=(row,), memory=memory, model=model)
    data = encode_manifest(manifest)
    assert encode_manifest(decode_manifest(PATH, data)) == data


@pytest.mark.slow
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
    assert str(caught.value).startswith(f"{PATH}: {printable(caught.value.field)}: expected ")


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


@pytest.mark.parametrize(
    "path, value, problem",
    [
        *(
            ("format_version", other, f"format_version: expected {READS} (what this rocmforge reads), found {other}")
            for other in ("9.0", f"{FORMAT_MAJOR}.{FORMAT_MINOR + 1}")
        ),
        ("format_version", "01.0", "format_version: expected MAJOR.MINOR, found '01.0'"),
        ("format_version", "1" * 17, "format_version: expected 1 to 16 characters, found 17"),
        ("bundle_digest", "sha256:g", "bundle_digest: expected sha256: and 64 hex digits, found 'sha256:g'"),
        ("bundle_digest", "s" * 129, "bundle_digest: expected 1 to 128 characters, found 129"),
        ("files|weights.bin|sha256", "a" * 65, f"files.weights.bin.sha256: expected 64 hex digits, found '{'a' * 65}'"),
        ("files|weights.bin|sha256", "a" * 129, "files.weights.bin.sha256: expected 1 to 128 characters, found 129"),
        ("files|weights.bin|n_bytes", -1, f"files.weights.bin.n_bytes: expected 0 to {2**63 - 1}, found -1"),
        ("files|weights.bin|more", 1, "files.weights.bin.more: expected no such field, found one"),
        ("files|weights.bin", ..., "files.weights.bin: expected a value, found none"),
        ("files|weights.bin", 3, "files.weights.bin: expected an object, found int"),
        ("files|layout.msgpack", ..., "files.layout.msgpack: expected a value, found none"),
        ("files", [], "files: expected an object, found list"),
        ("model|source_sha256", "A" * 64, f"model.source_sha256: expected 64 hex digits, found '{'A' * 64}'"),
        ("model|architecture", "", "model.architecture: expected 1 to 512 characters, found 0"),
        ("model|name", "n" * 65537, "model.name: expected 0 to 65536 characters, found 65537"),
        ("model|quantization", "n" * 513, "model.quantization: expected 0 to 512 characters, found 513"),
        ("model|parameters", -1, f"model.parameters: expected 0 to {2**63 - 1}, found -1"),
        ("model|context_length", 0, f"model.context_length: expected 1 to {2**63 - 1}, found 0"),
        ("model|metadata", [], "model.metadata: expected an object, found list"),
        ("model|metadata|x", None, "model.metadata.x: expected a scalar, found NoneType"),
        ("model|name", ..., "model.name: expected a value, found none"),
        ("model", 3, "model: expected an object, found int"),
        ("generator", "", "generator: expected 1 to 512 characters, found 0"),
        ("options", [], "options: expected an object, found list"),
        ("tokenizer", None, "tokenizer: expected an object, found NoneType"),
        ("memory", [], "memory: expected an object, found list"),
        ("memory|host", [], "memory.host: expected an object, found list"),
        ("memory|host|weights", -1, f"memory.host.weights: expected 0 to {2**63 - 1}, found -1"),
        ("kernels", {}, "kernels: expected an array, found dict"),
        ("kernels", [{}, 1], "kernels[1]: expected an object, found int"),
        ("golden", [[]], "golden[0]: expected an object, found list"),
        ("targets", [], None),
        ("targets", [dataclasses.asdict(TARGET)] * 256, None),
        ("targets", [dataclasses.asdict(TARGET)] * 257, "targets: expected 0 to 256 elements, found 257"),
        ("targets|0|backend", "cuda", "targets[0].backend: expected one of hip, host"),
        ("targets|0|file", "x", "targets[0].file: expected a file of the bundle, found 'x'"),
        ("targets|0|layout", "x", "targets[0].layout: expected a file of the bundle, found 'x'"),
        ("targets|0|file", 3, "targets[0].file: expected a string, found int"),
        ("targets|0|more", 3, "targets[0].more: expected no such field, found one"),
        *(
            (f"targets|0|{name}", "", f"targets[0].{name}: expected 1 to 512 characters, found 0")
            for name in ("arch", "toolchain", "toolchain_version", "determinism")
        ),
        ("targets|0|level", "", None),
        ("targets|0|entry", "", None),
        ("targets|0|level", 1, "targets[0].level: expected a string, found int"),
        ("targets|0|abi", 0, None),
        ("targets|0|abi", 2**31, None),
        ("targets|0|abi", -1, f"targets[0].abi: expected 0 to {2**31}, found -1"),
        ("targets|0|abi", 2**31 + 1, f"targets[0].abi: expected 0 to {2**31}, found {2**31 + 1}"),
        ("targets|0|flags", [], None),
        ("targets|0|flags", ["-O3"] * 1024, None),
        ("targets|0|flags", ["-O3"] * 1025, "targets[0].flags: expected 0 to 1024 elements, found 1025"),
        ("targets|0|flags", ["-O3", ""], "targets[0].flags[1]: expected 1 to 65536 characters, found 0"),
        ("targets|0|flags", ["f" * 65536], None),
        *(
            ("targets|0|golden_tolerance", value, "targets[0].golden_tolerance: expected a finite number, 0.0 or more")
            for value in (0, -0.5, None, "0.0")
        ),
        ("targets|0|golden_tolerance", 0.5, None),
        ("model|context_length", 1, None),
        ("model|parameters", 0, None),
        ("model|quantization", "", None),
        ("model|name", "n" * 65536, None),
        ("format_version", "1.0", None),
        ("format_version", "1.1", None),
        ("kernels", [{}] * 65536, None),
        ("kernels", [{}] * 65537, "kernels: expected 0 to 65536 elements, found 65537"),
    ],
)  # fmt: skip
def test_what_is_taken_and_what_is_said_of_the_rest(path: str, value: Any, problem: str | None) -> None:
    data = edited(path, value)
    if problem is None:
        assert encode_manifest(decode_manifest(PATH, data)) == data
        return
    with pytest.raises(BundleError) as caught:
        decode_manifest(PATH, data)
    assert str(caught.value) == f"{PATH}: {problem}"


@pytest.mark.parametrize(
    "name, problem",
    [
        ("", "1 to 512 characters, found 0"),
        ("/".join("abc" for _ in range(129)), "1 to 512 characters, found 515"),
        ("/a", "a relative path, found an absolute one"),
        ("a\\b", "printable characters and no backslash"),
        ("a\tb", "printable characters and no backslash"),
        ("e\u0301", "Unicode form NFC"),
        ("a//b", "no empty, '.', '..' or overlong part"),
        ("a/.", "no empty, '.', '..' or overlong part"),
        ("..", "no empty, '.', '..' or overlong part"),
        ("é" * 128, "no empty, '.', '..' or overlong part"),
        ("Manifest.JSON", "every file but the manifest"),
    ],
)
def test_names_that_are_not_the_same_everywhere(name: str, problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        check_file_name(Checker("bundle"), name)
    assert str(caught.value) == f"bundle: {printable(f'files.{name}')}: expected {problem}"


@pytest.mark.parametrize("name", ["a", "a/b c", "é" * 127 + "a", "a/manifest.json", "..a/.b", "a" * 255])
def test_names_that_are_taken(name: str) -> None:
    assert check_file_name(Checker("bundle"), name) == name


def test_what_is_said_of_names_that_clash() -> None:
    for names, problem in (
        (("Weights.bin",), "files.weights.bin: expected to differ from 'Weights.bin' by more than case"),
        (("CODE/x",), "files.code/host.so: expected to differ from 'CODE' by more than case"),
        (("weights.bin/x",), "files.weights.bin: expected a file, found the folder of another"),
    ):
        with pytest.raises(BundleError) as caught:
            decode_manifest(PATH, with_files(*names))
        assert str(caught.value) == f"{PATH}: {problem}"
    assert "code/x/y" in decode_manifest(PATH, with_files("code/x/y", "code/x/z")).files


def test_a_bundle_has_4096_files_at_most() -> None:
    more = [f"src/{i}" for i in range(4096 - len(MANIFEST.files))]
    assert len(decode_manifest(PATH, with_files(*more)).files) == 4096
    with pytest.raises(BundleError) as caught:
        decode_manifest(PATH, with_files(*more, "src/last"))
    assert str(caught.value) == f"{PATH}: files: expected at most 4096, found 4097"


def test_a_manifest_of_16_mib_is_looked_at() -> None:
    for size, field in ((16 << 20, "json"), ((16 << 20) + 1, "size")):
        with pytest.raises(BundleError) as caught:
            decode_manifest(PATH, b" " * size)
        assert caught.value.field == field
    assert str(caught.value).endswith(f"expected at most {16 << 20} bytes, found {(16 << 20) + 1}")


def test_names_of_files_that_a_manifest_of_any_version_lists() -> None:
    assert listed_files(PATH, DATA) == set(MANIFEST.files)
    assert listed_files(PATH, edited("format_version", "7.3")) == set(MANIFEST.files)


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"[]\n", "manifest: expected an object, found list"),
        (edited("format_version", "7"), "format_version: expected MAJOR.MINOR, found '7'"),
        (edited("format_version", ...), "format_version: expected a string, found NoneType"),
        (edited("files", []), "files: expected an object, found list"),
        (edited("files", ...), "files: expected an object, found NoneType"),
        (edited("bundle_digest", "sha256:" + SHA), OTHER_DIGEST),
        (edited("bundle_digest", ...), OTHER_DIGEST),
        (DATA + b" ", OTHER_DIGEST),
        (
            DATA.replace(b":1.5", b":1e999"),
            "json: expected finite numbers, found otherwise (Out of range float values are not JSON compliant: inf)",
        ),
    ],
)  # fmt: skip
def test_what_is_no_manifest_of_any_version(data: bytes, problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        listed_files(PATH, data)
    assert str(caught.value).startswith(f"{PATH}: {problem.removesuffix(': inf)')}")


def test_numbers_that_json_does_not_have() -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(BundleError) as caught:
            decode_manifest(PATH, DATA.replace(b":1.5", f":{number}".encode()))
        assert str(caught.value) == f"{PATH}: json: expected canonical JSON, found otherwise ({number} is not a number)"
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_manifest(dataclasses.replace(MANIFEST, options={"a": float("nan")}))
