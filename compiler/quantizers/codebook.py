"""IQ4_NL and IQ4_XS: four bits that choose one of sixteen values, which lie closer together near zero.

Source: `block_iq4_nl`, `block_iq4_xs` and `kvalues_iq4nl` in ggml's `ggml-common.h` (the layout; our own search).
"""

from __future__ import annotations

import numpy as np

from .fit import Floats, total
from .k_quants import Bytes, grouped, half, whole_scales

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_FINE = 8  # steps of the table between integers
# Which of the values is nearest to each eighth of an integer from -128 on, and a sixteenth above it.
_NEAREST = np.abs(((np.arange(256 * _FINE) + 0.5) / _FINE - 128)[:, None] - VALUES).argmin(axis=1).astype(np.uint8)
# How far from the first value the largest weight of a block may lie: each is tried.
_STEPS = np.linspace(-7, 7, 15, dtype=np.float32)


def _nearest(x: Floats, inverse: Floats) -> Bytes:
    """Return which of the values is nearest to each x * inverse."""
    place = np.floor((x * inverse + np.float32(128)) * np.float32(_FINE))
    found: Bytes = _NEAREST[np.clip(place, 0, 256 * _FINE - 1).astype(np.int16)]
    return found


def _inverse(scale: Floats) -> Floats:
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    return np.nan_to_num(inverse).astype(np.float32)


def fit_codebook(x: Floats, weight: Floats) -> Floats:
    """Return the scale of each group, which may be negative, for which scale * value comes closest.

    Args:
        x: float32[elements, groups].
        weight: of squared errors, of the same shape.
    """
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    best: Floats = np.zeros_like(peak)
    gained, weighed = np.zeros_like(peak), weight * x
    for step in _STEPS:
        value = VALUES[_nearest(x, _inverse(peak) * (VALUES[0] + step))]
        product, square = total(weighed * value), total(weight * value * value)
        scale = np.where(square > 0, product / np.maximum(square, np.float32(1e-30)), np.float32(0)).astype(np.float32)
        gain = product * scale  # by how much the squared error falls
        better = gain > gained
        best, gained = np.where(better, scale, best), np.where(better, gain, gained)
    return best


def _nibbles(quants: Bytes) -> Bytes:
    """uint8[32, blocks] -> [blocks, 16]: columns 0 to 15 in the low halves."""
    return np.ascontiguousarray((quants[:16] | quants[16:] << np.uint8(4)).T)


def quantize_iq4_nl(values: Floats, weight: Floats) -> Bytes:
    """Return rows of IQ4_NL: blocks of 32 with a scale.

    Args:
        values: float32[rows, columns].
        weight: of squared errors, of the same shape.
    """
    x = grouped(values, 32)
    d_bytes, d = half(fit_codebook(x, grouped(weight, 32)))
    return np.concatenate([d_bytes, _nibbles(_nearest(x, _inverse(d)))], axis=1).reshape(len(values), -1)


def quantize_iq4_xs(values: Floats, weight: Floats) -> Bytes:
    """Return rows of IQ4_XS: superblocks of 8 such blocks, with scales of 6 bits; arguments as `quantize_iq4_nl`."""
    x = grouped(values, 32)
    scales = fit_codebook(x, grouped(weight, 32)).reshape(-1, 8)
    peak = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)[:, 0]
    d_bytes, d = half(peak / np.float32(-32))
    of_scale = whole_scales(scales, d, -32, 31)
    kept = (d[:, None] * of_scale.astype(np.float32)).reshape(-1)
    quants = _nibbles(_nearest(x, _inverse(kept))).reshape(-1, 128)
    raised = (of_scale + 32).astype(np.uint16)
    low = (raised[:, ::2] & 15 | (raised[:, 1::2] & 15) << 4).astype(np.uint8)
    high = np.bitwise_or.reduce((raised >> 4) << np.arange(0, 16, 2, dtype=np.uint16), axis=1).astype("<u2")
    fields = (d_bytes, high.view(np.uint8).reshape(-1, 2), low, quants)
    return np.concatenate(fields, axis=1).reshape(len(values), -1)
