"""Rows of floats to rows of a type, with the importance of columns where it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType

import gguf
import numpy as np
import numpy.typing as npt

from ...artifacts.processors import usable_cpus
from ..ggml_types import GgmlType as Quant
from .codebook import quantize_iq4_nl, quantize_iq4_xs
from .fit import Floats, fit_minimum, fit_symmetric, levels
from .k_quants import grouped, half, quantize_k_minimum, quantize_q2_k, quantize_q3_k, quantize_q6_k

Bytes = npt.NDArray[np.uint8]
ELEMENTS_AT_ONCE = 1 << 19  # of a thread: bounds memory, and what a cache holds


def _block_symmetric(values: Floats, weight: Floats, bits: int) -> Bytes:
    """Rows of Q4_0 or Q5_0: blocks of 32 with a scale."""
    low = -(1 << (bits - 1))
    x = grouped(values, 32)
    d_bytes, d = half(fit_symmetric(x, grouped(weight, 32), low, -low - 1))
    quants = (levels(x, d, 0.0, low, -low - 1) - low).T.astype(np.uint8)
    return _block(values, [d_bytes], quants, bits)


def _block_minimum(values: Floats, weight: Floats, bits: int) -> Bytes:
    """Rows of Q4_1 or Q5_1: blocks of 32 with a scale and a minimum."""
    high = (1 << bits) - 1
    x = grouped(values, 32)
    scale, minimum = fit_minimum(x, grouped(weight, 32), high, at_most_zero=False)
    (d_bytes, d), (m_bytes, m) = half(scale), half(minimum)
    return _block(values, [d_bytes, m_bytes], levels(x, d, m, 0, high).T.astype(np.uint8), bits)


def _block(values: Floats, fields: list[Bytes], quants: Bytes, bits: int) -> Bytes:
    if bits == 5:
        fields = [*fields, np.packbits(quants >> 4, axis=1, bitorder="little")]
    nibbles = quants[:, :16] & 15 | (quants[:, 16:] & 15) << 4
    return np.concatenate([*fields, nibbles], axis=1).reshape(len(values), -1)


def _rounded(values: Floats, _: Floats, kind: Quant) -> Bytes:
    """Rows of a type as the `gguf` package rounds to it, which is what llama.cpp does without a search."""
    if kind is Quant.F32:
        return values.view(np.uint8)
    if kind is Quant.F16:
        with np.errstate(over="ignore"):
            return values.astype("<f2").view(np.uint8)
    return np.asarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType(kind))).view(np.uint8)


_Quantizer = Callable[[Floats, Floats], Bytes]
_SEARCHED: Mapping[Quant, _Quantizer] = MappingProxyType(
    {
        Quant.Q2_K: quantize_q2_k,
        Quant.Q3_K: quantize_q3_k,
        Quant.Q4_K: partial(quantize_k_minimum, bits=4),
        Quant.Q5_K: partial(quantize_k_minimum, bits=5),
        Quant.Q6_K: quantize_q6_k,
        Quant.IQ4_NL: quantize_iq4_nl,
        Quant.IQ4_XS: quantize_iq4_xs,
        Quant.Q4_0: partial(_block_symmetric, bits=4),
        Quant.Q5_0: partial(_block_symmetric, bits=5),
        Quant.Q4_1: partial(_block_minimum, bits=4),
        Quant.Q5_1: partial(_block_minimum, bits=5),
    }
)
_ROUNDED = (Quant.Q8_0, Quant.MXFP4, Quant.F16, Quant.BF16, Quant.F32)
QUANTIZERS: Mapping[Quant, _Quantizer] = MappingProxyType(
    {**_SEARCHED, **{kind: partial(_rounded, kind=kind) for kind in _ROUNDED}}
)
"""By type: float32[rows, columns] and the weights of their squared errors to uint8[rows, bytes]."""


def quantize_rows(values: Floats, kind: Quant, importance: Floats | None = None) -> Bytes:
    """Return rows of a type that `QUANTIZERS` has.

    Args:
        values: float32[rows, columns], finite; columns are whole blocks of the type.
        importance: float32[columns], of each column's squared error; None: all alike.
    Returns:
        uint8[rows, bytes].
    """
    columns = values.shape[1]
    step = max(1, ELEMENTS_AT_ONCE // columns)

    def part(first: int) -> Bytes:
        piece = np.ascontiguousarray(values[first : first + step], np.float32)
        weight = np.ones(columns, np.float32) if importance is None else importance
        with np.errstate(over="ignore", invalid="ignore"):  # squares of weights that no float16 holds
            return QUANTIZERS[kind](piece, np.broadcast_to(weight, piece.shape))

    with ThreadPoolExecutor(usable_cpus()) as pool:  # NumPy's work is done without the lock
        return np.concatenate(list(pool.map(part, range(0, len(values), step))))
