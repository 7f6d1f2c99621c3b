"""Weights of any type as float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..artifacts.formats import FORMATS, WeightFormat
from .blocks import read_blocks
from .ggml_types import GgmlType as Quant
from .model_source import ModelSource

Floats = npt.NDArray[np.float32]

_BY_BLOCKS = (Quant.Q1_0, Quant.Q2_0)  # which the `gguf` package does not turn into floats


def float_rows(raw: npt.NDArray[np.uint8], kind: Quant) -> npt.NDArray[np.float32]:
    """Return rows of a type, uint8[rows, bytes], as float32[rows, columns]."""
    if kind == Quant.F32:
        return raw.view("<f4")
    if kind == Quant.F16:
        return raw.view("<f2").astype(np.float32)
    if kind == Quant.BF16:
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
    if kind in _BY_BLOCKS:
        return _from_blocks(raw, FORMATS[kind.name])
    from gguf import GGMLQuantizationType, quants  # noqa: PLC0415 - slow to import, seldom needed

    return np.asarray(quants.dequantize(raw, GGMLQuantizationType(kind)), np.float32)


def _from_blocks(raw: npt.NDArray[np.uint8], weights: WeightFormat) -> Floats:
    """Of types whose blocks have a float16 scale and nothing else."""
    blocks = read_blocks(raw, weights)
    scales = np.ascontiguousarray(blocks.block_scales[0]).view("<f2").astype(np.float32)
    values = np.array(weights.codebook or range(1 << weights.bits), np.float32) - np.float32(weights.offset)
    return np.asarray(scales * values[blocks.quants], np.float32).reshape(len(raw), -1)


def read_float_rows(source: ModelSource, name: str, first: int, count: int) -> npt.NDArray[np.float32]:
    """Return rows of a tensor, whatever its type, as float32[count, columns].

    Raises:
        InputError: as `ModelSource.read_rows`, or the type is none that is known.
    """
    raw, kind = source.read_rows(name, first, count), source.tensor(name).ggml_type
    try:
        return float_rows(raw, kind)
    except NotImplementedError:
        raise source.error(name, f"expected a type that can be turned into floats, found {kind.name}") from None
