"""Encoders of images as a part of a bundle: what their graphs mean, and their code, against llama.cpp's rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import DeviceError, UsageError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.rebuild import BuildFiles, recorded_options
from rocmforge.compiler.vision.kinds import KINDS
from rocmforge.compiler.vision.model import VisionModel, read_vision_model
from rocmforge.runtime.bundle_diff import diff_bundles
from rocmforge.runtime.inspect import inspect_bundle
from rocmforge.runtime.pictures.encode import vision_of
from rocmforge.runtime.pictures.patches import Patches
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.generate.vision_models import SHAPES, write_mmproj
from rocmforge.tools.generate.vision_oracle.__main__ import exchanged, meaning
from rocmforge.tools.generate.vision_oracle.pictures import (
    compile_seeing,
    error,
    patches_of,
    pixels_of,
    rows_of_bundle,
    write_text_model,
)

with np.load(Path(__file__).parents[2] / "data/vision_rows.npz") as _rows:
    ROWS = {kind: _rows[kind] for kind in _rows.files}
"""Of llama.cpp: `python -m rocmforge.tools.generate.vision_oracle`."""
ON_GPU = ("qwen2.5vl_merger",)
COMPILED = (*ON_GPU, "gemma3", "gemma4v", "qwen3vl_merger", "internvl", "pixtral")
KEYS_OF_16_BITS = 2.0**-11
"""Relative: what rounding keys and values moves; the meaning rounds none."""


def picture(kind: str) -> Patches:
    return patches_of(kind, pixels_of(kind))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vision")


def model_of(folder: Path, kind: str) -> VisionModel:
    return read_vision_model(write_mmproj(folder / f"{kind}.mmproj.gguf", kind), SHAPES[kind].width)


def test_there_are_rows_of_each_kind() -> None:
    assert ROWS.keys() == SHAPES.keys()


@pytest.mark.parametrize("kind", SHAPES)
def test_an_encoder_means_what_llama_cpp_computes(folder: Path, kind: str) -> None:
    """Which takes its weights' 16 bits for activations too; and each part of the model moves its rows by far more."""
    model, patches = model_of(folder, kind), picture(kind)
    meant = meaning(model, patches)
    assert error(meant, ROWS[kind]) < 1e-4
    assert error(meaning(model, exchanged(patches)), meant) > 5e-3
    assert error(meaning(model, patches, silent=True), meant) > 5e-3
    assert ROWS[kind].shape == (model.vision.rows(patches.height, patches.width), model.vision.row_width)


def test_old_files_have_names_of_the_feed_forward_the_wrong_way_round(folder: Path) -> None:
    path = write_mmproj(folder / "swapped.gguf", "gemma3", swapped=True)
    patches, right = picture("gemma3"), model_of(folder, "gemma3")
    swapped = read_vision_model(path, SHAPES["gemma3"].width)
    assert {swapped.tensors[role].name for role in ("layers.1.ffn_up", "layers.1.ffn_up_bias")} == {
        "v.blk.1.ffn_down.weight",
        "v.blk.1.ffn_down.bias",
    }
    assert np.array_equal(meaning(swapped, patches), meaning(right, patches))


@pytest.fixture(scope="module", params=COMPILED)
def bundle(request: pytest.FixtureRequest, folder: Path, build_cache: BuildCache) -> Iterator[tuple[str, Bundle]]:
    kind: str = request.param
    width = SHAPES[kind].width
    mmproj = write_mmproj(folder / f"{kind}.gguf", kind)
    archs = ("host", "gfx1100") if kind in ON_GPU else ("host",)
    goal = folder / f"{kind}.rfb"
    with building_levels(("portable",)):
        compile_seeing(write_text_model(folder / "model.gguf", width), mmproj, goal, archs, build_cache)
    with open_bundle(goal) as opened:
        yield kind, opened


def test_what_the_part_computes(bundle: tuple[str, Bundle], folder: Path) -> None:
    kind, opened = bundle
    patches, meant = picture(kind), meaning(model_of(folder, kind), picture(kind))
    places = ("host", "emulated:gfx1100") if kind in ON_GPU else ("host",)
    for place in places:
        found = rows_of_bundle(opened.path, place, patches)
        assert error(found, ROWS[kind]) < 1e-4
        # Each of a layer's keys and values is off by that much, and what comes of it goes through the next layers.
        assert error(found, meant) < (SHAPES[kind].layers * KEYS_OF_16_BITS) ** 2 * 10
        assert np.array_equal(rows_of_bundle(opened.path, place, patches), found)


def test_a_picture_of_few_patches(bundle: tuple[str, Bundle], folder: Path) -> None:
    """Of which attention on a GPU is split; in two windows, which are the runtime's to say."""
    kind, opened = bundle
    if kind not in ON_GPU:
        return
    model, patches = model_of(folder, kind), Patches(picture(kind).values[:16], 2, 8)
    small = replace(model, vision=replace(model.vision, window=4))
    meant = meaning(small, patches)
    assert error(meaning(model, patches), meant) > 1e-2
    for place in ("host", "emulated:gfx1100"):
        assert error(rows_of_bundle(opened.path, place, patches, window=4), meant) < 1e-5


def test_what_the_bundle_says_of_it(bundle: tuple[str, Bundle], folder: Path) -> None:
    kind, opened = bundle
    vision, part = vision_of(opened), opened.part("vision")
    assert opened.manifest.format_version == "1.8"
    assert (vision.kind, vision.width) == (kind, SHAPES[kind].width)
    assert {target.file.split("/")[0] for target in part.manifest.targets} == {"vision"}
    layout = part.layout
    assert layout.max_batch_tokens == vision.max_patches + (kind == "internvl")
    assert layout.max_sequences == vision.max_patches // vision.merge**2
    assert layout.vocab_size == vision.row_width
    assert layout.kv.num_layers == 1  # all layers share a cache
    facts = inspect_bundle(opened.path)
    assert facts["vision_kind"] == kind
    assert facts["vision_code"] == ("host portable, gfx1100" if kind in ON_GPU else "host portable")
    own = {"vision_weights_bytes", "vision_host_weights_bytes"}
    assert own & facts.keys()


def test_what_two_bundles_share_with_their_parts(bundle: tuple[str, Bundle]) -> None:
    """Tensors of the model and of the part may have the same names."""
    kind, opened = bundle
    shared = diff_bundles(opened, opened)
    own = {("/" in name, one.name, one.packing) for name, layout in opened.layouts.items() for one in layout.tensors}
    assert (len({name for _, name, _ in own}) < len(own)) == bool(KINDS[kind].rope)  # each has a table by position
    assert shared.weights.both == len(own)
    assert shared.weights.equal
    assert shared.kernels.both == len(opened.manifest.kernels) + len(opened.manifest.parts["vision"].kernels)


def test_a_picture_larger_than_the_code_is_made_for(folder: Path, bundle: tuple[str, Bundle]) -> None:
    kind, opened = bundle
    if kind != "gemma3":
        return
    patches = picture(kind)
    larger = Patches(np.concatenate([patches.values] * 2), 2 * patches.height, patches.width)
    with pytest.raises(DeviceError, match="expected a picture of at most 64 patches, found 128"):
        rows_of_bundle(opened.path, "host", larger)


def test_a_rebuild_wants_the_same_projector_file(folder: Path, bundle: tuple[str, Bundle]) -> None:
    _, opened = bundle
    files = BuildFiles(folder / "model.gguf", mmproj=folder / "mmproj.gguf")
    options: CompileOptions = recorded_options(opened.path, opened.manifest, files, folder / "again.rfb")
    assert options.mmproj == files.mmproj
    with pytest.raises(UsageError, match="--mmproj: expected the file that the bundle was made with, found none"):
        recorded_options(opened.path, opened.manifest, BuildFiles(files.model), folder / "again.rfb")
