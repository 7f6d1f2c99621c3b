"""Rows of a GGUF's quantized tensors taken apart into quants and scales, without loss.

Formats of the blocks: ggml's `ggml-common.h` as documented by the `gguf` package's `quants` module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artifacts.dataclass import dataclass
from ..artifacts.formats import WeightFormat
from .grids import expand_signs, grid

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows of blocks of 32 columns, taken apart.

    Attributes:
        quants: uint8[rows, blocks, 32], unsigned (or two's complement for Q8_0); entries of the codebook where there is
            one.
        block_scales: bytes of each block that follow or precede its quants, one array a field,
            uint8[rows, blocks, width].
        super_scales: the same for each 8 blocks, uint8[rows, blocks / 8, width].
    """

    quants: Bytes
    block_scales: tuple[Bytes, ...]
    super_scales: tuple[Bytes, ...] = ()


def whole_tiles(raw: Bytes, tile_rows: int) -> Bytes:
    """Return rows filled up with zero rows to whole tiles: uint8[rows, row_bytes]."""
    padding = -raw.shape[0] % tile_rows
    return np.concatenate([raw, np.zeros((padding, raw.shape[1]), np.uint8)]) if padding else raw


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
    nibbles = np.ascontiguousarray(raw[..., 16 + 32 * fifth :]).reshape(rows, supers, 4, 32)
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


def _pairs_of_bits(packed: Bytes) -> Bytes:
    """uint8[rows, supers, 64], pairs of bits of four blocks in each byte, to [rows, 8 * supers, 32]."""
    rows, supers, _ = packed.shape
    shifts: Bytes = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    return (packed.reshape(rows, supers, 2, 1, 32) >> shifts & np.uint8(3)).reshape(rows, supers * 8, 32)


def _read_q2_k(raw: Bytes, _: WeightFormat) -> Blocks:
    """Q2_K: 16 bytes of a 4-bit scale and a 4-bit minimum, 64 of pairs, d, dmin."""
    scales = raw[..., :16].reshape(raw.shape[0], -1, 2)
    fields = (scales[..., 0:1], scales[..., 1:2])
    return Blocks(_pairs_of_bits(raw[..., 16:80]), fields, (raw[..., 80:82], raw[..., 82:84]))


def _read_iq4_xs(raw: Bytes, _: WeightFormat) -> Blocks:
    """IQ4_XS: d, 8 high pairs of bits of the scales, which stand 32 too high, 8 low nibbles, 128 bytes of nibbles."""
    rows, supers, _bytes = raw.shape
    low = np.stack([raw[..., 4:8] & np.uint8(15), raw[..., 4:8] >> 4], axis=-1).reshape(rows, -1, 1)
    shifts: Bytes = np.array([0, 2, 4, 6], np.uint8)
    high = (raw[..., 2:4, None] >> shifts & np.uint8(3)).reshape(rows, -1, 1)
    scales = (low | high << np.uint8(4)) - np.uint8(32)
    return Blocks(_split_nibbles(raw[..., 8:].reshape(rows, supers * 8, 16)), (scales,), (raw[..., 0:2],))


def _read_mxfp4(raw: Bytes, _: WeightFormat) -> Blocks:
    """MXFP4: e, 16 bytes of nibbles. The scale is half of 2^(e - 127)."""
    exponents = raw[..., 0:1].astype(np.uint16)
    halves = np.where(exponents < 2, np.uint16(0x20) << exponents, (exponents - np.uint16(1)) << np.uint16(7))
    return Blocks(_split_nibbles(raw[..., 1:]), (halves.astype("<u2").view(np.uint8),))


def _read_nvfp4(raw: Bytes, _: WeightFormat) -> Blocks:
    """NVFP4: 4 scales of 16 columns each, 4 times 8 bytes of nibbles. The sign of a scale is not looked at, but that
    0x7f, which is not a number, stands for 0."""
    rows = raw.shape[0]
    scales = np.where(raw[..., 0:4] == 127, np.uint8(0), raw[..., 0:4] & np.uint8(127)).reshape(rows, -1, 2)
    quants = _split_nibbles(raw[..., 4:].reshape(rows, -1, 8)).reshape(rows, -1, 32)
    return Blocks(quants, (scales[..., 0:1], scales[..., 1:2]))


def _with_signs(weights: WeightFormat, points: Words, signs: Bytes) -> Bytes:
    """Points of the grid, [rows, ...] in order, with bytes of 8 signs: codes uint8[rows, blocks, 32]."""
    codes = grid(weights.name)[points].reshape(len(points), -1, 32)
    return codes | _bits(signs.reshape(len(signs), -1, 4)) << np.uint8(weights.bits - 1)


def _words(raw: Bytes, kind: str) -> Words:
    """Little-endian numbers of `kind`, along the last axis."""
    return np.ascontiguousarray(raw).view(kind).astype(np.uint32)


_SIGN_SHIFTS: Words = np.array([0, 7, 14, 21], np.uint32)


def _read_iq_xxs(raw: Bytes, weights: WeightFormat) -> Blocks:
    """IQ2_XXS, IQ3_XXS: d, then of 32 columns 4 or 8 points and a word of four times 7 bits of signs and the scale;
    IQ3_XXS has all words last."""
    rows, supers, _ = raw.shape
    if weights.bits == 3:
        pieces = raw[..., 2:].reshape(rows, supers, 8, 8)
        points, words = pieces[..., :4], _words(pieces[..., 4:], "<u4")[..., 0]
    else:
        points, words = raw[..., 2:66], _words(raw[..., 66:], "<u4")
    scales = (2 * (words >> 28) + 1).astype(np.uint8).reshape(rows, -1, 1)
    quants = _with_signs(weights, points.astype(np.uint32), expand_signs(words[..., None] >> _SIGN_SHIFTS))
    return Blocks(quants, (scales,), (raw[..., 0:2],))


def _read_iq2_xs(raw: Bytes, weights: WeightFormat) -> Blocks:
    """IQ2_XS: d, 32 words of 9 bits of a point and 7 of signs, 8 bytes of two 4-bit scales."""
    words = _words(raw[..., 2:66], "<u2")
    quants = _with_signs(weights, words & 511, expand_signs(words >> 9))
    return Blocks(quants, (raw[..., 66:74].reshape(len(raw), -1, 1),), (raw[..., 0:2],))


def _read_iq2_s(raw: Bytes, weights: WeightFormat) -> Blocks:
    """IQ2_S: d, 32 bytes of points, 32 of signs, 8 of high pairs of bits of the points, 8 of two 4-bit scales."""
    shifts: Words = np.array([0, 2, 4, 6], np.uint32)
    high = (raw[..., 66:74, None] >> shifts & 3).reshape(*raw.shape[:2], 32)
    quants = _with_signs(weights, raw[..., 2:34] | high << 8, raw[..., 34:66])
    return Blocks(quants, (raw[..., 74:82].reshape(len(raw), -1, 1),), (raw[..., 0:2],))


def _read_iq3_s(raw: Bytes, weights: WeightFormat) -> Blocks:
    """IQ3_S: d, 64 bytes of points, 8 of their high bits, 32 of signs, 8 4-bit scales."""
    points = raw[..., 2:66] | _bits(raw[..., 66:74]).astype(np.uint32) << 8
    nibbles = np.stack([raw[..., 106:110] & np.uint8(15), raw[..., 106:110] >> 4], axis=-1)
    scales = (2 * nibbles + 1).astype(np.uint8).reshape(len(raw), -1, 1)
    return Blocks(_with_signs(weights, points, raw[..., 74:106]), (scales,), (raw[..., 0:2],))


def _read_iq1_s(raw: Bytes, weights: WeightFormat) -> Blocks:
    """IQ1_S: d, 32 bytes of points, 8 words of four times 3 high bits of the points, a 3-bit scale and which eighth."""
    words = _words(raw[..., 34:50], "<u2").reshape(*raw.shape[:2], 8, 1)
    high = (words >> np.array([0, 3, 6, 9], np.uint32) & 7).reshape(*raw.shape[:2], 32)
    quants = grid(weights.name)[raw[..., 2:34] | high << 8].reshape(len(raw), -1, 32)
    scales, groups = (words >> 12 & 7) * 17, (words >> 15) * 15
    fields = tuple(field.astype(np.uint8).reshape(len(raw), -1, 1) for field in (scales, groups))
    return Blocks(quants, fields, (raw[..., 0:2],))


def _read_iq1_m(raw: Bytes, weights: WeightFormat) -> Blocks:
    """IQ1_M: 32 bytes of points, 32 nibbles of 3 high bits of a point and which eighth, 4 words of four 3-bit scales
    and 4 bits of d."""
    rows, supers, _ = raw.shape
    nibbles = np.stack([raw[..., 32:48] & np.uint8(15), raw[..., 32:48] >> 4], axis=-1).reshape(rows, supers, 32)
    quants = grid(weights.name)[raw[..., :32] | (nibbles & 7).astype(np.uint32) << 8].reshape(rows, -1, 32)
    words = _words(raw[..., 48:56], "<u2")
    steps = (words[..., None] >> np.array([0, 3, 6, 9], np.uint32) & 7).reshape(rows, -1, 2)
    groups = np.packbits((nibbles >> 3).reshape(rows, -1, 4), axis=-1, bitorder="little")
    factors = np.bitwise_or.reduce(words >> 12 << np.array([0, 4, 8, 12], np.uint32), axis=-1, keepdims=True)
    scales = (steps[..., 0:1] | steps[..., 1:2] << 4).astype(np.uint8)
    return Blocks(quants, (scales, groups), (factors.astype("<u2").view(np.uint8),))


def _read_tq1_0(raw: Bytes, _: WeightFormat) -> Blocks:
    """TQ1_0: 32, 16 and 4 bytes of digits to base 3, the first in the first bytes' highest, d.

    A byte b stands for b / 256: three times it has the first digit before the point.
    """
    parts = []
    for start, end, digits in ((0, 32, 5), (32, 48, 5), (48, 52, 4)):
        powers = np.array([3**digit for digit in range(digits)], np.uint8).reshape(-1, 1)
        rest = (raw[..., None, start:end] * powers).astype(np.uint16)  # the lowest byte: digits before are gone
        parts.append((rest * 3 >> 8).astype(np.uint8).reshape(*raw.shape[:2], -1))
    return Blocks(np.concatenate(parts, axis=-1).reshape(len(raw), -1, 32), (), (raw[..., 52:54],))


def _read_tq2_0(raw: Bytes, _: WeightFormat) -> Blocks:
    """TQ2_0: 64 bytes of pairs, d."""
    return Blocks(_pairs_of_bits(raw[..., :64]), (), (raw[..., 64:66],))


def _read_q1_0(raw: Bytes, _: WeightFormat) -> Blocks:
    """Q1_0: d, 128 bits: plus d where one is set, else minus d."""
    return Blocks(_bits(raw[..., 2:]).reshape(len(raw), -1, 32), (np.repeat(raw[..., 0:2], 4, axis=1),))


def _read_q2_0(raw: Bytes, _: WeightFormat) -> Blocks:
    """Q2_0: d, 16 bytes of four pairs of bits each, which stand 1 too high."""
    shifts: Bytes = np.array([0, 2, 4, 6], np.uint8)
    quants = (raw[..., 2:, None] >> shifts & np.uint8(3)).reshape(len(raw), -1, 32)
    return Blocks(quants, (np.repeat(raw[..., 0:2], 2, axis=1),))


_READERS: Mapping[str, Callable[[Bytes, WeightFormat], Blocks]] = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"), _read_legacy),
    **dict.fromkeys(("Q4_K", "Q5_K"), _read_k),
    "Q6_K": _read_q6_k,
    "Q3_K": _read_q3_k,
    "Q2_K": _read_q2_k,
    "IQ4_XS": _read_iq4_xs,
    "MXFP4": _read_mxfp4,
    "NVFP4": _read_nvfp4,
    **dict.fromkeys(("IQ2_XXS", "IQ3_XXS"), _read_iq_xxs),
    "IQ2_XS": _read_iq2_xs,
    "IQ2_S": _read_iq2_s,
    "IQ3_S": _read_iq3_s,
    "IQ1_S": _read_iq1_s,
    "IQ1_M": _read_iq1_m,
    "TQ1_0": _read_tq1_0,
    "TQ2_0": _read_tq2_0,
    "Q1_0": _read_q1_0,
    "Q2_0": _read_q2_0,
}
"""How the GGUF's blocks are taken apart, uint8[rows, blocks, bytes], by the type's name."""


def read_blocks(raw: Bytes, weights: WeightFormat) -> Blocks:
    """Take rows of a quantized type apart.

    Args:
        raw: uint8[rows, row_bytes].
    """
    return _READERS[weights.name](raw.reshape(raw.shape[0], -1, weights.gguf_bytes), weights)
