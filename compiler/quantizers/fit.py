"""Scales of small groups of weights by least squares: the search under all types that are not simply rounded.

Groups stand in columns, float32[elements, groups], and sums go down them element by element: each step is a whole
NumPy operation on float32, so that every machine rounds alike and a bundle is the same wherever it is compiled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# How far the largest weight of a group may lie from the last level, in levels: each is tried.
_STEPS = np.linspace(-1.0, 1.0, 15, dtype=np.float32)


def total(values: Floats) -> Floats:
    """Return the sums of columns, in one order."""
    found: Floats = values[0].copy()
    for row in values[1:]:
        found += row
    return found


def fit_symmetric(x: Floats, weight: Floats, low: int, high: int) -> Floats:
    """Return the scale of each group, which may be negative, for which scale * quant comes closest.

    Args:
        x: float32[elements, groups].
        weight: of each squared error, [elements, groups] or [elements, 1].
        low, high: of quants; `low` is -high or one less, so that the largest weight may take the longer side.
    Returns:
        float32[groups]; 0 where all of a group are 0.
    """
    largest = np.abs(x).argmax(axis=0)
    peak = np.take_along_axis(x, largest[None], axis=0)[0]
    best: Floats = np.zeros_like(peak)
    gained, weighed = np.zeros_like(peak), weight * x
    for step in _STEPS:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = np.where(peak == 0, np.float32(0), (np.float32(low) - step) / peak)
        q = np.clip(np.rint(x * np.nan_to_num(inverse)), low, high).astype(np.float32)
        product, square = total(weighed * q), total(weight * q * q)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(square > 0, product / square, np.float32(0)).astype(np.float32)
        gain = product * scale  # by how much the squared error falls
        better = gain > gained
        best, gained = np.where(better, scale, best), np.where(better, gain, gained)
    return best


def fit_minimum(x: Floats, weight: Floats, high: int, *, at_most_zero: bool) -> tuple[Floats, Floats]:
    """Return scale and minimum of each group, for which scale * quant + minimum comes closest; quants are 0 to `high`.

    Args:
        x, weight: as `fit_symmetric`.
        at_most_zero: the minimum may not be positive.
    Returns:
        float32[groups] twice.
    """
    floor, peak = x.min(axis=0), x.max(axis=0)
    if at_most_zero:
        floor = np.minimum(floor, np.float32(0))
    width = peak - floor
    best, least = np.zeros_like(width), floor.copy()
    error = total(weight * (x - least) * (x - least))
    weight = np.broadcast_to(weight, x.shape)
    weighed = weight * x
    of_all, of_x = total(weight), total(weighed)
    for step in _STEPS:
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.where(width > 0, (np.float32(high) + step) / width, np.float32(0)).astype(np.float32)
        q = np.clip(np.rint((x - floor) * np.nan_to_num(inverse)), 0, high).astype(np.float32)
        scale, minimum = _line(weighed, q, weight, of_all, of_x, at_most_zero)
        rest = x - scale * q - minimum
        found = total(weight * rest * rest)
        better = found < error
        best, least = np.where(better, scale, best), np.where(better, minimum, least)
        error = np.where(better, found, error)
    return best, least


def _line(
    weighed: Floats, q: Floats, weight: Floats, of_all: Floats, of_x: Floats, at_most_zero: bool
) -> tuple[Floats, Floats]:
    """Return the line through (quant, weight) with the least squared error, its scale not negative."""
    weighed_q = weight * q
    of_q, of_qq, of_qx = total(weighed_q), total(weighed_q * q), total(weighed * q)
    determinant = of_all * of_qq - of_q * of_q
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        through_zero = np.where(of_qq > 0, of_qx / of_qq, np.float32(0))
        scale = np.where(determinant > 0, (of_all * of_qx - of_x * of_q) / determinant, through_zero)
        minimum = np.where(determinant > 0, (of_qq * of_x - of_q * of_qx) / determinant, np.float32(0))
    if at_most_zero:
        scale, minimum = np.where(minimum > 0, through_zero, scale), np.minimum(minimum, np.float32(0))
    return np.maximum(np.nan_to_num(scale), 0).astype(np.float32), np.nan_to_num(minimum).astype(np.float32)


def levels(x: Floats, scale: Floats, minimum: Floats | float, low: int, high: int) -> npt.NDArray[np.int16]:
    """Return the nearest quants of scale * quant + minimum, int16[elements, groups]; those of a zero scale are 0.

    Args:
        x: float32[elements, groups].
        scale, minimum: float32[groups], as they are stored.
    """
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale).astype(np.float32)
    found: npt.NDArray[np.int16] = np.clip(np.rint((x - minimum) * np.nan_to_num(inverse)), low, high).astype(np.int16)
    return found
