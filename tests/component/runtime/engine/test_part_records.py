"""Golden records of parts: made at compile time, replayed by `rfc verify` on each back end, compared by `rfc diff`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle, verify_bundle
from rocmforge.artifacts.errors import BundleError, RocmforgeError
from rocmforge.artifacts.manifest import Manifest, encode_manifest
from rocmforge.artifacts.manifest_entries import FileEntry, PartEntry
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import Silent
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.engine.part_records import given_rows, probe_in
from rocmforge.runtime.equivalence import Certificate, certify
from rocmforge.runtime.verify import verify
from rocmforge.tests.support.programs import building_levels
from rocmforge.tests.support.vision import FACTS
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.draft_models import write_drafting
from rocmforge.tools.generate.vision_models import SHAPES, write_mmproj
from rocmforge.tools.generate.vision_oracle.pictures import compile_seeing, write_text_model

HOST = DeviceOptions("host", 1)
GPU = DeviceOptions("emulated:gfx1100", 1, lambda arch: HipEmulator(arch, check=False, count=False))
EYES = "qwen2.5vl_merger"
PARTS = ("mtp", "vision")


@pytest.fixture(scope="module")
def bundles(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One whose model has a block that drafts, and one with eyes; for the host and gfx1100."""
    folder, archs = tmp_path_factory.mktemp("parts"), ("host", "gfx1100")
    drafting = write_drafting(folder / "drafting.gguf", "qwen35")
    found = {part: folder / f"{part}.rfb" for part in PARTS}
    with building_levels(("portable",)):
        compile_model(
            CompileOptions(drafting, found["mtp"], archs, toolchain="zig"), build_cache, Silent(), make_golden
        )
        text = write_text_model(folder / "text.gguf", SHAPES[EYES].width)
        compile_seeing(text, write_mmproj(folder / "eyes.gguf", EYES), found["vision"], archs, build_cache)
    return found


def told(bundle: Path, options: DeviceOptions) -> list[str]:
    lines: list[str] = []
    verify(bundle, options, lines.append)
    return lines[1:]


@pytest.mark.parametrize("part", PARTS)
def test_the_code_of_parts_is_run(bundles: dict[str, Path], part: str) -> None:
    """On the host to the bit, for it made them; on a GPU within what the records say."""
    with open_bundle(bundles[part]) as bundle:
        entry = bundle.manifest.parts[part]
    count = len(entry.golden)
    assert told(bundles[part], HOST) == [
        "host portable: 2 golden records replayed, equal to the bit",
        f"{part} host portable: {count} golden records replayed, equal to the bit",
    ]
    within = f"{part} gfx1100: {count} golden records replayed, equal within {entry.targets[1].golden_tolerance}"
    assert told(bundles[part], GPU)[1:] == [within]
    assert not any("noise" in record or "spread" in record for record in entry.golden)


def test_what_records_of_parts_hold(bundles: dict[str, Path]) -> None:
    with open_bundle(bundles["mtp"]) as bundle:
        prompts = [record["prompt"] for record in bundle.manifest.golden]
        records: Any = bundle.manifest.parts["mtp"].golden
        assert {target.golden_tolerance for target in bundle.manifest.parts["mtp"].targets} == {1.0}
    assert [record["prompt"] for record in records] == prompts
    for record in records:
        tops = [[row["row"], row["top"][0][0]] for row in record["rows"]]
        assert tops == [[row, token] for row, token in enumerate(record["greedy"])]
        assert len(tops) == 4
    with open_bundle(bundles["vision"]) as bundle:
        found: Any = bundle.manifest.parts["vision"].golden
        (record,) = found
        (tolerance,) = {target.golden_tolerance for target in bundle.manifest.parts["vision"].targets}
    # Of more than one window: patches of a window, and those of one row more, or two.
    side = SHAPES[EYES].merge
    window = json.loads(json.dumps(bundle.manifest.parts["vision"].facts))["window"]
    assert record["picture"] == [window + side, window + 2 * side]
    numbers = np.array([number for row in record["rows"] for _, number in row["top"]])
    assert 0 < tolerance < 0.05 * numbers.max()  # no top of a row is as near to those of another


def changed(bundle: Path, goal: Path, change: Callable[[Manifest, bytearray], Manifest]) -> Path:
    """A copy of other weights or another manifest, whose digests are right."""
    shutil.copytree(bundle, goal)
    with open_bundle(goal) as opened:
        weights = bytearray((goal / "weights.bin").read_bytes())
        manifest = change(opened.manifest, weights)
    (goal / "weights.bin").write_bytes(weights)
    entry = FileEntry(len(weights), hashlib.sha256(weights).hexdigest())
    manifest = dataclasses.replace(manifest, files={**manifest.files, "weights.bin": entry})
    (goal / "manifest.json").write_bytes(encode_manifest(manifest))
    return goal


def with_part(manifest: Manifest, part: str, **fields: Any) -> Manifest:
    entry: PartEntry = dataclasses.replace(manifest.parts[part], **fields)
    return dataclasses.replace(manifest, parts={part: entry})


@pytest.fixture(scope="module")
def spoiled(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """With a norm of the part that is the other way round: nothing of the model's own."""
    folder, found = tmp_path_factory.mktemp("spoiled"), {}
    for part, path in bundles.items():
        with open_bundle(path) as bundle:
            layout = bundle.part(part).layouts[f"{part}/layout.msgpack"]
        tensor = next(
            one
            for one in layout.tensors
            if one.name.startswith("layers.") and "norm" in one.name and one.packing == "f32"
        )

        def change(
            manifest: Manifest, weights: bytearray, first: int = tensor.offset, n: int = tensor.n_bytes
        ) -> Manifest:
            norm = np.frombuffer(weights, np.float32, n // 4, first)
            norm[:] = norm[::-1] * np.float32(-1)
            return manifest

        found[part] = changed(path, folder / f"{part}.rfb", change)
    return found


@pytest.mark.parametrize("part", PARTS)
def test_spoiled_weights_of_a_part_are_seen(spoiled: dict[str, Path], part: str) -> None:
    with pytest.raises(RocmforgeError) as caught:
        told(spoiled[part], HOST)
    assert str(caught.value).startswith(f"{part} host portable: golden record 0: row 0: number ")


@pytest.mark.parametrize("part", PARTS)
def test_a_bundle_of_before_is_verified_without(bundles: dict[str, Path], tmp_path: Path, part: str) -> None:
    def change(manifest: Manifest, _weights: bytearray) -> Manifest:
        return dataclasses.replace(with_part(manifest, part, golden=()), format_version="1.7")

    lines = told(changed(bundles[part], tmp_path / "old.rfb", change), HOST)
    assert lines[1:] == [f"{part}: not run: it has no golden records, as bundles of before format 1.8"]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("mtp", {"greedy": []}, "golden.greedy: expected 1 to 4 token ids"),
    ("mtp", {"greedy": [0, 1 << 20]}, "golden.greedy: expected token ids from 0 to 95"),
    ("mtp", {"prompt": [True]}, "golden.prompt: expected token ids from 0 to 95"),
    ("mtp", {"rows": []}, "golden: expected records as rocmforge writes them"),
    ("mtp", {"rows": [{"row": 1, "top": []}] * 4}, "golden: expected records as rocmforge writes them"),
    ("mtp", {"rows": [{"row": row, "top": []} for row in range(4)]}, "golden: expected records as rocmforge writes"),
    ("mtp", {"rows": [{"row": row, "top": [[0, 10**400]]} for row in range(4)]}, "golden: expected records as rocm"),
    ("vision", {"picture": [2]}, "golden.picture: expected height and width of a picture of at most"),
    ("vision", {"picture": [3, 4]}, "golden.picture: expected height and width of a picture of at most"),
    ("vision", {"picture": [4, 1 << 20]}, "golden.picture: expected height and width of a picture of at most"),
]


@pytest.mark.parametrize("part, fields, problem", BAD)
def test_records_that_are_none(
    bundles: dict[str, Path], tmp_path: Path, part: str, fields: dict[str, Any], problem: str
) -> None:
    def change(manifest: Manifest, _weights: bytearray) -> Manifest:
        first, *rest = manifest.parts[part].golden
        return with_part(manifest, part, golden=({**first, **fields}, *rest))

    with pytest.raises(BundleError) as caught:
        told(changed(bundles[part], tmp_path / "bad.rfb", change), HOST)
    assert problem in str(caught.value)


def compared(first: Path, second: Path) -> Certificate:
    with verify_bundle(first) as one, verify_bundle(second) as other:
        return certify(one, other, HOST, None)


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_two_bundles_are_compared(bundles: dict[str, Path], spoiled: dict[str, Path], part: str) -> None:
    same = compared(bundles[part], bundles[part])
    assert same.equivalent
    own = [text for text in same.texts if text.text.startswith(part)]
    with open_bundle(bundles[part]) as bundle:
        assert [text.sha256 for text in own] == [r["rows_sha256"] for r in bundle.manifest.parts[part].golden]
    other = compared(bundles[part], spoiled[part])
    assert not other.equivalent
    assert [text.text for text in other.texts if text.parting is not None] == [text.text for text in own]
    parting = other.texts[-1].parting
    assert parting is not None
    assert (parting.position, parting.token) == (0, -1)


def test_a_bundle_without_code_for_the_host_has_records_of_parts_too(
    bundles: dict[str, Path], build_cache: BuildCache, tmp_path: Path
) -> None:
    """The same ones."""
    path = write_drafting(tmp_path / "model.gguf", "qwen35")
    manifest = compile_model(
        CompileOptions(path, tmp_path / "gpu.rfb", ("gfx1100",), toolchain="zig"), build_cache, Silent(), make_golden
    )
    with open_bundle(bundles["mtp"]) as bundle:
        assert manifest.parts["mtp"].golden == bundle.manifest.parts["mtp"].golden
        assert manifest.golden == bundle.manifest.golden


class WithoutRecords(BuildCache):
    """Which keeps objects alone."""

    def get(self, kind: str, key: str) -> bytes | None:
        return None if kind == "golden" else super().get(kind, key)

    def put(self, kind: str, key: str, data: bytes) -> None:
        if kind != "golden":
            super().put(kind, key, data)


def test_a_part_whose_rows_are_not_finite_is_refused(build_cache: BuildCache, tmp_path: Path) -> None:
    path = write_drafting(tmp_path / "model.gguf", "qwen35")

    def spoil(*arguments: Any) -> list[dict[str, object]]:
        records: Any = make_golden(*arguments)
        if arguments[-1] is not None:  # a part
            records[1]["rows"][2]["top"][0][1] = float("nan")
        return list(records)

    options = CompileOptions(path, tmp_path / "model.rfb", ("host",), toolchain="zig")
    with building_levels(("portable",)), pytest.raises(RocmforgeError) as caught:
        compile_model(options, WithoutRecords(build_cache.root), Silent(), spoil)
    assert str(caught.value) == f"{path}: weights: expected finite numbers of the part mtp, found nan"
    assert not (tmp_path / "model.rfb").exists()


def test_given_rows_look_random_and_are_the_same_everywhere() -> None:
    rows = given_rows(64, 1000)
    for index in (0, 1, 63999):
        number = index + 1
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            number = (number ^ number >> shift) * factor & 0xFFFFFFFF
        assert rows.flat[index] == np.float32((number >> 8) / 2**23 - 1) * np.float32(3**0.5)
    assert abs(rows.mean()) < 4 / rows.size**0.5
    assert abs(rows.var() - 1) < 4 * (4 / 5 / rows.size) ** 0.5  # of an even distribution: its fourth moment is 9 / 5
    assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 4 / rows.size**0.5
    assert len(np.unique(rows)) > 0.99 * rows.size


@pytest.mark.parametrize(
    "sizes, expected", [((1024, 8), [10, 12]), ((1024, 0), [4, 6]), ((8, 8), [2, 4]), ((4, 0), [2, 2])]
)
def test_the_picture_fits_the_code(bundles: dict[str, Path], sizes: tuple[int, int], expected: list[int]) -> None:
    with open_bundle(bundles["vision"]) as bundle:
        probe = probe_in(bundle, "vision")
    vision = dataclasses.replace(FACTS, max_patches=sizes[0], window=sizes[1])
    assert dataclasses.replace(probe, vision=vision).given([]) == [{"picture": expected}]  # type: ignore[type-var]
