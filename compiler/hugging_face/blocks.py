"""Rows of GGUF's types from integers, scales and floats, and floats from their bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def float_values(raw: Bytes, dtype: str) -> Floats:
    """Return floats of a type, `F32`, `F16` or `BF16`, as float32[n]."""
    if dtype == "F32":
        return raw.view("<f4").astype(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def bf16_rows(values: Floats) -> Bytes:
    """Round float32[rows, columns] to the nearest BF16, ties to even: uint8[rows, 2 * columns]."""
    from gguf import GGMLQuantizationType, quants  # noqa: PLC0415 - slow to import, seldom needed

    return np.asarray(quants.quantize(np.ascontiguousarray(values), GGMLQuantizationType.BF16)).view(np.uint8)


def _e4m3_table() -> Floats:
    """Return the value of each byte: a sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinities."""
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    magnitude = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normal)
    magnitude[codes & 127 == 127] = np.nan
    return np.where(codes & 128, -magnitude, magnitude).astype(np.float32)


_E4M3 = _e4m3_table()


def e4m3_values(raw: Bytes) -> Floats:
    """Return what bytes of FP8 e4m3 are, in the same shape."""
    return _E4M3[raw]


def exact_half(values: Floats) -> npt.NDArray[np.float16] | None:
    """Return values as float16 if none of them changes by that."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), values) else None


def unpack_nibbles(raw: Bytes) -> Bytes:
    """uint8[n, m] -> uint8[n, 2m]: the low half of each byte, then its high half."""
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(len(raw), -1)


def _scales(half: npt.NDArray[np.float16]) -> Bytes:
    """float16[rows, blocks] -> uint8[rows, blocks, 2]."""
    return np.ascontiguousarray(half.astype("<f2")).view(np.uint8).reshape(*half.shape, 2)


def _nibbles(quants: Bytes) -> Bytes:
    """uint8[rows, blocks, 32] -> [rows, blocks, 16]: columns 0 to 15 in the low halves."""
    packed: Bytes = quants[..., :16] & np.uint8(15) | (quants[..., 16:] & np.uint8(15)) << np.uint8(4)
    return packed


def q4_0_rows(quants: npt.NDArray[np.int16], half: npt.NDArray[np.float16]) -> Bytes:
    """Return rows of Q4_0.

    Args:
        quants: int16[rows, columns], -8 to 7.
        half: float16[rows, columns / 32] scales.
    """
    raised = (quants + 8).astype(np.uint8).reshape(*half.shape, 32)
    return np.concatenate([_scales(half), _nibbles(raised)], axis=-1).reshape(len(quants), -1)


def q5_0_rows(quants: npt.NDArray[np.int16], half: npt.NDArray[np.float16]) -> Bytes:
    """Return rows of Q5_0; as `q4_0_rows`, with quants of -16 to 15."""
    raised = (quants + 16).astype(np.uint8).reshape(*half.shape, 32)
    fifth = np.packbits(raised >> 4, axis=-1, bitorder="little")
    return np.concatenate([_scales(half), fifth, _nibbles(raised)], axis=-1).reshape(len(quants), -1)


def q8_0_rows(quants: npt.NDArray[np.int16], half: npt.NDArray[np.float16]) -> Bytes:
    """Return rows of Q8_0; as `q4_0_rows`, with quants of -128 to 127."""
    raw = quants.astype(np.int8).view(np.uint8).reshape(*half.shape, 32)
    return np.concatenate([_scales(half), raw], axis=-1).reshape(len(quants), -1)
