"""Valid blocks of random weights, of the types that the `gguf` package does not write."""

from __future__ import annotations

from collections.abc import Mapping

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Quant

from . import gguf_types  # noqa: F401 - more types

# The `gguf` package reads these but does not write them.
K_QUANTS = (Quant.Q3_K, Quant.Q4_K, Quant.Q5_K, Quant.Q6_K)
# Of these, random bits are weights too: where a block has its float16 scale, and the deviation for a scale of 1.
SCALED_QUANTS: Mapping[Quant, tuple[int, float]] = {
    Quant.Q2_K: (80, 15.8),
    Quant.IQ4_NL: (0, 70.1),
    Quant.IQ4_XS: (0, 1295.0),
    Quant.IQ3_XXS: (0, 140.0),
    Quant.IQ3_S: (0, 150.0),
    Quant.IQ2_XXS: (0, 46.0),
    Quant.IQ2_XS: (0, 46.0),
    Quant.IQ2_S: (0, 46.0),
    Quant.IQ1_S: (0, 7.0),
    Quant.IQ1_M: (48, 7.0),
    Quant.TQ1_0: (52, 0.82),
    Quant.TQ2_0: (64, 1.2),
    Quant.Q1_0: (0, 1.0),
    Quant["Q2_0"]: (0, 1.2),
}
FP4_QUANTS = (Quant.MXFP4, Quant.NVFP4)
FP4_DEVIATION = 5.8  # of 4 random bits, doubled as they are


def _random_bytes(random: np.random.Generator, dims: tuple[int, ...], quant: Quant) -> npt.NDArray[np.uint8]:
    """Make the bytes of blocks of a matrix, uint8[blocks, bytes a block], their scales too."""
    block, block_bytes = gguf.GGML_QUANT_SIZES[quant]
    if dims[1] % block:
        raise ValueError(f"{quant.name} needs rows of a multiple of {block}, found {dims[1]}")
    return random.integers(0, 256, (dims[0] * dims[1] // block, block_bytes), dtype=np.uint8)


def random_k_quant(
    random: np.random.Generator, dims: tuple[int, ...], quant: Quant, deviation: float
) -> npt.NDArray[np.uint8]:
    """Make valid blocks of random weights, with mean 0 and about the standard deviation given.

    Args:
        random: where bits come from.
        dims: rows and columns; columns are a multiple of 256.
        quant: Q3_K, Q4_K, Q5_K or Q6_K.
        deviation: of the weights.

    Returns:
        uint8[rows, bytes a row].

    Source: `block_q3_K` to `block_q6_K` in ggml's `ggml-common.h`.
    """
    blocks = _random_bytes(random, dims, quant)
    spread = random.uniform(0.5, 1.5, (len(blocks), 1))
    if quant is Quant.Q6_K:
        # ql[128], qh[64], int8 scales[16], d: quants of deviation 18.5 times scales of deviation 18.8.
        blocks[:, 192:208] = random.integers(-32, 33, (len(blocks), 16), dtype=np.int8).view(np.uint8)
        blocks[:, 208:] = (spread * deviation / 347).astype("<f2").view(np.uint8)
    elif quant is Quant.Q3_K:
        # high bits[32], pairs[64], 6-bit scales[12], d: quants of deviation 2.3 times scales of deviation 18.5.
        blocks[:, 108:] = (spread * deviation / 43).astype("<f2").view(np.uint8)
    else:
        # d, dmin, 6-bit scales and minima[12], quants: w = d * scale * q - dmin * minimum. dmin is chosen
        # so that the mean is 0; the divisors are then the deviation for d = 1.
        middle, unit = (7.5, 255) if quant is Quant.Q4_K else (15.5, 520)
        scales = spread * deviation / unit
        blocks[:, :4] = np.hstack([scales, scales * middle]).astype("<f2").view(np.uint8)
    return blocks.reshape(dims[0], -1)


def random_blocks(
    random: np.random.Generator, dims: tuple[int, ...], quant: Quant, deviation: float
) -> npt.NDArray[np.uint8]:
    """Make blocks as `random_k_quant` does, of the types in `SCALED_QUANTS` and `FP4_QUANTS`."""
    blocks = _random_bytes(random, dims, quant)
    spread = random.uniform(0.5, 1.5, (len(blocks), 4))
    if quant is Quant.MXFP4:
        blocks[:, 0] = 128 + np.rint(np.log2(spread[:, 0] * deviation / FP4_DEVIATION))
    elif quant is Quant.NVFP4:  # 2^-3 is 32, and 8 numbers make it twice as much
        blocks[:, :4] = 32 + np.rint(8 * (np.log2(2 * spread * deviation / FP4_DEVIATION) + 3))
    else:
        at, unit = SCALED_QUANTS[quant]
        scales = (spread[:, :1] * deviation / unit).astype("<f2").view(np.uint8)
        if quant is Quant.IQ1_M:  # four bits of it in the high half of each second byte
            nibbles = np.stack([scales & 15, scales >> 4], axis=-1).reshape(-1, 4)
            blocks[:, at + 1 :: 2] = blocks[:, at + 1 :: 2] & 15 | nibbles << 4
        else:
            blocks[:, at : at + 2] = scales
        if quant is Quant.Q2_K:  # a minimum of one and a half for each step makes the mean 0
            blocks[:, 82:] = (scales.view("<f2") * 1.5).astype("<f2").view(np.uint8)
    return blocks.reshape(dims[0], -1)
