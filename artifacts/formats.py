"""Weight formats: a row for each type of a GGUF's tensors that can be packed, which all else is told by.

Names and blocks are those of ggml (`ggml-common.h`, as the `gguf` package's `quants` module documents it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

BLOCK_COLUMNS: Final = 32  # that the kernels take together: an activation's scale is one for so many
SUPERBLOCK_COLUMNS: Final = 256


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """A type of weights: floats, or quants with scales (weight = scale * (quant - offset) + minimum).

    Attributes:
        name: GGUF's, in capitals.
        bits: of a quant, or of a float.
        gguf_bytes: of a block as the GGUF has it; of floats, of an element.
        scale_bytes: that a row's 32 columns have of scales and minima, packed; 0: floats.
        super_scale_bytes: that its 256 columns have besides, packed; 0: there are no superblocks.
        offset: that is taken from a quant, which is unsigned; quants of 8 bits are signed.
        has_minimum: something is added to each product.
        num_scales: of 32 columns: 2 where each 16 have their own.
    """

    name: str
    bits: int
    gguf_bytes: int
    scale_bytes: int = 0
    super_scale_bytes: int = 0
    offset: int = 0
    has_minimum: bool = False
    num_scales: int = 1

    @property
    def is_float(self) -> bool:
        """Whether weights are floats, which activations in float32 are multiplied with."""
        return not self.scale_bytes

    @property
    def has_superblocks(self) -> bool:
        """Whether 256 columns share scales, by which those of their blocks are multiplied."""
        return self.super_scale_bytes > 0

    @property
    def columns(self) -> int:
        """Columns of a block, of which each row has a whole number."""
        return 1 if self.is_float else SUPERBLOCK_COLUMNS if self.has_superblocks else BLOCK_COLUMNS

    @property
    def packed_bytes(self) -> int:
        """Bytes that a row takes of a packed block."""
        quants = self.columns * self.bits // 8
        return quants + self.columns // BLOCK_COLUMNS * self.scale_bytes + self.super_scale_bytes

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of the GGUF's tensor."""
        return columns // self.columns * self.gguf_bytes

    @property
    def defines(self) -> Mapping[str, int]:
        """Return the macros by which kernels know the format (kernels/*/weights_*.h)."""
        if self.is_float:
            return {f"WEIGHT_{self.name}": 1, "ELEMENT_BYTES": self.gguf_bytes}
        return {
            "QUANT_BITS": self.bits,
            "QUANT_OFFSET": self.offset,
            "SCALE_BYTES": self.scale_bytes,
            "SUPER_SCALE_BYTES": self.super_scale_bytes,
            "NUM_SCALES": self.num_scales,
            "HAS_MINIMUM": int(self.has_minimum),
        }


_ROWS: Final = (
    WeightFormat("F32", 32, 4),
    WeightFormat("F16", 16, 2),
    WeightFormat("BF16", 16, 2),
    WeightFormat("Q8_0", 8, 34, scale_bytes=2),
    WeightFormat("Q4_0", 4, 18, scale_bytes=2, offset=8),
    WeightFormat("Q4_1", 4, 20, scale_bytes=4, has_minimum=True),
    WeightFormat("Q5_0", 5, 22, scale_bytes=2, offset=16),
    WeightFormat("Q5_1", 5, 24, scale_bytes=4, has_minimum=True),
    # The 12 bytes of 6-bit scales, and minima, of a GGUF block are spread to 16.
    WeightFormat("Q3_K", 3, 110, scale_bytes=2, super_scale_bytes=2, offset=4, num_scales=2),
    WeightFormat("Q4_K", 4, 144, scale_bytes=2, super_scale_bytes=4, has_minimum=True),
    WeightFormat("Q5_K", 5, 176, scale_bytes=2, super_scale_bytes=4, has_minimum=True),
    WeightFormat("Q6_K", 6, 210, scale_bytes=2, super_scale_bytes=2, offset=32, num_scales=2),
)
FORMATS: Final[Mapping[str, WeightFormat]] = {row.name: row for row in _ROWS}
"""By name."""
