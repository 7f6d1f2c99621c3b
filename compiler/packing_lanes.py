"""Weights into the order in which the GPU kernels read them: packing "lanes32", without loss.

Mirrors kernels/hip/weights_quantized.h and weights_float.h, which say what each byte is: rows in tiles of 32, lane r of
a load is row r, and a load takes 16, 8 or 4 neighbouring bytes a lane.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..artifacts.formats import FORMATS, WeightFormat
from ..artifacts.packing_sizes import LANE_PIECE_BYTES as PIECE_BYTES
from ..artifacts.packing_sizes import LANE_ROWS
from .blocks import Blocks, Bytes, read_blocks, whole_tiles


def pack_lanes(raw: Bytes, ggml_type: str, columns: int) -> Bytes:
    """Pack whole rows into tiles of 32; a last short tile is filled up with zero rows.

    Args:
        raw: uint8[rows, row_bytes], the tensor's bytes as in the GGUF.
        ggml_type: one of `FORMATS`.
        columns: elements of a row.
    Returns:
        uint8[tiles, tile_bytes].
    """
    weights, raw = FORMATS[ggml_type], whole_tiles(raw, LANE_ROWS)
    tiles = raw.shape[0] // LANE_ROWS
    if weights.is_float:
        rest = -columns * weights.gguf_bytes % PIECE_BYTES
        if rest:
            raw = np.concatenate([raw, np.zeros((raw.shape[0], rest), np.uint8)], axis=1)
        pieces = raw.reshape(tiles, LANE_ROWS, raw.shape[1] // PIECE_BYTES, PIECE_BYTES)
        return np.ascontiguousarray(pieces.transpose(0, 2, 1, 3)).reshape(tiles, -1)
    blocks = read_blocks(raw, weights)
    quants, high = _split_quants(blocks.quants, weights.bits)
    scales = np.concatenate((quants[..., :0], *blocks.block_scales), axis=-1)
    heads = [_by_lane(_super_scales(blocks, weights), tiles)] if weights.has_superblocks else []
    if weights.scale_bytes == 1:  # of a superblock's 8 blocks side by side: a byte a lane would be half a line
        heads.append(_by_lane(scales.reshape(len(raw), -1, 8), tiles))
        scales = scales[..., :0]
    chunks = _chunks(scales, quants, high, tiles)
    if heads:
        chunks = np.concatenate((*heads, chunks.reshape(tiles, heads[0].shape[1], -1)), axis=-1)
    return chunks.reshape(tiles, -1)


def _super_scales(blocks: Blocks, weights: WeightFormat) -> Bytes:
    """uint8[rows, superblocks, 4]: scale and minimum, or the scale widened to float32, halved as often as the type has
    it; so that superblocks are multiples of 128 bytes."""
    supers = np.concatenate(blocks.super_scales, axis=-1)
    if weights.super_scale_bytes == 4:
        return supers
    widened = supers.copy().view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):  # a scale that is not a number
        halved = np.ldexp(widened, -weights.halvings) if weights.halvings else widened
    return halved.view(np.uint8)


def _split_quants(quants: Bytes, bits: int) -> tuple[Bytes, Bytes]:
    """uint8[rows, blocks, 32] to the bytes of the 16-byte pieces and of the high bits, [rows, blocks, bytes]."""
    if bits == 8:
        return quants, quants[..., :0]
    if bits == 1:
        return quants[..., :0], _single_bits(quants)
    if bits < 4:
        high = quants >> np.uint8(2)
        return _pairs(quants), _single_bits(high) if bits == 3 else quants[..., :0]
    nibbles = quants[..., :16] & np.uint8(15) | (quants[..., 16:] & np.uint8(15)) << np.uint8(4)
    if bits == 5:
        return nibbles, _single_bits(quants >> np.uint8(4))
    return nibbles, _pairs(quants >> np.uint8(4)) if bits == 6 else quants[..., :0]


def _single_bits(bits: Bytes) -> Bytes:
    """uint8[rows, blocks, 32] of ones and zeros to [rows, blocks, 4]: bit v of byte b is column 4 * v + b."""
    return _or_shifted(np.ascontiguousarray(bits).view(np.uint32), 1).view(np.uint8)


def _pairs(quants: Bytes) -> Bytes:
    """Two low bits of uint8[rows, blocks, 32] to [rows, blocks, 8]: bits 2v, 2v+1 of byte 4i+b are column 16i+4v+b."""
    words = (quants & 3).view(np.uint32).reshape(*quants.shape[:2], 2, 4)
    return _or_shifted(words, 2).view(np.uint8).reshape(*quants.shape[:2], 8)


def _or_shifted(words: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.uint32]:
    """uint32[..., n] of four small numbers each to [..., 1]: number v of each n stands `width` * v bits higher."""
    found = words[..., :1].copy()
    for v in range(1, words.shape[-1]):
        found |= words[..., v : v + 1] << (width * v)
    return found


def _chunks(scales: Bytes, quants: Bytes, high: Bytes, tiles: int) -> Bytes:
    """Chunks of two blocks, the last one of a row perhaps of one. Returns uint8[tiles, bytes]."""
    even = scales.shape[1] // 2 * 2
    parts = []
    if even:
        parts.append(_chunk_part(scales[:, :even], quants[:, :even], high[:, :even], tiles, 2))
    if even < scales.shape[1]:
        parts.append(_chunk_part(scales[:, even:], quants[:, even:], high[:, even:], tiles, 1))
    return np.concatenate(parts, axis=1)


def _chunk_part(scales: Bytes, quants: Bytes, high: Bytes, tiles: int, width: int) -> Bytes:
    def merged(field: Bytes) -> Bytes:  # the blocks of a chunk side by side
        return field.reshape(field.shape[0], field.shape[1] // width, width * field.shape[2])

    _, blocks, n_bytes = quants.shape
    pieces = quants.reshape(tiles, LANE_ROWS, blocks // width, width * n_bytes // PIECE_BYTES, PIECE_BYTES)
    by_piece = pieces.transpose(0, 2, 3, 1, 4).reshape(tiles, blocks // width, -1)
    fields = (_by_lane(merged(scales), tiles), by_piece, _by_lane(merged(high), tiles))
    return np.concatenate(fields, axis=-1).reshape(tiles, -1)


def _by_lane(field: Bytes, tiles: int) -> Bytes:
    """uint8[rows, units, width] -> [tiles, units, 32 * width]: one field of 32 rows side by side."""
    _, units, width = field.shape
    lanes = field.reshape(tiles, LANE_ROWS, units, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(lanes).reshape(tiles, units, LANE_ROWS * width)


def interleave_lane_pairs(gate: Bytes, up: Bytes) -> Bytes:
    """Tiles of gate and up in turn: what kernels/hip/gemv.h reads for GATE_UP.

    Args:
        gate, up: uint8[tiles, tile_bytes].
    """
    return np.stack([gate, up], axis=1).reshape(-1, gate.shape[1])
