"""EAGLE 3 heads as their graphs mean them, against llama.cpp's; and files that are none, or another model's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.eagle import drawn_part, eagle_part, read_eagle
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.graph import TAPPED
from rocmforge.compiler.read_config import read_config
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.drafts import DEEP, IDS
from rocmforge.tools.generate.architecture_oracle.eagle import EagleDrafting
from rocmforge.tools.generate.eagle_models import TARGETS, write_head, write_pair

with np.load(Path(__file__).parents[2] / "data/eagle_logits.npz") as _vectors:
    VECTORS = {name: _vectors[name] for name in _vectors.files}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_a_head_is_llama_cpps(name: str, own: bool, tmp_path: Path) -> None:
    """At each token of a text but the first, and at drafts, each beside the head's own state of the one before."""
    key = f"{name}|own" if own else name
    expected, drafts = VECTORS[f"{key}|logits"].astype(np.float64), VECTORS[f"{key}|drafts"].tolist()
    drafting = EagleDrafting.of(*write_pair(tmp_path, name, own), len(IDS) + DEEP)
    found = drafting.logits(IDS, drafts)
    assert found.shape == expected.shape == (len(IDS) - 1 + DEEP, 96)
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))
    assert np.isneginf(found[0]).sum() == (56 if own else 0)
    drawn = ~np.isneginf(found[0])
    errors = np.sum((found[:, drawn] - expected[:, drawn]) ** 2, axis=1) / np.sum(expected[:, drawn] ** 2, axis=1)
    assert errors.max() < 1e-9
    assert np.argmax(found[len(IDS) - 2 : -1], axis=1).tolist() == drafts


def test_what_a_head_lacks_is_the_models(tmp_path: Path) -> None:
    model, head = write_pair(tmp_path, "llama")
    source = read_gguf(model)
    config = read_config(source)
    part = eagle_part(read_eagle(head, config), source, config, 64)
    of_model = [role for role in part.tensors if not role.startswith("layers.")]
    assert sorted(of_model) == ["output", "token_embedding"]
    names = [part.tensors[role].name for role in sorted(of_model)]
    assert names == ["output.weight", "token_embd.weight"]
    assert part.source.read_tensor(names[0]).tobytes() == source.read_tensor("output.weight").tobytes()
    assert dict(part.facts) == {"reads": "layers", "layers": [1, 2, 3]}
    assert (part.graph.input_width, part.graph.values[TAPPED].columns, part.made) == (256, 64, {})


def test_what_a_head_has_itself(tmp_path: Path) -> None:
    model, head = write_pair(tmp_path, "llama", own=True)
    source = read_gguf(model)
    config = read_config(source)
    read = read_eagle(head, config)
    part = drawn_part(read, source, config, 64)
    assert set(part.tensors) - {"rope_factors"} == {role for role in part.tensors if role.startswith("layers.0.")}
    assert read.tokens is not None
    columns = part.made["layers.0.draft_tokens"]
    assert [int(columns[token]) for token in read.tokens] == list(range(40))
    assert (columns == -1).sum() == 56
    assert (part.graph.input_width, part.hidden_size, part.vocab_size) == (192 + 32, 32, 96)


REFUSED: list[tuple[Callable[[Path], Path], str]] = [
    (
        lambda p: write_architecture(p, "llama"),
        r"general\.architecture: expected eagle3, as heads have \(--draft-head\), found 'llama'",
    ),
    (lambda p: write_head(p, keys={"target_hidden_size": 128}), r"target_hidden_size: expected 64, as the model has"),
    (lambda p: write_head(p, keys={"target_layers": [1, 2]}), r"target_layers: expected 3 layers from 0 to 4 .*others"),
    (
        lambda p: write_head(p, keys={"target_layers": [1, 2, 5]}),
        r"target_layers: expected 3 layers .* found \[1, 2, 5\]",
    ),
    (lambda p: write_head(p, keys={"block_count": 2}), r"block_count"),
    (lambda p: write_head(p, keys={"attention.head_count_kv": 3}), r"head_count_kv: expected a divisor of 4, found 3"),
    (lambda p: write_head(p, keys={"rope.dimension_count": 15}), r"rope\.dimension_count: expected an even number"),
    (
        lambda p: write_head(p, tensors={"fc.weight": (64, 64)}),
        r"fc\.weight: expected shape \[64, 192\] .*found \[64, 64\]",
    ),
    (lambda p: write_head(p, tensors={"fc.weight": None}), r"fc\.weight: expected this tensor"),
    (
        lambda p: write_head(p, True, tensors={"enc.output_norm.weight": None}),
        r"enc\.output_norm\.weight: expected this",
    ),
    (
        lambda p: write_head(p, True, tensors={"token_embd.weight": (95, 32)}),
        r"token_embd\.weight: expected shape \[96, 32\]",
    ),
    (
        lambda p: write_head(p, True, tensors={"token_embd.weight": None}),
        r"token_embd\.weight: .*another width, found none",
    ),
    (lambda p: write_head(p, tokens=range(9)), r"output\.weight: expected this tensor beside d2t"),
    (lambda p: write_head(p, True, tokens=range(7)), r"d2t: expected at least 8 different tokens from 0 to 95"),
    (lambda p: write_head(p, True, tokens=[*range(9), 8]), r"d2t: expected at least 8 different"),
    (lambda p: write_head(p, True, tokens=[*range(9), 96]), r"d2t: expected at least 8 different"),
    (lambda p: write_head(p, tensors={"blk.0.attn_q.bias": (64,)}), r"attn_q\.bias: expected no such tensor"),
]


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_head_of_a_model(case: tuple[Any, str], tmp_path: Path) -> None:
    write, problem = case
    config = read_config(read_gguf(write_architecture(tmp_path / "model.gguf", "llama")))
    path = write(tmp_path / "head.gguf")
    with pytest.raises(InputError, match=problem) as refused:
        read_eagle(path, config)
    assert str(path) in str(refused.value)


def test_a_token_map_that_is_no_row_of_integers(tmp_path: Path) -> None:
    config = read_config(read_gguf(write_architecture(tmp_path / "model.gguf", "llama")))
    path = write_head(tmp_path / "head.gguf", tensors={"d2t": (96,)})
    with pytest.raises(InputError, match=r"d2t: expected a row of I64, found \[96\] of F32"):
        read_eagle(path, config)
