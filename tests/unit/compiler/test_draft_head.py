"""Blocks that draft tokens, as models of one layer, against llama.cpp's; and files that lack some of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.errors import GgufError
from rocmforge.compiler.draft_head import draft_source
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model_tensors import unused_tensors
from rocmforge.compiler.read_config import read_config
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.drafts import DEEP, IDS, Drafting
from rocmforge.tools.generate.draft_models import DRAFTING, LAYERS, draft_tensors, write_drafting

with np.load(Path(__file__).parents[2] / "data/draft_logits.npz") as _vectors:
    VECTORS = {name: _vectors[name] for name in _vectors.files}


def nmse(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sum((found - expected) ** 2) / np.sum(expected**2))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", DRAFTING)
def test_a_block_is_llama_cpps(name: str, own: bool, tmp_path: Path) -> None:
    """At each token of a text, and at drafts, each beside the block's own state of the one before."""
    key = f"{name}|own" if own else name
    expected, drafts = VECTORS[f"{key}|logits"].astype(np.float64), VECTORS[f"{key}|drafts"].tolist()
    path = write_drafting(tmp_path / "model.gguf", name, own)
    drafting = Drafting.of(path, len(IDS) + DEEP)
    found = drafting.logits(IDS, drafts)
    assert found.shape == expected.shape == (len(IDS) + DEEP, 96)
    assert max(nmse(*rows) for rows in zip(found, expected, strict=True)) < 1e-6
    assert np.argmax(found[len(IDS) - 1 : -1], axis=1).tolist() == drafts
    unstated = drafting.block.value("", IDS, np.zeros((len(IDS), 64)))
    assert min(nmse(*rows) for rows in zip(unstated[1:], expected[1 : len(IDS)], strict=True)) > 1e-3


def test_a_block_is_what_the_file_has_behind_the_model(tmp_path: Path) -> None:
    source = read_gguf(write_drafting(tmp_path / "model.gguf", "qwen35"))
    config = read_config(source)
    block = draft_source(source, config)
    assert block is not None
    own = read_config(block, drafting=True)
    assert (config.num_layers, config.recurrent, config.drafting) == (LAYERS - 1, True, False)
    assert (own.num_layers, own.recurrent, own.drafting, own.draft_layers) == (1, False, True, 0)
    assert unused_tensors(block, own) == ()
    assert (
        block.read_tensor("blk.0.attn_norm.weight").tobytes() == source.read_tensor("blk.3.attn_norm.weight").tobytes()
    )
    assert block.tensors["output.weight"] is source.tensors["output.weight"]


@pytest.mark.parametrize("name", ["attn_k.weight", "nextn.enorm.weight", "nextn.hnorm.weight"])
def test_a_block_that_is_not_whole_is_named_as_the_file_names_it(name: str, tmp_path: Path) -> None:
    source = read_gguf(write_drafting(tmp_path / "model.gguf", "glm4moe"))
    source = replace(source, tensors={one: info for one, info in source.tensors.items() if one != f"blk.3.{name}"})
    block = draft_source(source, read_config(source))
    assert block is not None
    with pytest.raises(GgufError, match=rf"blk\.3\.{name}: expected this tensor, found none"):
        read_config(block, drafting=True)


def test_a_block_of_another_shape_is_refused(tmp_path: Path) -> None:
    tensors = {f"blk.3.{ending}": shape for ending, shape in draft_tensors(False).items()}
    tensors["blk.3.nextn.eh_proj.weight"] = (64, 64)
    path = tmp_path / "model.gguf"
    write_architecture(path, "glm4moe", num_layers=LAYERS, keys={"nextn_predict_layers": 1}, tensors=tensors)
    source = read_gguf(path)
    block = draft_source(source, read_config(source))
    assert block is not None
    with pytest.raises(
        GgufError, match=r"blk\.3\.nextn\.eh_proj\.weight: expected shape \[64, 128\], found \[64, 64\]"
    ):
        read_config(block, drafting=True)


def test_files_without_such_a_block(tmp_path: Path) -> None:
    plain = read_gguf(write_architecture(tmp_path / "plain.gguf", "glm4moe"))
    assert draft_source(plain, read_config(plain)) is None
    keys = {"nextn_predict_layers": 1}
    empty = read_gguf(write_architecture(tmp_path / "empty.gguf", "glm4moe", num_layers=LAYERS, keys=keys))
    assert draft_source(empty, read_config(empty)) is None
    unknown = read_gguf(write_architecture(tmp_path / "unknown.gguf", "dots1", num_layers=LAYERS, keys=keys))
    assert draft_source(unknown, read_config(unknown)) is None
