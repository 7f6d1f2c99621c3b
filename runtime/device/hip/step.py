"""The memory of a step: what kernels read of a batch, in one piece, as the host writes it and as the GPU has it.

The host writes an image into pinned coherent memory, and the first kernel of a step copies it: a copy by HIP just
before a graph is replayed may be seen too late by the scalar loads of its kernels (ROCm/hip #3902). Masks are the
image's end; the kernel that draws tokens fetches them itself, so that they may be written while the others run. Rows
that are given from outside have pinned memory of their own, where kernels read them: they may be megabytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ....artifacts import abi
from ....artifacts.abi import numpy_fields
from ....artifacts.arguments import Argument, StepRef
from ..batch import Batch, Int32, RowSampling
from .api import HOST_MALLOC_COHERENT
from .memory import DeviceMemory

SAMPLING: Final = np.dtype(numpy_fields(abi.SAMPLING, "hip"))
STEP: Final = np.dtype(numpy_fields(abi.STEP, "hip"))
_COUNTS: Final = {"seen_tokens": "num_seen", "bias_tokens": "num_biases"}  # the field that says how long it is
_ALIGNMENT: Final = 64
_FIRST_BYTES: Final = 64 << 10


class StepMemory:
    """A piece of device memory and its pinned image; grows with the largest step.

    Attributes:
        pointer: to `struct step`, as kernels take it; changes only where the memory grows.
        generation: counts how often that was.
        number: of the last step that was written.
        arguments: by argument, where its value is; one changes as `pointer` does.
    """

    def __init__(self, memory: DeviceMemory, sampled: int, n_bytes: int = _FIRST_BYTES, rows_bytes: int = 0) -> None:
        """Take the first memory.

        Args:
            memory: to take it from.
            sampled: device address of int32[R], where kernels leave the tokens.
            n_bytes: to begin with.
            rows_bytes: of the most rows that a step is given from outside.
        Raises:
            HipError: it is unavailable.
        """
        self._memory = memory
        self._sampled = sampled
        self.pointer = ctypes.c_void_p()
        self.generation = 0
        self.number = 0
        self._capacity = 0
        self._image = ctypes.c_void_p()
        self._echo = ctypes.c_void_p(memory.pinned(_ALIGNMENT, "echo of a step", HOST_MALLOC_COHERENT))
        ctypes.memset(self._echo, 0, _ALIGNMENT)
        self.arguments: dict[Argument, ctypes.c_void_p] = {StepRef("image"): self._image, StepRef("echo"): self._echo}
        self._rows = memory.pinned(rows_bytes, "rows from outside", HOST_MALLOC_COHERENT) if rows_bytes else 0
        self._masks: list[int] = []  # offsets of those of the last batch
        self._grow(n_bytes)

    def write(self, batch: Batch) -> None:
        """Write the image of all but the masks; the step before it must have been waited for.

        Raises:
            HipError: the batch is larger than all before, and memory is unavailable.
        """
        pieces = _pieces(batch)
        offsets, end = _place([piece.nbytes for piece in pieces], _aligned(STEP.itemsize))
        self._masks, total = _place([row.mask.nbytes for row in batch.sampling if row.mask is not None], end)
        if total > self._capacity:
            self._grow(max(total, 2 * self._capacity))
        device, image = self.pointer.value or 0, self._image.value or 0
        addresses = [device + offset for offset in offsets]
        self.number += 1
        header = _header(batch, addresses, self._sampled, self.number, end)
        if batch.input_rows is not None:
            header["input_rows"] = self._rows
            ctypes.memmove(self._rows, batch.input_rows.tobytes(), batch.input_rows.nbytes)
        _point_sampling(pieces, batch.sampling, addresses, [(device + at, image + at) for at in self._masks])
        for offset, piece in zip((0, *offsets), (header, *pieces), strict=True):
            ctypes.memmove(image + offset, piece.tobytes(), piece.nbytes)

    def write_masks(self, batch: Batch) -> None:
        """Wait for the masks of the batch that was written, and write them too; before its tokens are drawn."""
        masks = [mask for row in batch.sampling if (mask := row.wait_for_mask()) is not None]
        for offset, mask in zip(self._masks, masks, strict=True):
            ctypes.memmove((self._image.value or 0) + offset, mask.tobytes(), mask.nbytes)

    def echoed(self) -> int:
        """Return the number of the step that the kernels saw last."""
        return ctypes.c_uint64.from_address(self._echo.value or 0).value

    def _grow(self, n_bytes: int) -> None:
        """Take more memory; where it is unavailable, the old stays."""
        device = self._memory.device(n_bytes, "step")
        try:
            image = self._memory.pinned(n_bytes, "step", HOST_MALLOC_COHERENT)
        except BaseException:
            self._memory.free(device)
            raise
        if self._capacity:
            self._memory.free(self.pointer.value or 0)
            self._memory.free(self._image.value or 0)
        self.pointer.value, self._image.value, self._capacity = device, image, n_bytes
        self.generation += 1


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _place(sizes: Sequence[int], first: int) -> tuple[list[int], int]:
    """Return the offsets of pieces of so many bytes, one after another from `first`, and where the last ends."""
    offsets = []
    for n_bytes in sizes:
        offsets.append(first)
        first += _aligned(n_bytes)
    return offsets, first


def _pieces(batch: Batch) -> list[npt.NDArray[Any]]:
    """Return what follows the header: five int32 arrays, the sampling records, what each record points to, and what
    only some batches have."""
    arrays: list[Int32] = [batch.token_ids, batch.positions, batch.rows, batch.block_table, batch.logits_rows]
    records = np.zeros(len(batch.logits_rows), SAMPLING)
    for record, row in zip(records, batch.sampling, strict=False):
        _fill(record, row)
    pieces: list[npt.NDArray[Any]] = [*arrays, records]
    for row in batch.sampling:
        pieces += _pointed_at(row).values()
    return [*pieces, *_optional(batch).values()]


def _optional(batch: Batch) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that only some batches have, by their field of the step."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    if batch.adapter_scales is not None:
        arrays["adapter_scales"] = batch.adapter_scales
    if batch.state_from is not None and batch.state_to is not None:
        arrays["sequence_starts"] = batch.sequence_starts()
        arrays |= {"state_from": batch.state_from, "state_to": batch.state_to}
    if batch.row_of is not None:
        arrays["row_of"] = batch.row_of
    if batch.rope_positions is not None:
        arrays["rope_positions"] = batch.rope_positions
    return arrays


def _pointed_at(row: RowSampling) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a row but its mask, by the field of the record that holds their address."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    if row.seen_tokens is not None and row.seen_counts is not None:
        arrays |= {"seen_tokens": row.seen_tokens, "seen_counts": row.seen_counts}
    if row.bias_tokens is not None and row.biases is not None:
        arrays |= {"bias_tokens": row.bias_tokens, "biases": row.biases}
    adjusted = len(arrays.get("seen_tokens", ())) + len(arrays.get("bias_tokens", ()))
    if row.keep_logits and adjusted:
        arrays["originals"] = np.zeros(adjusted, np.float32)
    return arrays


def _fill(record: Any, row: RowSampling) -> None:
    for name in abi.ROW_SCALARS:
        record[name] = getattr(row, name)


def _point_sampling(
    pieces: Sequence[npt.NDArray[Any]],
    rows: Sequence[RowSampling],
    addresses: Sequence[int],
    masks: Sequence[tuple[int, int]],
) -> None:
    """Enter the addresses of the rows' arrays, which follow the records in the rows' order, and both of their masks."""
    records, at, left = pieces[5], 6, iter(masks)
    for record, row in zip(records, rows, strict=False):
        for name, array in _pointed_at(row).items():
            record[name] = addresses[at]
            if name in _COUNTS:
                record[_COUNTS[name]] = len(array)
            at += 1
        if row.mask is not None:
            record["mask"], record["mask_image"] = next(left)


def _header(batch: Batch, addresses: Sequence[int], sampled: int, number: int, n_bytes: int) -> npt.NDArray[Any]:
    header = np.zeros(1, STEP)
    header["num_tokens"], header["num_logits"] = len(batch.token_ids), len(batch.logits_rows)
    header["blocks_per_row"] = batch.block_table.shape[1]
    names = ("token_ids", "positions", "rows", "block_table", "logits_rows", "sampling")
    for name, address in zip(names, addresses, strict=False):
        header[name] = address
    optional = _optional(batch)
    for name, address in zip(optional, addresses[len(addresses) - len(optional) :], strict=True):
        header[name] = address
    header["num_sequences"] = 0 if batch.state_from is None else len(batch.state_from)
    header["sampled"], header["number"], header["n_bytes"] = sampled, number, n_bytes
    return header
