"""Weights of GGUF files as float32."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from rocmforge.tools.generate import gguf_types  # noqa: F401 - more types


def dequantize(raw: npt.NDArray[Any], ggml_type: str) -> npt.NDArray[np.float32]:
    """float32[rows, columns], by the `gguf` package, or for what it does not know, Q1_0 and Q2_0, as llama.cpp has it.

    Args:
        raw: uint8[rows, row_bytes], or floats.
    """
    if ggml_type == "Q1_0":  # d, 128 bits: plus or minus d
        blocks = raw.reshape(len(raw), -1, 18)
        d = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
        bits = np.unpackbits(blocks[..., 2:], axis=-1, bitorder="little").astype(bool)
        return np.where(bits, d, -d).reshape(len(raw), -1)
    if ggml_type == "Q2_0":  # d, 64 pairs of bits: -1, 0, 1 or 2 times d
        blocks = raw.reshape(len(raw), -1, 18)
        d = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
        pairs = np.stack([blocks[..., 2:] // 4**i % 4 for i in range(4)], axis=-1).astype(np.float32)
        return ((pairs.reshape(*blocks.shape[:2], 64) - 1) * d).reshape(len(raw), -1)
    return np.asarray(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[ggml_type]), np.float32)
