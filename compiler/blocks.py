"""Rows of a GGUF's quantized tensors taken apart into quants and scales, without loss.

Formats of the blocks: ggml's `ggml-common.h` as documented by the `gguf` package's `quants` module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..artifacts.formats import WeightFormat

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows of blocks of 32 columns, taken apart.

    Attributes:
        quants: uint8[rows, blocks, 32], unsigned (or two's complement for Q8_0).
        block_scales: bytes of each block that follow or precede its quants, one array a field,
            uint8[rows, blocks, width].
        super_scales: the same for each 8 blocks, uint8[rows, blocks / 8, width].
    """

    quants: Bytes
    block_scales: tuple[Bytes, ...]
    super_scales: tuple[Bytes, ...] = ()


def _split_nibbles(packed: Bytes) -> Bytes:
    """uint8[..., n] -> uint8[..., 2n]: all low halves, then all high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _bits(packed: Bytes) -> Bytes:
    return np.unpackbits(packed, axis=-1, bitorder="little")


def _read_legacy(raw: Bytes, weights: WeightFormat) -> Blocks:
    """Q4_0, Q4_1, Q5_0, Q5_1: d, [m], [32 high bits], 16 bytes of nibbles. Q8_0: d, 32 bytes."""
    start = weights.scale_bytes
    fields = (raw[..., 0:2], raw[..., 2:4]) if weights.has_minimum else (raw[..., 0:2],)
    if weights.bits == 8:
        return Blocks(raw[..., start:], fields)
    fifth = weights.bits == 5
    quants = _split_nibbles(raw[..., start + 4 * fifth :])
    if fifth:
        quants |= _bits(raw[..., start : start + 4]) << 4
    return Blocks(quants, fields)


def _read_k(raw: Bytes, weights: WeightFormat) -> Blocks:
    """Q4_K, Q5_K: d, dmin, 12 bytes of 6-bit scales and minima, [256 high bits], 128 bytes of nibbles."""
    rows, supers, _ = raw.shape
    fifth = weights.bits == 5
    packed = raw[..., 4:16]
    scales = np.concatenate([packed[..., 0:4] & 63, (packed[..., 8:12] & 15) | (packed[..., 0:4] >> 6 << 4)], -1)
    minima = np.concatenate([packed[..., 4:8] & 63, (packed[..., 8:12] >> 4) | (packed[..., 4:8] >> 6 << 4)], -1)
    nibbles = raw[..., 16 + 32 * fifth :].reshape(rows, supers, 4, 32)
    quants = np.stack([nibbles & 15, nibbles >> 4], axis=3).reshape(rows, supers * 8, 32)
    if fifth:
        bits = _bits(raw[..., 16:48].reshape(rows, supers, 32, 1))  # [..., column, block]
        quants |= bits.transpose(0, 1, 3, 2).reshape(rows, supers * 8, 32) << 4
    fields = (scales.reshape(rows, supers * 8, 1), minima.reshape(rows, supers * 8, 1))
    return Blocks(quants, fields, (raw[..., 0:2], raw[..., 2:4]))


def _read_q6_k(raw: Bytes, _: WeightFormat) -> Blocks:
    """Q6_K: 128 bytes of low nibbles, 64 of high pairs, 16 int8 scales, d."""
    rows, supers, _ = raw.shape
    low = raw[..., :128].reshape(rows, supers, 2, 64)
    nibbles = _split_nibbles(low).reshape(rows, supers, 2, 4, 32)
    high = raw[..., 128:192].reshape(rows, supers, 2, 1, 32)
    shifts: Bytes = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    quants: Bytes = nibbles | ((high >> shifts & 3) << 4).astype(np.uint8)
    scales = raw[..., 192:208].reshape(rows, supers * 8, 2)
    return Blocks(quants.reshape(rows, supers * 8, 32), (scales[..., 0:1], scales[..., 1:2]), (raw[..., 208:210],))


def _read_q3_k(raw: Bytes, _: WeightFormat) -> Blocks:
    """Q3_K: 256 high bits, 64 bytes of low pairs, 12 bytes of 6-bit scales that stand 32 too high, d."""
    rows, supers, _ = raw.shape
    high = _bits(raw[..., :32].reshape(rows, supers, 32, 1)).transpose(0, 1, 3, 2)  # [..., block, column]
    low = raw[..., 32:96].reshape(rows, supers, 2, 1, 32)
    shifts: Bytes = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    quants: Bytes = (low >> shifts & 3).astype(np.uint8).reshape(rows, supers, 8, 32) | high << np.uint8(2)
    packed = raw[..., 96:108]
    sixth = (packed[..., None, 8:12] >> shifts & 3).astype(np.uint8).reshape(rows, supers, 16)
    scales: Bytes = ((_split_nibbles(packed[..., :8]) | sixth << np.uint8(4)) - np.uint8(32)).reshape(
        rows, supers * 8, 2
    )
    return Blocks(quants.reshape(rows, supers * 8, 32), (scales[..., 0:1], scales[..., 1:2]), (raw[..., 108:110],))


_READERS: Mapping[str, Callable[[Bytes, WeightFormat], Blocks]] = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"), _read_legacy),
    **dict.fromkeys(("Q4_K", "Q5_K"), _read_k),
    "Q6_K": _read_q6_k,
    "Q3_K": _read_q3_k,
}
"""How the GGUF's blocks are taken apart, uint8[rows, blocks, bytes], by the type's name."""


def read_blocks(raw: Bytes, weights: WeightFormat) -> Blocks:
    """Take rows of a quantized type apart.

    Args:
        raw: uint8[rows, row_bytes].
    """
    return _READERS[weights.name](raw.reshape(raw.shape[0], -1, weights.gguf_bytes), weights)
