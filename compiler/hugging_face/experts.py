"""Experts of a folder, a matrix each, as GGUF has them: those of a layer and a role in one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import InputError
from ..model_source import TensorInfo
from .folder_tensor import FolderTensor

_OF_EXPERT = re.compile(r"(.+\.experts)\.(\d{1,4})\.(\w+\.weight)", re.ASCII)


def with_stacked_experts(path: Path, tensors: Iterable[FolderTensor]) -> Iterator[FolderTensor]:
    """Yield tensors, and those of single experts as one of all, named without the number.

    Raises:
        InputError: an expert is missing, or unlike the first one.
    """
    experts = []
    for tensor in tensors:
        match = _OF_EXPERT.fullmatch(tensor.name)
        if match is None:
            yield tensor
        else:
            experts.append((f"{match[1]}.{match[3]}", int(match[2]), tensor))
    experts.sort(key=lambda one: one[:2])
    for name, of_name in groupby(experts, key=lambda one: one[0]):
        parts = list(of_name)
        numbers = [number for _, number, _ in parts]
        if numbers != list(range(len(parts))):
            raise InputError(path, name, f"expected experts 0 to {len(parts) - 1}, found {numbers[-1]}")
        yield _stacked(path, name, [tensor for *_, tensor in parts])


def _stacked(path: Path, name: str, parts: Sequence[FolderTensor]) -> FolderTensor:
    first = parts[0].info
    for part in parts:
        if (part.info.shape, part.info.ggml_type) != (first.shape, first.ggml_type):
            expected = f"expected {first.ggml_type.name} {list(first.shape)} as of expert 0"
            raise InputError(path, part.name, f"{expected}, found {part.info.ggml_type.name} {list(part.info.shape)}")

    def read(start: int, count: int) -> npt.NDArray[np.uint8]:
        found = []
        while count:
            expert, row = divmod(start, first.rows)
            taken = min(first.rows - row, count)
            found.append(parts[expert].read(row, taken))
            start, count = start + taken, count - taken
        return np.concatenate(found)

    return FolderTensor(TensorInfo(name, (len(parts), *first.shape), first.ggml_type), name, read)
