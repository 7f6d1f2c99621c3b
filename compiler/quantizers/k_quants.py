"""Q2_K to Q6_K: superblocks of 256 weights, whose groups of 32 or 16 have scales that are quants themselves.

Source: `block_q2_K` to `block_q6_K` in ggml's `ggml-common.h` (the layout; the search is our own).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .fit import Floats, fit_minimum, fit_symmetric, levels, total

Bytes = npt.NDArray[np.uint8]
SUPERBLOCK = 256


def grouped(values: Floats, size: int) -> Floats:
    """float32[rows, columns] -> [size, groups]: groups of neighbours, one under the other."""
    return np.ascontiguousarray(values.reshape(-1, size).T)


def half(values: Floats) -> tuple[Bytes, Floats]:
    """Return the bytes of values as float16, [n, 2], and what these are as float32."""
    with np.errstate(over="ignore"):
        kept = np.nan_to_num(values.astype("<f2"))
    return kept.view(np.uint8).reshape(-1, 2), kept.astype(np.float32)


def whole_scales(scales: Floats, step: Floats, low: int, high: int) -> npt.NDArray[np.int16]:
    """Return scales [superblocks, groups] as quants of their superblock's step."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(step == 0, np.float32(0), np.float32(1) / step).astype(np.float32)
    found: npt.NDArray[np.int16] = np.clip(np.rint(scales * np.nan_to_num(inverse)[:, None]), low, high).astype(
        np.int16
    )
    return found


def _quantize_minimum(
    values: Floats, weight: Floats, size: int, high: int, most: int
) -> tuple[tuple[Bytes, Bytes], npt.NDArray[np.int16], npt.NDArray[np.int16], Bytes]:
    """Fit groups of `size` with scales and minima of 0 to `most`, and quants of 0 to `high`.

    Returns:
        bytes of d and of dmin, scales and minima int16[n, groups], quants uint8[n, groups, size].
    """
    groups = SUPERBLOCK // size
    x, w = grouped(values, size), grouped(weight, size)
    scale, minimum = fit_minimum(x, w, high, at_most_zero=True)
    scales, minima = scale.reshape(-1, groups), -minimum.reshape(-1, groups)
    d_bytes, d = half(scales.max(axis=1) / np.float32(most))
    m_bytes, m = half(minima.max(axis=1) / np.float32(most))
    of_scale, of_minimum = whole_scales(scales, d, 0, most), whole_scales(minima, m, 0, most)
    kept_scale = (d[:, None] * of_scale.astype(np.float32)).reshape(-1)
    kept_minimum = -(m[:, None] * of_minimum.astype(np.float32)).reshape(-1)
    # The minimum that fits the scale as it is kept, and the quants that come with both.
    first = levels(x, kept_scale, kept_minimum, 0, high).astype(np.float32)
    middle = total(w * (kept_scale * first - x)) / np.maximum(total(w), np.float32(1e-30))
    of_minimum = whole_scales(middle.astype(np.float32).reshape(-1, groups), m, 0, most)
    kept_minimum = -(m[:, None] * of_minimum.astype(np.float32)).reshape(-1)
    quants = levels(x, kept_scale, kept_minimum, 0, high).T.reshape(-1, groups, size).astype(np.uint8)
    return (d_bytes, m_bytes), of_scale, of_minimum, quants


def quantize_k_minimum(values: Floats, weight: Floats, bits: int) -> Bytes:
    """Return rows of Q4_K or Q5_K: 8 groups of 32, with scales and minima of 6 bits.

    Args:
        values: float32[rows, columns].
        weight: of squared errors, of the same shape.
        bits: 4 or 5.
    """
    both, scales, minima, quants = _quantize_minimum(values, weight, 32, (1 << bits) - 1, 63)
    fields = [*both, _six_bits(scales.astype(np.uint8), minima.astype(np.uint8))]
    if bits == 5:
        fields.append(_bit_of_groups(quants >> np.uint8(4)))
    pairs = quants.reshape(-1, 4, 2, 32) & np.uint8(15)
    fields.append((pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)).reshape(-1, 128))
    return np.concatenate(fields, axis=1).reshape(len(values), -1)


def quantize_q2_k(values: Floats, weight: Floats) -> Bytes:
    """Return rows of Q2_K: 16 groups of 16, with scales and minima of 4 bits; arguments as `quantize_k_minimum`."""
    both, scales, minima, quants = _quantize_minimum(values, weight, 16, 3, 15)
    fields = ((scales | minima << 4).astype(np.uint8), _four_in_a_byte(quants.reshape(-1, SUPERBLOCK)), *both)
    return np.concatenate(fields, axis=1).reshape(len(values), -1)


def _four_in_a_byte(quants: Bytes) -> Bytes:
    """uint8[n, 256] of 0 to 3 -> [n, 64]: of each half, column c and those 32, 64 and 96 behind it."""
    quarters = quants.reshape(-1, 2, 4, 32)
    pairs: Bytes = (quarters << np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)).astype(np.uint8)
    found: Bytes = np.bitwise_or.reduce(pairs, axis=2)
    return found.reshape(-1, 64)


def _six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """uint8[n, 8] twice -> [n, 12]: the first four of each whole, the others' high bits above those."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minima[:, :4] | minima[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4], axis=1)


def _bit_of_groups(bits: Bytes) -> Bytes:
    """uint8[n, 8, 32] of ones and zeros -> [n, 32]: bit g of byte c is that of column c of group g."""
    return np.packbits(bits, axis=1, bitorder="little")[:, 0]


def _quantize_k_symmetric(
    values: Floats, weight: Floats, low: int, scale_low: int
) -> tuple[Bytes, npt.NDArray[np.int16], Bytes]:
    """Fit 16 groups of 16; returns d's bytes, scales int16[n, 16], and quants raised by -low, uint8[n, 256]."""
    x = grouped(values, 16)
    scales = fit_symmetric(x, grouped(weight, 16), low, -low - 1).reshape(-1, 16)
    peak = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)[:, 0]
    d_bytes, d = half(peak / np.float32(scale_low))
    of_scale = whole_scales(scales, d, scale_low, -scale_low - 1)
    kept = (d[:, None] * of_scale.astype(np.float32)).reshape(-1)
    quants = levels(x, kept, 0.0, low, -low - 1)
    return d_bytes, of_scale, (quants - low).T.reshape(-1, SUPERBLOCK).astype(np.uint8)


def quantize_q6_k(values: Floats, weight: Floats) -> Bytes:
    """Return rows of Q6_K; arguments as `quantize_k_minimum`."""
    d_bytes, scales, quants = _quantize_k_symmetric(values, weight, -32, -128)
    quarters = quants.reshape(-1, 2, 4, 32)
    low = quarters & 15
    nibbles = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], axis=2)
    high = quarters >> 4
    pairs = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    fields = (nibbles.reshape(-1, 128), pairs.reshape(-1, 64), scales.astype(np.int8).view(np.uint8), d_bytes)
    return np.concatenate(fields, axis=1).reshape(len(values), -1)


def quantize_q3_k(values: Floats, weight: Floats) -> Bytes:
    """Return rows of Q3_K; arguments as `quantize_k_minimum`."""
    d_bytes, scales, quants = _quantize_k_symmetric(values, weight, -4, -32)
    third = _bit_of_groups((quants >> np.uint8(2)).reshape(-1, 8, 32))
    raised = (scales + 32).astype(np.uint8)
    low = raised[:, :8] & 15 | (raised[:, 8:] & 15) << 4
    top = (raised >> 4).reshape(-1, 4, 4)
    high = top[:, 0] | top[:, 1] << 2 | top[:, 2] << 4 | top[:, 3] << 6
    fields = (third, _four_in_a_byte(quants & np.uint8(3)), low, high, d_bytes)
    return np.concatenate(fields, axis=1).reshape(len(values), -1)
