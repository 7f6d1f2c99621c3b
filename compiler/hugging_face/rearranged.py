"""Tensors of a folder in another order, another shape, or with other values: read as they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import InputError
from ..floats import Floats, float_rows
from ..ggml_types import BLOCKS, GgmlType
from ..model_source import TensorInfo
from .folder_tensor import FolderTensor

Order = npt.NDArray[np.intp]
"""For each place what comes there, by its number before."""


def renamed(found: FolderTensor, name: str) -> FolderTensor:
    """Return a tensor under another name."""
    return replace(found, info=replace(found.info, name=name))


def shaped(found: FolderTensor, *shape: int) -> FolderTensor:
    """Return a tensor of as many elements in another shape: of rows as long, or a vector as rows."""
    info = TensorInfo(found.info.name, shape, found.info.ggml_type)
    if info.row_bytes == found.info.row_bytes:
        return FolderTensor(info, found.name, found.read)

    def read(first: int, count: int) -> npt.NDArray[np.uint8]:
        whole = found.read(0, found.info.rows).reshape(-1, info.row_bytes)
        return whole[first : first + count]

    return FolderTensor(info, found.name, read)


def with_rows(found: FolderTensor, rows: Order, *shape: int) -> FolderTensor:
    """Return a tensor of these rows of another's, those of stacked matrices counted through; in `shape`, if given."""

    def read(first: int, count: int) -> npt.NDArray[np.uint8]:
        wanted = rows[first : first + count]
        ends = np.flatnonzero(np.diff(wanted) != 1) + 1
        return np.concatenate([found.read(int(run[0]), len(run)) for run in np.split(wanted, ends)])

    info = TensorInfo(found.info.name, shape or (len(rows), found.info.shape[-1]), found.info.ggml_type)
    return FolderTensor(info, found.name, read)


def with_columns(path: Path, found: FolderTensor, columns: Order) -> FolderTensor:
    """Return a tensor whose columns, or elements, stand in another order.

    Raises:
        InputError: they lie in blocks that the order would tear apart.
    """
    block, block_bytes = BLOCKS[found.info.ggml_type]
    starts = columns.reshape(-1, block)[:, 0]
    if (columns != np.repeat(starts, block) + np.arange(len(columns)) % block).any() or (starts % block).any():
        problem = f"expected heads of whole blocks of {block} columns ({found.info.ggml_type.name}), found others"
        raise InputError(path, found.name, problem)
    order = starts // block

    def read(first: int, count: int) -> npt.NDArray[np.uint8]:
        blocks = found.read(first, count).reshape(count, -1, block_bytes)
        return np.ascontiguousarray(blocks[:, order]).reshape(count, -1)

    return replace(found, read=read)


def changed(found: FolderTensor, change: Callable[[Floats], Floats]) -> FolderTensor:
    """Return a tensor in float32 of what `change` makes of its numbers."""

    def read(first: int, count: int) -> npt.NDArray[np.uint8]:
        values = change(float_rows(found.read(first, count), found.info.ggml_type))
        return np.ascontiguousarray(values, np.float32).view(np.uint8)

    return FolderTensor(TensorInfo(found.info.name, found.info.shape, GgmlType.F32), found.name, read)
