"""Bytes of a packed tensor, by packing and shape: what the compiler writes and the runtime expects.

Packings: `f32`, `rope_table` and `temperatures` are plain float32, `f16` is plain float16, `i32` plain int32.
`rows16_<type>` has rows in tiles of 16, all full; `rows16_pairs_<type>` holds two matrices of equal size, tiles of the
one and the other in turn, two of each (kernels/host/weights_quantized.h, weights_float.h, gate_up.h). `lanes32_<type>`
and `lanes32_pairs_<type>` are the same in tiles of 32, pairs one by one (kernels/hip/weights_quantized.h,
weights_float.h).
"""

from __future__ import annotations

import math
from typing import Final

from .formats import FORMATS, WeightFormat

TILE_ROWS: Final = 16
PAIR_ROWS: Final = 4 * TILE_ROWS  # two tiles of each of two matrices
LANE_ROWS: Final = 32

_TILES: Final = {"rows16": (TILE_ROWS, PAIR_ROWS), "lanes32": (LANE_ROWS, 2 * LANE_ROWS)}
"""Rows of a tile, and the rows of which pairs need a multiple, by the packing's first part."""

LANE_PIECE_BYTES: Final = 16  # of a row that `lanes32` keeps together; rows of floats are filled up to it


def packed_bytes(packing: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of `shape`, in elements.

    Raises:
        ValueError: there is no such packing, or it cannot hold that shape.
    """
    if packing in ("f32", "temperatures", "i32"):
        return 4 * math.prod(shape)
    if packing == "f16":
        return 2 * math.prod(shape)
    if packing == "rope_table":
        if len(shape) != 2 or shape[1] % 2:
            raise ValueError("expected positions by an even number of cosines and sines")
        return 4 * math.prod(shape)
    family, _, kind = packing.partition("_")
    pairs = kind.startswith("pairs_")
    kind = kind.removeprefix("pairs_")
    known = FORMATS.get(kind.upper())
    if family not in _TILES or known is None or not kind.islower():
        raise ValueError("expected a known packing")
    tile_rows, pair_rows = _TILES[family]
    if len(shape) != 2 or shape[1] % known.columns:
        raise ValueError(f"expected rows by a multiple of {known.columns} columns")
    if pairs and shape[0] % pair_rows:
        raise ValueError(f"expected a multiple of {pair_rows} rows")
    row_bytes = shape[1] // known.columns * known.packed_bytes
    if family == "lanes32":
        row_bytes = _lane_row_bytes(known, shape[1] // known.columns)
    return -(-shape[0] // tile_rows) * tile_rows * row_bytes


def _lane_row_bytes(weights: WeightFormat, blocks: int) -> int:
    """Bytes of a row of `lanes32`: floats fill whole pieces, and a superblock's scales are a multiple of four."""
    if weights.is_float:
        return -(-blocks * weights.packed_bytes // LANE_PIECE_BYTES) * LANE_PIECE_BYTES
    return blocks * (weights.packed_bytes + -weights.super_scale_bytes % 4)
