"""manifest.json's parts, and the format version that each thing asks for."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.manifest import decode_manifest, encode_manifest, oldest_version
from rocmforge.artifacts.manifest_entries import FileEntry, PartEntry, TargetEntry
from rocmforge.tests.support.bundle import MANIFEST, SHA, TARGET

PATH = Path("model.rfb/manifest.json")
DATA = encode_manifest(MANIFEST)
PART = PartEntry(
    (dataclasses.replace(TARGET, file="vision/code/host.so", layout="vision/layout.msgpack"),),
    {"host": {"weights": 12}},
    ({"symbol": "norm"},),
    {"kind": "gemma3", "mean": [0.5]},
)
PROVED = dataclasses.replace(PART, golden=({"picture": [2, 4]},))
WITH_PART = dataclasses.replace(
    MANIFEST,
    files={**MANIFEST.files, **{name: FileEntry(0, SHA) for name in ("vision/code/host.so", "vision/layout.msgpack")}},
    parts={"vision": PART},
    format_version="1.6",
)
HEAD = dataclasses.replace(
    PART, targets=(dataclasses.replace(TARGET, file="eagle3/code/host.so", layout="eagle3/layout.msgpack"),)
)
PROVED_HEAD = dataclasses.replace(HEAD, golden=PROVED.golden)
WITH_HEAD = {**MANIFEST.files, **{name: FileEntry(0, SHA) for name in ("eagle3/code/host.so", "eagle3/layout.msgpack")}}
WITH_GPU_WEIGHTS = {**MANIFEST.files, "weights-hip.bin": FileEntry(0, SHA)}


def test_a_manifest_has_the_oldest_version_that_holds_it() -> None:
    for files, parts, version in (
        (MANIFEST.files, {}, "1.5"),
        (WITH_PART.files, WITH_PART.parts, "1.6"),
        (WITH_GPU_WEIGHTS, {}, "1.7"),
        ({**WITH_PART.files, **WITH_GPU_WEIGHTS}, WITH_PART.parts, "1.7"),
        (WITH_PART.files, {"vision": PROVED}, "1.8"),
        ({**WITH_PART.files, **WITH_GPU_WEIGHTS}, {"vision": PROVED}, "1.8"),
        (WITH_HEAD, {"eagle3": PROVED_HEAD}, "1.9"),
        (WITH_HEAD, {"eagle3": HEAD}, "1.9"),
    ):
        assert oldest_version(files, parts) == version
        manifest = dataclasses.replace(MANIFEST, files=files, parts=parts, format_version=version)
        found = decode_manifest(PATH, encode_manifest(manifest))
        assert (found.files, found.parts) == (files, parts)
        weights = "weights-hip.bin" if "weights-hip.bin" in files else "weights.bin"
        assert (found.weights_of("hip"), found.weights_of("host")) == (weights, "weights.bin")


@pytest.mark.parametrize(("parts", "version"), [({"eagle3": PROVED_HEAD}, "1.8"), ({"vision": PROVED}, "1.9")])
def test_an_eagle_head_is_in_bundles_of_its_format(parts: dict[str, PartEntry], version: str) -> None:
    files = {**WITH_PART.files, **WITH_HEAD}
    other = dataclasses.replace(WITH_PART, files=files, parts=parts, format_version=version)
    with pytest.raises(BundleError, match=r"parts\.eagle3: expected it from format 1\.9 on, and always there"):
        decode_manifest(PATH, encode_manifest(other))


def with_part(**fields: Any) -> bytes:
    part = dataclasses.replace(PART, **fields)
    return encode_manifest(dataclasses.replace(WITH_PART, parts={"vision": part}))


def with_target(**fields: Any) -> bytes:
    target: TargetEntry = dataclasses.replace(PART.targets[0], **fields)
    return with_part(targets=(target,))


def test_a_manifest_without_parts_says_nothing_of_them() -> None:
    assert b"parts" not in DATA
    assert json.loads(DATA)["format_version"] == "1.5"


def test_a_part_without_golden_records_says_nothing_of_them() -> None:
    """As those of before format 1.8 did."""
    assert set(json.loads(encode_manifest(WITH_PART))["parts"]["vision"]) == {"targets", "memory", "kernels", "facts"}
    proved = dataclasses.replace(WITH_PART, parts={"vision": PROVED}, format_version="1.8")
    assert json.loads(encode_manifest(proved))["parts"]["vision"]["golden"] == [{"picture": [2, 4]}]


def test_parts_are_read_as_they_were_written() -> None:
    manifest = decode_manifest(PATH, encode_manifest(WITH_PART))
    assert manifest.parts == {"vision": PART}
    assert manifest.all_targets == (TARGET, *PART.targets)
    part = manifest.of_part("vision")
    assert (part.targets, part.memory, part.kernels) == (PART.targets, PART.memory, PART.kernels)
    assert (part.golden, part.parts) == ((), {})


@pytest.mark.parametrize(
    "data, problem",
    [
        (encode_manifest(dataclasses.replace(WITH_PART, format_version="1.5")), "parts: expected them from format 1.6"),
        (encode_manifest(dataclasses.replace(MANIFEST, format_version="1.6")), "parts: expected them from format 1.6"),
        (
            encode_manifest(dataclasses.replace(MANIFEST, format_version="1.7")),
            "files.weights-hip.bin: expected it from",
        ),
        (
            encode_manifest(dataclasses.replace(MANIFEST, files=WITH_GPU_WEIGHTS)),
            "files.weights-hip.bin: expected it from",
        ),
        *(
            (
                encode_manifest(dataclasses.replace(WITH_PART, parts={"vision": part}, format_version=version)),
                "parts: expected golden records of parts from format 1.8 on, and there of one at least",
            )
            for part, version in ((PROVED, "1.6"), (PART, "1.8"))
        ),
        (
            with_part(golden=({"picture": [2, 4]},)).replace(b'"golden":[{"picture":[2,4]}]', b'"golden":[]'),
            "parts.vision.golden: expected at least one record, or no such field, found an empty list",
        ),
        (
            encode_manifest(dataclasses.replace(WITH_PART, parts={"Vision": PART})),
            "parts.Vision: expected a name of small letters and digits",
        ),
        (
            encode_manifest(dataclasses.replace(WITH_PART, parts={"mtp": PART})),
            "files.mtp/layout.msgpack: expected the layout of part mtp, found none",
        ),
        (
            encode_manifest(dataclasses.replace(WITH_PART, parts={f"p{i}": PART for i in range(17)})),
            "parts: expected 1 to 16, found 17",
        ),
        (with_part(targets=()), "parts.vision.targets: expected 1 to 256 elements, found 0"),
        (with_part(facts=[]), "parts.vision.facts: expected an object, found list"),
        (with_part(kernels=(1,)), "parts.vision.kernels[0]: expected an object, found int"),
        (with_part(memory={"host": {"weights": -1}}), "parts.vision.memory.host.weights: expected 0 to"),
        (
            with_target(file="code/host.so"),
            "parts.vision.targets[0].file: expected a file of the folder vision, found 'code/host.so'",
        ),
        (
            with_target(layout="layout.msgpack"),
            "parts.vision.targets[0].layout: expected a file of the folder vision, found 'layout.msgpack'",
        ),
        (with_target(file="vision/none"), "parts.vision.targets[0].file: expected a file of the bundle"),
    ],
)
def test_bad_parts_are_named(data: bytes, problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        decode_manifest(PATH, data)
    assert problem in str(caught.value)
