"""Parts of a bundle: opened as bundles of their own, and left out where their code is another machine's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout_file import encode_layout
from rocmforge.artifacts.manifest import PARTS_VERSION
from rocmforge.artifacts.manifest_entries import PartEntry, TargetEntry
from rocmforge.artifacts.pulled import Pulled, without_left_out
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.tests.support.bundle import LAYOUT, LAYOUT_DATA, MANIFEST, TARGET, WEIGHTS

GPU = replace(TARGET, arch="gfx1100", backend="hip", level="", file="code/gfx1100.hsaco")
OWN = replace(LAYOUT, max_batch_tokens=32, tensors=LAYOUT.tensors[:1], final_norm=None)


def of_part(target: TargetEntry) -> TargetEntry:
    return replace(target, file=f"vision/{target.file}", layout="vision/layout.msgpack")


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    goal = tmp_path / "model.rfb"
    part = PartEntry((of_part(TARGET), of_part(GPU)), {"host": {"weights": 1}}, ({"symbol": "x"},), {"kind": "gemma3"})
    with BundleWriter(goal) as writer:
        files = {"weights.bin": WEIGHTS, "layout.msgpack": LAYOUT_DATA, "vision/layout.msgpack": encode_layout(OWN)}
        code = {one.file: one.file.encode() for one in (TARGET, GPU, *part.targets)}
        for name, data in {**files, **code}.items():
            writer.add_bytes(name, data)
        manifest = replace(MANIFEST, targets=(TARGET, GPU), parts={"vision": part}, format_version=PARTS_VERSION)
        writer.finish(manifest)
    with open_bundle(goal) as opened:
        yield opened


def test_a_part_is_a_bundle_of_its_own(bundle: Bundle) -> None:
    part = bundle.part("vision")
    assert (part.layout, bundle.layout) == (OWN, LAYOUT)
    assert part.layouts == {"vision/layout.msgpack": OWN}
    assert [target.file for target in part.manifest.targets] == ["vision/code/host.so", "vision/code/gfx1100.hsaco"]
    assert part.read("vision/code/host.so") == b"vision/code/host.so"
    assert part.layout_of(part.manifest.targets[1]) == OWN
    assert bytes(part.map_weights()) == bytes(bundle.map_weights()) == WEIGHTS
    with pytest.raises(BundleError, match=r"parts\.mtp: expected a part of that name, found none"):
        bundle.part("mtp")


def test_code_of_another_machine_is_left_out_of_parts_too(bundle: Bundle) -> None:
    pulled = Pulled("", ("code/gfx1100.hsaco", "vision/code/gfx1100.hsaco"))
    kept = without_left_out("pulled.json", bundle.manifest, pulled)
    assert [target.arch for target in kept.all_targets] == ["host", "host"]
    assert not any("gfx1100" in name for name in kept.files)


def test_a_part_without_any_code_is_refused(bundle: Bundle) -> None:
    every = tuple(target.file for target in bundle.manifest.parts["vision"].targets)
    with pytest.raises(BundleError, match="expected at least one target's code of part vision, found none"):
        without_left_out("pulled.json", bundle.manifest, Pulled("", every))
