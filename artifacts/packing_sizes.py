"""Bytes of a packed tensor, by packing and shape: what the compiler writes and the runtime expects.

Packings: `f32` and `rope_table` are plain float32; `rows16_<type>` holds rows in tiles of 16, the last one filled up;
`rows16_pairs_<type>` holds two matrices of equal size, tiles of the one and the other in turn, two of each
(kernels/host/weights_quantized.h, weights_float.h, gate_up.h). `lanes32_<type>` and `lanes32_pairs_<type>` are the same
in tiles of 32, pairs one by one (kernels/hip/weights_quantized.h, weights_float.h).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

TILE_ROWS: Final = 16
PAIR_ROWS: Final = 4 * TILE_ROWS  # two tiles of each of two matrices
LANE_ROWS: Final = 32

_TILES: Final = {"rows16": (TILE_ROWS, PAIR_ROWS), "lanes32": (LANE_ROWS, 2 * LANE_ROWS)}
"""Rows of a tile, and the rows of which pairs need a multiple, by the packing's first part."""

ROW_BLOCKS: Final[Mapping[str, tuple[int, int]]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    # The 12 bytes of 6-bit scales and minima of a GGUF block are spread to 16.
    "q4_k": (256, 144 + 4),
    "q5_k": (256, 176 + 4),
    "q6_k": (256, 210),
}
"""Columns of a block, and bytes that a row takes of a packed block, by weight type."""

LANE_BLOCKS: Final[Mapping[str, tuple[int, int]]] = {
    "f32": (8, 32),
    "f16": (8, 16),
    "bf16": (8, 16),
    "q6_k": (256, 212),  # the float16 scale of the superblock as float32
}
"""Where `lanes32` differs from `ROW_BLOCKS`."""


def packed_bytes(packing: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of `shape`, in elements.

    Raises:
        ValueError: there is no such packing, or it cannot hold that shape.
    """
    if packing == "f32":
        return 4 * math.prod(shape)
    if packing == "rope_table":
        if len(shape) != 2 or shape[1] % 2:
            raise ValueError("expected positions by an even number of cosines and sines")
        return 4 * math.prod(shape)
    family, _, kind = packing.partition("_")
    pairs = kind.startswith("pairs_")
    kind = kind.removeprefix("pairs_")
    if family not in _TILES or kind not in ROW_BLOCKS:
        raise ValueError("expected a known packing")
    columns, n_bytes = LANE_BLOCKS.get(kind, ROW_BLOCKS[kind]) if family == "lanes32" else ROW_BLOCKS[kind]
    tile_rows, pair_rows = _TILES[family]
    if len(shape) != 2 or shape[1] % columns:
        raise ValueError(f"expected rows by a multiple of {columns} columns")
    if pairs and shape[0] % pair_rows:
        raise ValueError(f"expected a multiple of {pair_rows} rows")
    return -(-shape[0] // tile_rows) * tile_rows * (shape[1] // columns * n_bytes)
