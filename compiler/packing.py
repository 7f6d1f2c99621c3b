"""Weights into the order in which the kernels read them: packing "rows16", without loss.

Mirrors kernels/host/weights_quantized.h and weights_float.h, which say what each byte is. Formats of the
blocks on the GGUF side: ggml's `ggml-common.h` as documented by the `gguf` package's `quants` module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..artifacts.formats import FORMATS, WeightFormat
from ..artifacts.packing_sizes import TILE_ROWS

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


def _write_nibbles(vectors: Bytes) -> Bytes:
    """uint8[tiles, blocks, 8, 64] -> [tiles, blocks, 256]."""
    low: Bytes = vectors[:, :, :4] & np.uint8(15)
    high: Bytes = vectors[:, :, 4:] << np.uint8(4)
    return _flat(low | high)


def _write_bit(vectors: Bytes, bit: int) -> Bytes:
    """Bit v of a byte: that bit of vector v. -> [tiles, blocks, 64]."""
    return np.packbits(vectors >> bit & 1, axis=2, bitorder="little")[:, :, 0]


def _write_pairs(vectors: Bytes, bit: int) -> Bytes:
    """Bits 2v and 2v+1: the two bits from that one on of vector v, then of v+4. -> [tiles, blocks, 128]."""
    pairs = (vectors >> bit & 3).reshape(*vectors.shape[:2], 2, 4, 64)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    shifted: Bytes = (pairs << shifts).astype(np.uint8)
    return _flat(np.bitwise_or.reduce(shifted, axis=3))


def _flat(array: Bytes) -> Bytes:
    return np.ascontiguousarray(array).reshape(array.shape[0], array.shape[1], -1)


def _write_quants(vectors: Bytes, bits: int) -> tuple[Bytes, ...]:
    """uint8[tiles, blocks, 8, 64] to what the kernel's unpack_quants reads."""
    if bits == 8:
        return (_flat(vectors),)
    low = _write_pairs(vectors, 0) if bits < 4 else _write_nibbles(vectors)
    if bits == 6:
        return low, _write_pairs(vectors, 4)
    return (low, _write_bit(vectors, bits - 1)) if bits % 2 else (low,)


_READERS: Mapping[str, Callable[[Bytes, WeightFormat], Blocks]] = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"), _read_legacy),
    **dict.fromkeys(("Q4_K", "Q5_K"), _read_k),
    "Q6_K": _read_q6_k,
    "Q3_K": _read_q3_k,
}
"""How the GGUF's blocks are taken apart, uint8[rows, blocks, bytes], by the type's name."""


def pack_rows(raw: Bytes, ggml_type: str, columns: int) -> Bytes:
    """Pack whole rows into tiles of 16; a last short tile is filled up with zero rows.

    Args:
        raw: uint8[rows, row_bytes], the tensor's bytes as in the GGUF.
        ggml_type: one of `FORMATS`.
        columns: elements of a row.
    Returns:
        uint8[tiles, tile_bytes].
    """
    weights = FORMATS[ggml_type]
    padding = -raw.shape[0] % TILE_ROWS
    if padding:
        raw = np.concatenate([raw, np.zeros((padding, raw.shape[1]), np.uint8)])
    if weights.is_float:
        elements = raw.reshape(-1, TILE_ROWS, columns, weights.gguf_bytes)
        return np.ascontiguousarray(elements.transpose(0, 2, 1, 3)).reshape(elements.shape[0], -1)
    return _pack_quantized(raw, weights)


def read_blocks(raw: Bytes, weights: WeightFormat) -> Blocks:
    """Take rows of a quantized type apart.

    Args:
        raw: uint8[rows, row_bytes].
    """
    return _READERS[weights.name](raw.reshape(raw.shape[0], -1, weights.gguf_bytes), weights)


def _pack_quantized(raw: Bytes, weights: WeightFormat) -> Bytes:
    tiles = raw.shape[0] // TILE_ROWS
    blocks = read_blocks(raw, weights)
    num_blocks = blocks.quants.shape[1]
    vectors = blocks.quants.reshape(tiles, TILE_ROWS, num_blocks, 8, 4).transpose(0, 2, 3, 1, 4)
    quants = _write_quants(np.ascontiguousarray(vectors).reshape(tiles, num_blocks, 8, 64), weights.bits)
    fields = tuple(_interleave(field) for field in blocks.block_scales)
    packed = np.concatenate((*fields, *quants) if weights.has_superblocks else (*quants, *fields), axis=-1)
    if weights.has_superblocks:
        inner = packed.reshape(tiles, num_blocks // 8, -1)
        packed = np.concatenate((*(_interleave(field) for field in blocks.super_scales), inner), axis=-1)
    return packed.reshape(tiles, -1)


def _interleave(field: Bytes) -> Bytes:
    """uint8[rows, blocks, width] -> [tiles, blocks, 16 * width]: one field of 16 rows side by side."""
    rows, blocks, width = field.shape
    tiles = field.reshape(rows // TILE_ROWS, TILE_ROWS, blocks, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiles).reshape(rows // TILE_ROWS, blocks, TILE_ROWS * width)


def interleave_pairs(gate: Bytes, up: Bytes) -> Bytes:
    """Tiles of gate and up in turn, two of each: what kernels/host/gate_up.h reads.

    Args:
        gate, up: uint8[tiles, tile_bytes], an even number of tiles.
    """
    width = gate.shape[1]
    return np.concatenate([gate.reshape(-1, 2, width), up.reshape(-1, 2, width)], axis=1).reshape(-1, width)
