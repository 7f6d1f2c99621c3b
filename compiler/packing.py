"""Weights into the order in which the kernels read them: packing "rows16", without loss.

Mirrors kernels/host/weights_quantized.h and weights_float.h, which say what each byte is.
"""

from __future__ import annotations

import numpy as np

from ..artifacts.formats import FORMATS, WeightFormat
from ..artifacts.packing_sizes import TILE_ROWS
from .blocks import Bytes, read_blocks, whole_tiles


def _write_nibbles(vectors: Bytes) -> Bytes:
    """uint8[tiles, blocks, 8, 64] -> [tiles, blocks, 256]."""
    low: Bytes = vectors[:, :, :4] & np.uint8(15)
    high: Bytes = vectors[:, :, 4:] << np.uint8(4)
    return _flat(low | high)


def _write_bit(vectors: Bytes, bit: int) -> Bytes:
    """Bit v of a byte: that bit of vector v. -> [tiles, blocks, 64]."""
    bits: Bytes = vectors >> np.uint8(bit) & np.uint8(1)
    found: Bytes = bits[:, :, 0].copy()
    for v in range(1, 8):
        found |= bits[:, :, v] << np.uint8(v)
    return found


def _write_pairs(vectors: Bytes, bit: int) -> Bytes:
    """Bits 2v and 2v+1: the two bits from that one on of vector v, then of v+4. -> [tiles, blocks, 128]."""
    pairs: Bytes = (vectors >> np.uint8(bit) & np.uint8(3)).reshape(*vectors.shape[:2], 2, 4, 64)
    return _flat(
        pairs[..., 0, :]
        | pairs[..., 1, :] << np.uint8(2)
        | pairs[..., 2, :] << np.uint8(4)
        | pairs[..., 3, :] << np.uint8(6)
    )


def _write_thirds(vectors: Bytes) -> Bytes:
    """Bits 0..2 and 4..6 of three times 64 bytes: vectors 0 to 5; bits 3 and 7: the bits of 6 and 7, the highest first.

    Returns [tiles, blocks, 192].
    """
    low, high = vectors[:, :, 0:6:2], vectors[:, :, 1:6:2]
    bits = (vectors[:, :, 6:, None] >> np.array([2, 1, 0], np.uint8).reshape(3, 1) & np.uint8(1)).astype(np.uint8)
    packed: Bytes = low | high << np.uint8(4) | bits[:, :, 0] << np.uint8(3) | bits[:, :, 1] << np.uint8(7)
    return _flat(packed)


def _flat(array: Bytes) -> Bytes:
    return np.ascontiguousarray(array).reshape(array.shape[0], array.shape[1], -1)


def _write_quants(vectors: Bytes, bits: int) -> tuple[Bytes, ...]:
    """uint8[tiles, blocks, 8, 64] to what the kernel's unpack_quants reads."""
    if bits == 8:
        return (_flat(vectors),)
    if bits == 1:
        return (_write_bit(vectors, 0),)
    if bits == 3:
        return (_write_thirds(vectors),)
    low = _write_pairs(vectors, 0) if bits < 4 else _write_nibbles(vectors)
    if bits == 6:
        return low, _write_pairs(vectors, 4)
    return (low, _write_bit(vectors, bits - 1)) if bits % 2 else (low,)


def pack_rows(raw: Bytes, ggml_type: str, columns: int) -> Bytes:
    """Pack whole rows into tiles of 16; a last short tile is filled up with zero rows.

    Args:
        raw: uint8[rows, row_bytes], the tensor's bytes as in the GGUF.
        ggml_type: one of `FORMATS`.
        columns: elements of a row.
    Returns:
        uint8[tiles, tile_bytes].
    """
    weights, raw = FORMATS[ggml_type], whole_tiles(raw, TILE_ROWS)
    if weights.is_float:
        elements = np.ascontiguousarray(raw).view(f"u{weights.gguf_bytes}").reshape(-1, TILE_ROWS, columns)
        tiles: Bytes = np.ascontiguousarray(elements.transpose(0, 2, 1)).view(np.uint8)
        return tiles.reshape(len(tiles), -1)
    return _pack_quantized(raw, weights)


def _pack_quantized(raw: Bytes, weights: WeightFormat) -> Bytes:
    tiles = raw.shape[0] // TILE_ROWS
    blocks = read_blocks(raw, weights)
    num_blocks = blocks.quants.shape[1]
    fours = np.ascontiguousarray(blocks.quants).view(np.uint32)  # quants that stay together: moved as one
    vectors = np.ascontiguousarray(fours.reshape(tiles, TILE_ROWS, num_blocks, 8).transpose(0, 2, 3, 1))
    quants = _write_quants(vectors.view(np.uint8), weights.bits)
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
