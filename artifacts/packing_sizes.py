"""Bytes of a packed tensor, by packing and shape: what the compiler writes and the runtime expects.

Packings: `f32` and `rope_table` are plain float32; `rows16_<type>` holds rows in tiles of 16, the last one filled up;
`rows16_pairs_<type>` holds two matrices of equal size, tiles of the one and the other in turn, two of each
(kernels/host/weights_quantized.h, weights_float.h, gate_up.h).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

TILE_ROWS: Final = 16
PAIR_ROWS: Final = 4 * TILE_ROWS  # two tiles of each of two matrices

_ROWS: Final = "rows16_"
_PAIRS: Final = "rows16_pairs_"

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
    pairs = packing.startswith(_PAIRS)
    kind = packing.removeprefix(_PAIRS if pairs else _ROWS)
    if not packing.startswith(_ROWS) or kind not in ROW_BLOCKS:
        raise ValueError("expected a known packing")
    columns, n_bytes = ROW_BLOCKS[kind]
    if len(shape) != 2 or shape[1] % columns:
        raise ValueError(f"expected rows by a multiple of {columns} columns")
    if pairs and shape[0] % PAIR_ROWS:
        raise ValueError(f"expected a multiple of {PAIR_ROWS} rows")
    return -(-shape[0] // TILE_ROWS) * TILE_ROWS * (shape[1] // columns * n_bytes)
