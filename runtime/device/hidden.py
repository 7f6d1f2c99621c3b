"""Hidden states: what the last layer leaves in a program's arena, through the model's final norm."""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import DeviceError
from ...artifacts.layout import Layout
from .batch import Float32, Program

_ROWS_AT_ONCE: Final = 16


class HiddenStates:
    """Where a bundle's hidden states lie, and the norm that ends them.

    The norm is done here, by the CPU in float64: steps of which nobody asks hidden states have no kernel for it, and
    every device does the same. A row's bits depend on that row alone.
    """

    def __init__(self, layout: Layout, weights: mmap.mmap) -> None:
        """Take a bundle's layout and its weights.bin, mapped, of which a copy of the norm's weights is kept."""
        self._norm = layout.final_norm
        self._size = layout.hidden_size
        self._weight, self._bias = np.ones(self._size), np.zeros(self._size)
        if self._norm is None:
            return
        for tensor in layout.tensors:
            for name, numbers in ((self._norm.tensor, self._weight), (self._norm.bias, self._bias)):
                if tensor.name == name:
                    numbers[:] = np.frombuffer(weights, np.float32, self._size, tensor.offset)

    def place(self, first: int, count: int) -> tuple[str, int, int]:
        """Buffer, offset in it and size, both in bytes, of what `normed` takes for `count` tokens from `first` on.

        Raises:
            DeviceError: the bundle does not say where hidden states lie.
        """
        if self._norm is None:
            raise DeviceError("the bundle gives no hidden states: compile the model again")
        return self._norm.buffer, 4 * first * self._size, 4 * count * self._size

    def normed(self, data: bytes | memoryview) -> Float32:
        """Return float32[count, hidden_size] of the bytes of `count` rows; not finite where those are not."""
        rows = np.frombuffer(data, np.float32).reshape(-1, self._size)
        normed = np.empty_like(rows)
        for first in range(0, len(rows), _ROWS_AT_ONCE):  # what is computed of some of them stays in the CPU's cache
            some = slice(first, first + _ROWS_AT_ONCE)
            normed[some] = self._normed(rows[some].astype(np.float64))
        return normed

    def _normed(self, rows: npt.NDArray[np.float64]) -> Float32:
        assert self._norm is not None  # `place` was asked first
        with np.errstate(invalid="ignore", over="ignore"):
            if self._norm.kind == "none":
                return rows.astype(np.float32)
            if self._norm.kind == "layer":
                rows -= np.mean(rows, axis=1, keepdims=True)
            scale = 1.0 / np.sqrt(np.mean(rows * rows, axis=1, keepdims=True) + self._norm.epsilon)
            normed: Float32 = (rows * scale * self._weight + self._bias).astype(np.float32)
        return normed


def place_tapped(layout: Layout, first: int, count: int) -> tuple[str, int, int]:
    """Return buffer, offset in it and size, both in bytes, of what a head reads of `count` tokens from `first` on.

    Raises:
        DeviceError: the bundle has no such head.
    """
    if layout.tap is None:
        raise DeviceError("the bundle gives no hidden states of its layers: compile the model with --draft-head")
    size = 4 * layout.tap.columns
    return layout.tap.buffer, first * size, count * size


def head_rows(program: Program, first: int, count: int) -> Float32:
    """Return what a head that drafts tokens reads of its own last step: float32[count, its input_width].

    Raises:
        DeviceError: see `Program.hidden`.
    """
    layout = program.layout
    if layout.tap is None:
        return program.hidden(first, count)
    own = program.tapped(first, count)  # the columns before them are the served model's hidden states
    return np.pad(own, ((0, 0), (layout.input_width - own.shape[1], 0)))
