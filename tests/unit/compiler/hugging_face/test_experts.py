"""Experts of a folder, which has a matrix of each: GGUF has those of a layer and a role in one tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.ggml_types import GgmlType
from rocmforge.compiler.hugging_face.experts import with_stacked_experts
from rocmforge.compiler.hugging_face.folder_tensor import FolderTensor
from rocmforge.compiler.model_source import TensorInfo

Bytes = npt.NDArray[np.uint8]
RANDOM = np.random.default_rng(16)
FOLDER = Path("folder")


def expert(number: int, rows: int = 3, kind: str = "F32", part: str = "up_proj") -> tuple[FolderTensor, Bytes]:
    """Two columns; with its bytes."""
    raw = RANDOM.integers(0, 256, (rows, 8), np.uint8)
    name = f"model.layers.1.mlp.experts.{number}.{part}.weight"
    info = TensorInfo(name, (rows, 2), GgmlType[kind])
    return FolderTensor(info, name, lambda first, count: raw[first : first + count]), raw


def test_experts_in_the_order_of_their_numbers() -> None:
    made = {number: expert(number) for number in (10, 2, 0, 1, *range(3, 10))}
    other, _ = expert(0, part="down_proj")
    plain = FolderTensor(TensorInfo("a.experts.weight", (1, 2), GgmlType.F32), "a.experts.weight", other.read)
    tensors = [plain, *(tensor for tensor, _ in made.values()), other]
    found = {one.name: one for one in with_stacked_experts(FOLDER, tensors)}
    assert list(found) == [
        "a.experts.weight",
        "model.layers.1.mlp.experts.down_proj.weight",
        "model.layers.1.mlp.experts.up_proj.weight",
    ]
    stacked = found["model.layers.1.mlp.experts.up_proj.weight"]
    assert stacked.info.shape == (11, 3, 2)
    rows = np.concatenate([made[number][1] for number in range(11)])
    for first, count in ((0, 33), (1, 1), (2, 2), (5, 20), (32, 1)):
        assert np.array_equal(stacked.read(first, count), rows[first : first + count])


@pytest.mark.parametrize(
    "last, problem",
    [
        (expert(3), r"experts\.up_proj\.weight: expected experts 0 to 2, found 3"),
        (expert(2, rows=4), r"experts\.2\.up_proj\.weight: expected F32 \[3, 2\] as of expert 0, found F32 \[4, 2\]"),
        (expert(2, kind="F16"), r"experts\.2\.up_proj\.weight: expected F32 \[3, 2\] as of expert 0, found F16"),
    ],
)
def test_experts_that_do_not_fit(last: tuple[FolderTensor, Bytes], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        list(with_stacked_experts(FOLDER, [expert(0)[0], expert(1)[0], last[0]]))
