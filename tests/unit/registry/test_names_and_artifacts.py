"""Names in registries, and what a registry may say of a bundle: taken exactly, or refused by the field."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import BundleError, UsageError
from rocmforge.artifacts.pulled import Pulled, decode_pulled
from rocmforge.registry.artifact import (
    FILES_TYPE,
    WEIGHTS_TYPE,
    Artifact,
    Descriptor,
    check_config,
    choose_layers,
    decode_artifact,
    describe,
    make_blobs,
)
from rocmforge.registry.assemble import assemble
from rocmforge.registry.cache import Cache
from rocmforge.registry.reference import Reference, is_reference, parse_reference
from rocmforge.tests.support.bundle import write_bundle

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text, expected",
    [
        ("localhost/a", Reference("localhost", "a")),
        ("localhost:5000/a/b-c__d.e:v1.0", Reference("localhost:5000", "a/b-c__d.e", "v1.0")),
        (f"ghcr.io/team/model@{DIGEST}", Reference("ghcr.io", "team/model", "", DIGEST)),
        (f"oci://ghcr.io/team/model:x@{DIGEST}", Reference("ghcr.io", "team/model", "x", DIGEST)),
        ("[::1]:5000/a:b", Reference("[::1]:5000", "a", "b")),
    ],
)
def test_names(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert parse_reference(str(expected)) == expected
    assert parse_reference(str(Path(f"oci://{expected}"))) == expected  # as an argument that is a path has it
    assert is_reference(str(Path(f"oci://{expected}")))
    assert not is_reference(str(expected))


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "team/model", "ghcr.io", "ghcr.io/", "ghcr.io/A", "ghcr.io/a:", "ghcr.io/a@", "ghcr.io/a/../b"),
        *("ghcr.io/a@sha256:00", f"ghcr.io/a@{DIGEST.upper()}", f"ghcr.io/a@{DIGEST}0", "ghcr.io/a:-x", "ghcr.io//a"),
        *(
            "user@ghcr.io/a",
            "ghcr.io:port/a",
            "https://ghcr.io/a",
            f"ghcr.io/{'a' * 256}",
            "ghcr.io/a b",
            "ghcr.io/a\n",
        ),
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected .*HOST"):
        parse_reference(text)


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        reference = parse_reference(text)
        assert parse_reference(str(reference)) == reference


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with open_bundle(write_bundle(tmp_path_factory.mktemp("made") / "model.rfb")) as bundle:
        found: dict[str, Any] = json.loads(make_blobs(bundle)[1])
    return found


def decode(document: object) -> Artifact:
    return decode_artifact("r", json.dumps(document).encode())


def test_an_artifact_is_what_was_made(document: dict[str, Any]) -> None:
    artifact = decode(document)
    assert [layer.path for layer in artifact.layers] == ["weights.bin", ".", "src", "code/host.so"]
    assert [layer.arches for layer in artifact.layers] == [(), (), (), ("host",)]
    assert artifact.layers[0].media_type == WEIGHTS_TYPE
    assert choose_layers("r", artifact, None) == choose_layers("r", artifact, ["host"]) == list(artifact.layers)
    assert choose_layers("r", artifact, []) == list(artifact.layers[:3])
    for config in (b"{}", b"[]", b"{", b'{"modelfs":{"type":"layers","diffIds":[]}}'):
        with pytest.raises(BundleError, match=r"^r: config"):
            check_config("r", artifact, config)


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda d: d.pop("artifactType"), "manifest: expected a model, artifactType"),
        (lambda d: d.update(artifactType="application/vnd.docker.container"), "manifest: expected a model"),
        (lambda d: d.update(layers=[]), "manifest.layers: expected 1 to"),
        (lambda d: d.update(layers={}), "manifest.layers: expected an array"),
        (lambda d: d.update(layers=[3]), "manifest.layers[0]: expected an object"),
        (lambda d: d.pop("annotations"), "manifest.annotations: expected"),
        (lambda d: d["annotations"].clear(), "manifest.annotations: expected"),
        (lambda d: d.pop("config"), "manifest.config: expected an object"),
        (lambda d: d["layers"][1].update(digest="sha512:00"), "manifest.layers[1].digest: expected"),
        (lambda d: d["layers"][1].update(size=-1), "manifest.layers[1].size: expected"),
        (lambda d: d["layers"][1].update(size=True), "manifest.layers[1].size: expected an integer"),
        (lambda d: d["layers"][1].update(size=(1 << 30) + 1), "manifest.layers[1].size: expected 0 to 1073741824"),
        (lambda d: d["layers"][1].update(annotations=[1]), "manifest.layers[1].annotations: expected an object"),
        (lambda d: d["layers"][1]["annotations"].update({"org.cncf.model.filepath": 3}), "manifest.layers[1].annota"),
        (lambda d: d["layers"][1].pop("mediaType"), "manifest.layers[1].mediaType: expected"),
    ],
)
def test_bad_fields_are_named(document: dict[str, Any], change: Callable[[Any], object], field: str) -> None:
    changed = json.loads(json.dumps(document))
    change(changed)
    with pytest.raises(BundleError) as caught:
        decode(changed)
    assert str(caught.value).startswith(f"r: {field}")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@given(key=st.sampled_from(["layers", "config", "annotations", "artifactType"]), value=VALUES)
def test_any_value_is_an_artifact_or_refused(document: dict[str, Any], key: str, value: object) -> None:
    with contextlib.suppress(BundleError):
        decode({**document, key: value})


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode_artifact("r", data)
    with pytest.raises(BundleError):
        decode_pulled("pulled.json", data)


def test_what_a_copy_says_of_itself(tmp_path: Path) -> None:
    model = write_bundle(tmp_path / "model.rfb")
    for left_out, problem in (
        (("tokenizer.json",), "left_out: expected code of a target or weights, found tokenizer.json"),
        (("code/host.so",), "left_out: expected at least one target's code to be here"),
    ):
        (model / "pulled.json").write_bytes(Pulled("h.x/r", left_out).encode())
        with pytest.raises(BundleError, match=problem):
            open_bundle(model)
    (model / "pulled.json").write_bytes(Pulled("", ()).encode())
    open_bundle(model).close()


def archive(*members: tuple[str, bytes | None]) -> bytes:
    """A tar archive; a member without bytes is a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(data)
            made.addfile(member, io.BytesIO(data or b""))
    return out.getvalue()


def odd_archive(headers: dict[str, str]) -> bytes:
    """A tar archive of one file, with headers of PAX's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        member = tarfile.TarInfo("a")
        member.pax_headers = headers
        made.addfile(member)
    return out.getvalue()


def long_names(count: int) -> bytes:
    """So many headers that say each that the next one has a long name."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1
    return (member.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * count


@pytest.mark.parametrize(
    "path, data, problem",
    [
        (".", odd_archive({"GNU.sparse.map": "0 1"}), "files: expected a tar archive"),
        (".", odd_archive({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), "files: expected a tar archive"),
        (".", long_names(5000), "files: expected a tar archive"),
        (".", b"no archive at all", "files: expected a tar archive"),
        (".", archive(("../outside", b"x")), "files: expected files of a bundle, each once, found ../outside"),
        (".", archive(("/etc/x", b"x")), "files: expected files of a bundle, each once, found /etc/x"),
        (".", archive(("a", b"x"), ("a", b"y")), "files: expected files of a bundle, each once, found a"),
        (".", archive(("a", b"x"), ("a/b", b"y")), "cannot write"),
        (".", archive(("link", None)), "files: expected files of a bundle"),
        (".", archive(("pulled.json", b"{}")), "files: expected files of a bundle, each once, found pulled.json"),
        (".", archive(("manifest.json", b"{}")), "format_version: expected a string"),
        (".", archive(("tokenizer.json", b"{}")), "manifest.json: expected a file, found none"),
        ("../outside", b"x", "../outside: expected files of a bundle"),
        ("a//b", b"x", "a//b: expected files of a bundle"),
    ],
)
def test_layers_that_are_none(tmp_path: Path, path: str, data: bytes, problem: str) -> None:
    """Whoever pushes chooses names and bytes: nothing is written beside the bundle, and none appears."""
    layer = describe(FILES_TYPE if path == "." else WEIGHTS_TYPE, data, path)
    cache, goal = Cache(tmp_path / "cache"), tmp_path / "folder" / "copy.rfb"
    cache.download(layer.digest).parent.mkdir(parents=True)
    cache.download(layer.digest).write_bytes(data)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of several kinds, each one line
        assemble("r", Artifact(layer, (layer,), DIGEST), [layer], cache, goal)
    assert problem in str(caught.value)
    assert list(goal.parent.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "folder"]


def test_a_bundle_is_the_one_that_was_named(tmp_path: Path) -> None:
    """Layers of one bundle under the name of another, and weights that are not its own."""
    cache, goal = Cache(tmp_path / "cache"), tmp_path / "copy.rfb"
    cache.download(DIGEST).parent.mkdir(parents=True)
    with open_bundle(write_bundle(tmp_path / "model.rfb")) as bundle:
        blobs, data = make_blobs(bundle)
        artifact = decode_artifact("r", data)
        for blob in blobs:
            source = blob.data if blob.data is not None else (bundle.path / blob.descriptor.path).read_bytes()
            cache.download(blob.descriptor.digest).write_bytes(source)
    other = Artifact(artifact.config, artifact.layers, DIGEST)
    with pytest.raises(BundleError, match=f"r: bundle_digest: expected {DIGEST}, as the registry says, found sha256:"):
        assemble("r", other, artifact.layers, cache, goal)
    layers = tuple(
        describe(WEIGHTS_TYPE, b"other", layer.path) if layer.path == "weights.bin" else layer
        for layer in artifact.layers
    )
    for layer in layers:
        if not cache.download(layer.digest).exists():
            source = b"other" if layer.path == "weights.bin" else (tmp_path / "model.rfb" / layer.path).read_bytes()
            cache.download(layer.digest).write_bytes(source)
    with pytest.raises(BundleError, match=r"r: weights\.bin: expected one layer, sha256:"):
        assemble("r", Artifact(artifact.config, layers, artifact.bundle_digest), layers, cache, goal)
    assert not goal.exists()


def test_the_cache_keeps_what_is_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 5000)
    references = [Reference("h.x", f"team/m{i}", "", f"sha256:{i}" + "0" * 63) for i in range(4)]
    paths = [cache.bundle(reference, ("host",)) for reference in references]
    held: list[int] = []
    for i, path in enumerate(paths):
        fd = cache.hold(path)
        path.mkdir()
        (path / "manifest.json").write_bytes(b"x" * 2000)
        os.utime(path.parent / "in_use", (i, i))
        (held.append if i == 1 else os.close)(fd)
    cache.download(DIGEST).parent.mkdir()
    cache.download(DIGEST).write_bytes(b"x" * 500)
    os.utime(cache.download(DIGEST), (0.5, 0.5))
    removed = cache.trim()
    assert removed == [paths[0].parent, cache.download(DIGEST), paths[2].parent]
    assert [path.exists() for path in paths] == [False, True, False, True]
    assert cache.trim() == []
    os.close(held[0])
    assert Cache(tmp_path, 0).trim(paths[3]) == [paths[1].parent]
    assert Cache(tmp_path, 0).trim() == [paths[3].parent]


def test_descriptors() -> None:
    layer = Descriptor("t", DIGEST, 3, "code/x", ("gfx942",))
    notes = {"org.cncf.model.filepath": "code/x", "org.rocmforge.arch": "gfx942"}
    assert layer.table() == {"mediaType": "t", "digest": DIGEST, "size": 3, "annotations": notes}
    both = Descriptor("t", DIGEST, 3, "weights-hip.bin", ("gfx942", "gfx1100")).table()["annotations"]
    assert both == {"org.cncf.model.filepath": "weights-hip.bin", "org.rocmforge.arch": "gfx942,gfx1100"}
    assert Descriptor("t", DIGEST, 3).table() == {"mediaType": "t", "digest": DIGEST, "size": 3}
