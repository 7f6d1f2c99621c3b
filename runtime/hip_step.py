"""The memory of a step: what kernels read of a batch, in one piece. Masks are its end, and are sent by themselves.

The records mirror `struct step` and `struct sampling` of kernels/hip/prelude.h, at `HIP_ABI_VERSION`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .batch import Batch, Int32, RowSampling
from .hip_api import COPY_HOST_TO_DEVICE, HipApi, check
from .hip_memory import DeviceMemory

SAMPLING: Final = np.dtype(
    [
        ("temperature", "<f4"),
        ("top_p", "<f4"),
        ("min_p", "<f4"),
        ("top_k", "<i4"),
        ("repetition_penalty", "<f4"),
        ("presence_penalty", "<f4"),
        ("frequency_penalty", "<f4"),
        ("num_seen", "<i4"),
        ("seen_tokens", "<u8"),
        ("seen_counts", "<u8"),
        ("seed", "<u8"),
        ("counter", "<u8"),
        ("mask", "<u8"),
        ("typical_p", "<f4"),
        ("num_biases", "<i4"),
        ("bias_tokens", "<u8"),
        ("biases", "<u8"),
        ("originals", "<u8"),
    ]
)
STEP: Final = np.dtype(
    [
        ("num_tokens", "<i4"),
        ("num_logits", "<i4"),
        ("blocks_per_row", "<i4"),
        ("reserved", "<i4"),
        ("token_ids", "<u8"),
        ("positions", "<u8"),
        ("rows", "<u8"),
        ("block_table", "<u8"),
        ("logits_rows", "<u8"),
        ("sampling", "<u8"),
        ("sampled", "<u8"),
    ]
)
_COUNTS: Final = {"seen_tokens": "num_seen", "bias_tokens": "num_biases"}  # the field that says how long it is
_ALIGNMENT: Final = 64
_FIRST_BYTES: Final = 64 << 10


class StepMemory:
    """A piece of device memory and its pinned image; grows with the largest step.

    Attributes:
        pointer: to `struct step`, as kernels take it; changes only where the memory grows.
        generation: counts how often that was.
    """

    def __init__(self, api: HipApi, memory: DeviceMemory, sampled: int, n_bytes: int = _FIRST_BYTES) -> None:
        """Take the first memory.

        Args:
            api: HIP.
            memory: to take it from.
            sampled: device address of int32[R], where kernels leave the tokens.
            n_bytes: to begin with.
        Raises:
            HipError: it is not to be had.
        """
        self._api = api
        self._memory = memory
        self._sampled = sampled
        self.pointer = ctypes.c_void_p()
        self.generation = 0
        self._capacity = 0
        self._pinned = 0
        self._masks: list[int] = []  # offsets of those of the last batch
        self._grow(n_bytes)

    def send(self, batch: Batch, stream: ctypes.c_void_p) -> None:
        """Queue the copy to the device of all but the masks; the batch before it must have been waited for.

        Raises:
            HipError: the batch is larger than all before, and memory is not to be had; or the copy failed.
        """
        pieces = _pieces(batch)
        offsets, end = _place([piece.nbytes for piece in pieces], _aligned(STEP.itemsize))
        self._masks, total = _place([row.mask.nbytes for row in batch.sampling if row.mask is not None], end)
        if total > self._capacity:
            self._grow(max(total, 2 * self._capacity))
        device = self.pointer.value or 0
        addresses = [device + offset for offset in offsets]
        header = _header(batch, addresses, self._sampled)
        _point_sampling(pieces, batch.sampling, addresses, [device + offset for offset in self._masks])
        for offset, piece in zip((0, *offsets), (header, *pieces), strict=True):
            ctypes.memmove(self._pinned + offset, piece.tobytes(), piece.nbytes)
        code = self._api.hipMemcpyAsync(device, self._pinned, end, COPY_HOST_TO_DEVICE, stream)
        check(self._api, code, "upload of a step")

    def send_masks(self, batch: Batch, stream: ctypes.c_void_p) -> None:
        """Wait for the masks of the batch that was sent, and queue their copy; nothing where there are none.

        Raises:
            HipError: the copy failed.
        """
        masks = [mask for row in batch.sampling if (mask := row.wait_for_mask()) is not None]
        if not masks:
            return
        for offset, mask in zip(self._masks, masks, strict=True):
            ctypes.memmove(self._pinned + offset, mask.tobytes(), mask.nbytes)
        first, n_bytes = self._masks[0], self._masks[-1] + masks[-1].nbytes - self._masks[0]
        device = (self.pointer.value or 0) + first
        code = self._api.hipMemcpyAsync(device, self._pinned + first, n_bytes, COPY_HOST_TO_DEVICE, stream)
        check(self._api, code, "upload of a step's masks")

    def _grow(self, n_bytes: int) -> None:
        """More memory; where it is not to be had, the old stays."""
        device = self._memory.device(n_bytes, "step")
        try:
            pinned = self._memory.pinned(n_bytes, "step")
        except BaseException:
            self._memory.free(device)
            raise
        if self._capacity:
            self._memory.free(self.pointer.value or 0)
            self._memory.free(self._pinned)
        self.pointer.value, self._pinned, self._capacity = device, pinned, n_bytes
        self.generation += 1


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def _place(sizes: Sequence[int], first: int) -> tuple[list[int], int]:
    """Offsets of pieces of so many bytes, one after another from `first`, and where the last ends."""
    offsets = []
    for n_bytes in sizes:
        offsets.append(first)
        first += _aligned(n_bytes)
    return offsets, first


def _pieces(batch: Batch) -> list[npt.NDArray[Any]]:
    """What follows the header: five int32 arrays, the sampling records, then what each row's record points to."""
    arrays: list[Int32] = [batch.token_ids, batch.positions, batch.rows, batch.block_table, batch.logits_rows]
    records = np.zeros(len(batch.logits_rows), SAMPLING)
    for record, row in zip(records, batch.sampling, strict=False):
        _fill(record, row)
    pieces: list[npt.NDArray[Any]] = [*arrays, records]
    for row in batch.sampling:
        pieces += _pointed_at(row).values()
    return pieces


def _pointed_at(row: RowSampling) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a row but its mask, by the field of the record that holds their address."""
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
    record["temperature"], record["top_p"], record["min_p"] = row.temperature, row.top_p, row.min_p
    record["top_k"] = row.top_k
    record["repetition_penalty"] = row.repetition_penalty
    record["presence_penalty"] = row.presence_penalty
    record["frequency_penalty"] = row.frequency_penalty
    record["seed"], record["counter"] = row.seed, row.counter
    record["typical_p"] = row.typical_p


def _point_sampling(
    pieces: Sequence[npt.NDArray[Any]], rows: Sequence[RowSampling], addresses: Sequence[int], masks: Sequence[int]
) -> None:
    """Enter the addresses of the rows' arrays, which follow the records in the rows' order, and of their masks."""
    records, at, left = pieces[5], 6, iter(masks)
    for record, row in zip(records, rows, strict=False):
        for name, array in _pointed_at(row).items():
            record[name] = addresses[at]
            if name in _COUNTS:
                record[_COUNTS[name]] = len(array)
            at += 1
        if row.mask is not None:
            record["mask"] = next(left)


def _header(batch: Batch, addresses: Sequence[int], sampled: int) -> npt.NDArray[Any]:
    header = np.zeros(1, STEP)
    header["num_tokens"], header["num_logits"] = len(batch.token_ids), len(batch.logits_rows)
    header["blocks_per_row"] = batch.block_table.shape[1]
    names = ("token_ids", "positions", "rows", "block_table", "logits_rows", "sampling")
    for name, address in zip(names, addresses, strict=False):
        header[name] = address
    header["sampled"] = sampled
    return header
