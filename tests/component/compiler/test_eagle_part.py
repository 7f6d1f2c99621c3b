"""EAGLE 3 heads as a part of a bundle: their code and weights on the host and on an emulated GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import DeviceError, UsageError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.rebuild import BuildFiles, recorded_options
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.hidden import head_rows
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.device.solo import Solo
from rocmforge.tests.support.drafting import load_with_part
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.drafts import IDS
from rocmforge.tools.generate.eagle_models import write_head, write_pair

PLACES = ("portable", "gfx1100")
KINDS = ("llama", "qwen3|own")
with np.load(Path(__file__).parents[2] / "data/eagle_logits.npz") as _vectors:
    VECTORS = {name: _vectors[name] for name in _vectors.files}


@pytest.fixture(scope="module")
def bundles(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Bundle]]:
    found = {}
    for key in KINDS:
        name, _, own = key.partition("|")
        model, head = write_pair(tmp_path_factory.mktemp("eagle"), name, bool(own))
        goal = model.with_suffix(".rfb")
        options = CompileOptions(model, goal, ("host", "gfx1100"), toolchain="zig", draft_head=head)
        with building_levels(PLACES[:1]):
            compile_model(options, build_cache, Silent(), make_golden)
        found[key] = open_bundle(goal)
    yield found
    for bundle in found.values():
        bundle.close()


@pytest.mark.parametrize("key", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_head_computes_what_llama_cpps_does(bundles: dict[str, Bundle], place: str, key: str) -> None:
    """A text in two steps, then tokens that it drafts itself, each from its own state of the one before."""
    model, head = load_with_part(bundles[key], "eagle3", place)
    expected, drafts = VECTORS[f"{key}|logits"], VECTORS[f"{key}|drafts"].tolist()
    solo, own, found = Solo(model.layout), Solo(head.layout), []
    width = head.layout.input_width
    for first, end in ((0, 5), (5, len(IDS) - 1)):
        model.step(solo.batch(IDS[first:end], first, 8))
        rows = model.tapped(0, end - first)
        assert rows.shape == (end - first, 192)
        assert np.array_equal(model.tapped(1, 2), rows[1:3])
        rows = np.pad(rows, ((0, 0), (0, width - 192)))
        batch = own.batch(IDS[first + 1 : end + 1], first, 8, range(end - first))
        head.step(replace(batch, input_rows=rows, row_of=np.arange(len(rows), dtype=np.int32)))
        found.append(head.logits(end - first))
        state = head_rows(head, end - first - 1, 1)
    for depth, draft in enumerate(drafts):
        assert state.shape == (1, width)
        assert not state[:, :192].any()
        batch = own.batch([draft], len(IDS) - 1 + depth, 8)
        assert head.step(replace(batch, input_rows=state, row_of=np.zeros(1, np.int32))).shape == (1,)
        found.append(head.logits(1))
        state = head_rows(head, 0, 1)
    logits = np.concatenate(found)
    drawn = ~np.isneginf(expected[0])
    assert np.array_equal(np.isneginf(logits), np.isneginf(expected))
    errors = np.sum((logits[:, drawn] - expected[:, drawn]) ** 2, axis=1) / np.sum(expected[:, drawn] ** 2, axis=1)
    assert errors.max() < 1e-4
    head.close()
    model.close()


def test_what_the_manifest_says(bundles: dict[str, Bundle]) -> None:
    for key, bundle in bundles.items():
        part = bundle.part("eagle3")
        assert dict(bundle.manifest.parts["eagle3"].facts) == {"reads": "layers", "layers": [1, 2, 3]}
        assert len(bundle.manifest.parts["eagle3"].golden) == 2
        places = {tensor.name: tensor.offset for tensor in bundle.layout.tensors}
        shared = {one.name.split("@")[0] for one in part.layout.tensors if places.get(one.name) == one.offset}
        assert shared == (set() if "own" in key else {"token_embedding", "output"})
        path = bundle.path.with_suffix(".gguf")
        files = BuildFiles(path, draft_head=path.with_name("head.gguf"))
        again = recorded_options(bundle.path, bundle.manifest, files, path.with_suffix(".again"))
        assert again.draft_head == files.draft_head
        with pytest.raises(UsageError, match="--draft-head: expected the file that the bundle was made with"):
            recorded_options(bundle.path, bundle.manifest, BuildFiles(path), path.with_suffix(".again"))


def test_a_bundle_without_a_head_gives_no_states_of_its_layers(build_cache: BuildCache, tmp_path: Path) -> None:
    path = write_architecture(tmp_path / "model.gguf", "llama")
    options = CompileOptions(path, path.with_suffix(".rfb"), ("host",), toolchain="zig")
    with building_levels(PLACES[:1]):
        compile_model(options, build_cache, Silent(), make_golden)
    with open_bundle(options.goal) as bundle:
        program = load_host_program(bundle, 8, 1, "portable")
        with pytest.raises(DeviceError, match="compile the model with --draft-head"):
            program.tapped(0, 1)
        program.close()


def test_a_model_whose_layers_a_head_cannot_read(tmp_path: Path) -> None:
    model, head = write_architecture(tmp_path / "model.gguf", "gemma4"), write_head(tmp_path / "head.gguf")
    with pytest.raises(UsageError, match="--draft-head: gemma4: a head cannot read the hidden states of its layers"):
        read_model(CompileOptions(model, tmp_path / "out.rfb", draft_head=head), Silent())
