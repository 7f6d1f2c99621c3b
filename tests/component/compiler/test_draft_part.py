"""Blocks that draft tokens as a part of a bundle: its code and weights on the host and on an emulated GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress, Silent
from rocmforge.compiler.rebuild import BuildFiles, recorded_options
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.solo import Solo
from rocmforge.tests.support.drafting import load_with_part
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.generate.architecture_oracle.drafts import IDS
from rocmforge.tools.generate.draft_models import write_drafting

PLACES = ("portable", "gfx1100")
with np.load(Path(__file__).parents[2] / "data/draft_logits.npz") as _vectors:
    VECTORS = {name: _vectors[name] for name in _vectors.files}


def compiled(path: Path, cache: BuildCache, archs: tuple[str, ...], drafts: bool = True) -> Bundle:
    goal = path.with_suffix(".rfb")
    with building_levels(PLACES[:1]):
        compile_model(CompileOptions(path, goal, archs, toolchain="zig", drafts=drafts), cache, Silent(), make_golden)
    return open_bundle(goal)


@pytest.fixture(scope="module")
def bundle(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    path = write_drafting(tmp_path_factory.mktemp("drafting") / "model.gguf", "qwen35")
    with compiled(path, build_cache, ("host", "gfx1100")) as one:
        yield one


@pytest.mark.parametrize("place", PLACES)
def test_a_block_computes_what_llama_cpps_does(bundle: Bundle, place: str) -> None:
    """A prompt in two steps, then tokens that it drafts itself, each from its own state of the one before."""
    model, block = load_with_part(bundle, "mtp", place)
    expected, drafts = VECTORS["qwen35|logits"], VECTORS["qwen35|drafts"].tolist()
    solo, own, found = Solo(model.layout), Solo(block.layout), []
    before = np.zeros((1, 64), np.float32)
    for first, end in ((0, 5), (5, len(IDS))):
        model.step(solo.batch(IDS[first:end], first, 8))
        hidden = model.hidden(0, end - first)
        rows = np.concatenate([before, hidden[:-1]])
        before = hidden[-1:]
        batch = own.batch(IDS[first:end], first, 8, range(end - first))
        block.step(replace(batch, input_rows=rows, row_of=np.arange(len(rows), dtype=np.int32)))
        found.append(block.logits(end - first))
        state = block.hidden(end - first - 1, 1)
    for depth, draft in enumerate(drafts):
        batch = own.batch([draft], len(IDS) + depth, 8)
        assert block.step(replace(batch, input_rows=state, row_of=np.zeros(1, np.int32))).shape == (1,)
        found.append(block.logits(1))
        state = block.hidden(0, 1)
    logits = np.concatenate(found)
    errors = np.sum((logits - expected) ** 2, axis=1) / np.sum(expected**2, axis=1)
    assert errors.max() < 1e-4
    block.close()
    model.close()


def test_what_the_block_shares_is_there_once(bundle: Bundle) -> None:
    part = bundle.part("mtp")
    assert (bundle.manifest.format_version, dict(bundle.manifest.parts["mtp"].facts)) == ("1.8", {"reads": "normed"})
    assert [(t.arch, t.file.split("/")[0]) for t in part.manifest.targets] == [("host", "mtp"), ("gfx1100", "mtp")]
    for own, target in zip(part.manifest.targets, bundle.manifest.targets, strict=True):
        places = {tensor.name: tensor.offset for tensor in bundle.layout_of(target).tensors}
        layout = part.layout_of(own)
        shared = {tensor.name.split("@")[0] for tensor in layout.tensors if places.get(tensor.name) == tensor.offset}
        assert shared == {"token_embedding", "rope_table", "output"}
        assert not {tensor.offset for tensor in layout.tensors if tensor.name.startswith("layers.")} & set(
            places.values()
        )
        assert (layout.input_width, layout.kv.num_layers, layout.states) == (64, 1, ())
        n_bytes = sum(tensor.n_bytes for tensor in layout.tensors if tensor.offset not in places.values())
        assert bundle.manifest.parts["mtp"].memory[own.arch]["weights_bytes"] == n_bytes


def test_a_block_that_is_not_whole_is_left_out(
    build_cache: BuildCache, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The model is served without; what is wrong with the block is said."""
    whole, path = write_drafting(tmp_path / "whole.gguf", "qwen35"), tmp_path / "model.gguf"
    path.write_bytes(whole.read_bytes().replace(b"blk.3.nextn.enorm", b"blk.3.nextn.other"))
    with building_levels(PLACES[:1]), PlainProgress() as progress:
        options = CompileOptions(path, path.with_suffix(".rfb"), ("host",), toolchain="zig")
        compile_model(options, build_cache, progress, make_golden)
    with open_bundle(path.with_suffix(".rfb")) as plain:
        assert dict(plain.manifest.parts) == {}
    said = "its block that guesses tokens is left out: "
    assert f"{said}{path}: blk.3.nextn.enorm.weight: expected this tensor, found none" in capfd.readouterr().err


def test_a_bundle_without_the_block(bundle: Bundle, build_cache: BuildCache, tmp_path: Path) -> None:
    path = write_drafting(tmp_path / "model.gguf", "qwen35")
    with compiled(path, build_cache, ("host",), drafts=False) as plain:
        assert (plain.manifest.format_version, dict(plain.manifest.parts)) == ("1.5", {})
        assert plain.layout == replace(
            bundle.layout, tensors=plain.layout.tensors
        )  # where these lie depends on the GPU's, which are between them
        assert not any(name.startswith("mtp/") for name in plain.manifest.files)
        for one, drafts in ((bundle, True), (plain, False)):
            found = recorded_options(one.path, one.manifest, BuildFiles(path), path.with_suffix(".again"))
            assert found.drafts == drafts
