"""Weights of GGUF files as float32."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt


def dequantize(raw: npt.NDArray[Any], ggml_type: str) -> npt.NDArray[np.float32]:
    """float32[rows, columns], by the `gguf` package, or for what it does not know, Q1_0, as llama.cpp has it.

    Args:
        raw: uint8[rows, row_bytes], or floats.
    """
    if ggml_type == "Q1_0":  # d, 128 bits: plus or minus d
        blocks = raw.reshape(len(raw), -1, 18)
        d = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
        bits = np.unpackbits(blocks[..., 2:], axis=-1, bitorder="little").astype(bool)
        return np.where(bits, d, -d).reshape(len(raw), -1)
    return np.asarray(gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[ggml_type]), np.float32)
