"""What files say of experts, and what is refused of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.errors import GgufError
from rocmforge.compiler.gguf_file import GgufFile
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model_config import Experts
from rocmforge.compiler.model_tensors import weight_tensors
from rocmforge.compiler.read_config import read_config
from rocmforge.tools.generate.architecture_models import write_architecture


def read(folder: Path, name: str, *, whole: bool = False) -> GgufFile:
    return read_gguf(write_architecture(folder / "model.gguf", name, whole))


def changed(source: GgufFile, values: Mapping[str, object]) -> GgufFile:
    metadata = {**source.metadata, **values}
    return replace(source, metadata={key: value for key, value in metadata.items() if value is not None})


def test_experts_of_a_file(tmp_path: Path) -> None:
    config = read_config(read(tmp_path, "bailingmoe2"))
    assert config.experts == Experts(2, 32, 64, "sigmoid", normalise=True, scale=1.5, groups=1, groups_used=1)
    assert [config.layer(number).num_experts for number in range(4)] == [0, 8, 8, 8]


def test_a_dense_model_of_an_architecture_that_may_have_experts(tmp_path: Path) -> None:
    config = read_config(read(tmp_path, "mistral3"))
    assert (config.experts, config.layer(0).num_experts) == (None, 0)


@pytest.mark.parametrize(
    "key, value, problem",
    [
        ("expert_used_count", 9, "expected 1 to 8, found 9"),
        ("expert_used_count", None, "expected an integer, found nothing"),
        ("expert_gating_func", 7, "expected 1, 2, 3, found 7"),
        ("expert_group_count", 3, "expected at most 32 groups of two and more of 8 experts, found 3"),
        ("expert_group_count", 8, "expected at most 32 groups of two and more of 8 experts, found 8"),
        ("expert_count", 1 << 20, "expected 1 to 1024, found 1048576"),
    ],
)
def test_what_cannot_be(key: str, value: object, problem: str, tmp_path: Path) -> None:
    with pytest.raises(GgufError) as raised:
        read_config(changed(read(tmp_path, "bailingmoe2"), {f"bailingmoe2.{key}": value}))
    assert str(raised.value).endswith(f"bailingmoe2.{key}: {problem}")


def test_experts_that_neighbours_share(tmp_path: Path) -> None:
    source = read(tmp_path, "grovemoe")
    experts = read_config(source).experts
    assert experts is not None
    assert (experts.sharers, experts.sharers_size) == (2, 24)
    assert experts.sharers_scale == pytest.approx(0.6)
    for found in (0, 3):
        with pytest.raises(GgufError) as raised:
            read_config(changed(source, {"grovemoe.experts_per_group": found}))
        expected = "expected a divisor of 8 up to 32, found 3" if found else "expected 1 to 8, found 0"
        assert str(raised.value).endswith(f"grovemoe.experts_per_group: {expected}")


def test_groups_with_too_few_experts(tmp_path: Path) -> None:
    keys = {"expert_group_count": 4, "expert_group_used_count": 1, "expert_used_count": 3}
    source = changed(read(tmp_path, "dots1"), {f"dots1.{key}": value for key, value in keys.items()})
    problem = "expert_group_used_count: expected groups with 3 experts to choose, found 1 groups"
    with pytest.raises(GgufError, match=problem):
        read_config(source)


def test_files_that_count_experts_and_have_none(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=r"blk\.0\.ffn_gate_inp\.weight: expected a router of experts, found none"):
        read_config(changed(read(tmp_path, "llama"), {"llama.expert_count": 8}))


def test_an_architecture_without_experts(tmp_path: Path) -> None:
    problem = r"qwen3\.expert_count: expected a dense model, found a mixture of 8 experts"
    with pytest.raises(GgufError, match=problem):
        read_config(changed(read(tmp_path, "qwen3"), {"qwen3.expert_count": 8}))


@pytest.mark.parametrize("tensor", ["ffn_up_exps.weight", "ffn_down_exps.weight", "ffn_up_shexp.weight"])
def test_a_missing_tensor(tensor: str, tmp_path: Path) -> None:
    source = read(tmp_path, "qwen2moe")
    tensors = {name: one for name, one in source.tensors.items() if name != f"blk.2.{tensor}"}
    with pytest.raises(GgufError, match=rf"blk\.2\.{tensor}: expected this tensor, found none"):
        read_config(replace(source, tensors=tensors))


def test_fused_gate_and_up_of_each_expert(tmp_path: Path) -> None:
    """Each weight is what it is where the tensors are apart: an expert's gate stands before its up."""
    source = read(tmp_path, "qwen3moe", whole=True)
    found = weight_tensors(source, read_config(source))
    both = source.read_tensor("blk.1.ffn_gate_up_exps.weight").view(np.float32).reshape(8, 64, 64)
    for role, rows in (("gate", both[:, :32]), ("up", both[:, 32:])):
        weight = found[f"layers.1.ffn_{role}_experts"]
        assert np.array_equal(weight.read(source).view(np.float32), rows.reshape(-1, 64))
        part = weight.read_rows(source, 30, 40).view(np.float32)  # ends within the third expert
        assert np.array_equal(part, rows.reshape(-1, 64)[30:70])
