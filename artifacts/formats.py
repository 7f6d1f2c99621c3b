"""Weight formats: a row for each type of a GGUF's tensors that can be packed, which all else is told by.

Names and blocks are those of ggml (`ggml-common.h`, as the `gguf` package's `quants` module documents it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .dataclass import dataclass

BLOCK_COLUMNS: Final = 32  # that the kernels take together: an activation's scale is one for so many
SUPERBLOCK_COLUMNS: Final = 256


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """A type of weights: floats, or quants with scales (weight = scale * (quant - offset) + minimum).

    Of a type with a codebook a quant is the index of an entry, and the weight scale * entry.

    Attributes:
        name: GGUF's, in capitals.
        bits: of a quant, or of a float.
        gguf_bytes: of a block as the GGUF has it; of floats, of an element.
        scale_bytes: that a row's 32 columns have of scales and minima, packed; 0: its 256 have one scale alone.
        super_scale_bytes: that its 256 columns have besides, packed; 0: there are no superblocks.
        offset: that is taken from a quant, which is unsigned; quants of 8 bits are signed.
        has_minimum: something is added to each product.
        num_scales: of 32 columns: 2 where each 16 have their own.
        codebook: what the quants stand for, int8; empty: for themselves.
        scales: how bytes make a scale, where that is neither float16 nor, in superblocks, an int8 or uint8: one of
            `SCALES`.
        halvings: times that the product of a superblock's scale and a block's is halved.
        file_columns: of a block as the GGUF has it, where these are neither 32 nor, in superblocks, 256.
    """

    name: str
    bits: int
    gguf_bytes: int
    scale_bytes: int = 0
    super_scale_bytes: int = 0
    offset: int = 0
    has_minimum: bool = False
    num_scales: int = 1
    codebook: tuple[int, ...] = ()
    scales: str = ""
    halvings: int = 0
    file_columns: int = 0

    @property
    def is_float(self) -> bool:
        """Whether weights are floats, which activations in float32 are multiplied with."""
        return not self.scale_bytes and not self.super_scale_bytes

    @property
    def has_superblocks(self) -> bool:
        """Whether 256 columns share scales, by which those of their blocks are multiplied."""
        return self.super_scale_bytes > 0

    @property
    def columns(self) -> int:
        """Columns of a block of the GGUF, of which each row has a whole number."""
        usual = 1 if self.is_float else SUPERBLOCK_COLUMNS if self.has_superblocks else BLOCK_COLUMNS
        return self.file_columns or usual

    @property
    def packed_bytes(self) -> int:
        """Bytes that so many columns of a row take, packed."""
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
            **({f"SCALES_{self.scales}".upper(): 1} if self.scales else {}),
            **({"SCALE_HALVINGS": self.halvings} if self.halvings else {}),
            **self._codebook_defines(),
        }

    def _codebook_defines(self) -> Mapping[str, int]:
        """Return CODES_0 to CODES_3: four entries each, the first in the lowest byte; entries left over are 0. And
        CODE_OFFSET, which makes none negative and 128 the highest at most, or 0 where none does."""
        if not self.codebook:
            return {}
        least = min(self.codebook)
        entries = bytes(entry & 255 for entry in self.codebook).ljust(16, b"\0")
        words = [int.from_bytes(entries[at : at + 4], "little") for at in range(0, 16, 4)]
        codes = {f"CODES_{i}": word - (word >> 31 << 32) for i, word in enumerate(words)}
        return codes | {"CODE_OFFSET": -least if max(self.codebook) - least <= 128 else 0}


SCALES: Final = ("bf16", "e4m3", "odd", "odd_groups")
"""Forms of scales that only some types have: bfloat16; two unsigned E4M3, halved, of 16 columns each; two 4-bit numbers
n in a byte, each for a scale of 2n + 1; that, and in a second byte the quants' high bits, one for each 8 columns."""

# Values of IQ4_NL; four bits of E2M1, doubled; magnitudes in the grids of IQ3_XXS, IQ3_S and IQ2_*, then these with a
# minus; values in the grids of IQ1_*, -1 to 1, with an eighth more and then with one less, times 8.
_IQ4: Final = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1: Final = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
_IQ3_XXS: Final = (4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62)
_IQ3_S: Final = (1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15)
_IQ2: Final = (8, 25, 43, 0, -8, -25, -43, 0)
_IQ1: Final = (-7, 1, 9, 0, -9, -1, 7, 0)

_ROWS: Final = (
    WeightFormat("F32", 32, 4),
    WeightFormat("F16", 16, 2),
    WeightFormat("BF16", 16, 2),
    WeightFormat("Q8_0", 8, 34, scale_bytes=2),
    WeightFormat("Q4_0", 4, 18, scale_bytes=2, offset=8),
    WeightFormat("Q4_1", 4, 20, scale_bytes=4, has_minimum=True),
    WeightFormat("Q5_0", 5, 22, scale_bytes=2, offset=16),
    WeightFormat("Q5_1", 5, 24, scale_bytes=4, has_minimum=True),
    WeightFormat("Q2_K", 2, 84, scale_bytes=2, super_scale_bytes=4, has_minimum=True, num_scales=2),
    # The 12 bytes of 6-bit scales, and minima, of a GGUF block are spread to 16.
    WeightFormat("Q3_K", 3, 110, scale_bytes=2, super_scale_bytes=2, offset=4, num_scales=2),
    WeightFormat("Q4_K", 4, 144, scale_bytes=2, super_scale_bytes=4, has_minimum=True),
    WeightFormat("Q5_K", 5, 176, scale_bytes=2, super_scale_bytes=4, has_minimum=True),
    WeightFormat("Q6_K", 6, 210, scale_bytes=2, super_scale_bytes=2, offset=32, num_scales=2),
    WeightFormat("IQ4_NL", 4, 18, scale_bytes=2, codebook=_IQ4),
    WeightFormat("IQ4_XS", 4, 136, scale_bytes=1, super_scale_bytes=2, codebook=_IQ4),
    # A power of two in a byte, which float16 could not hold, is a bfloat16 of two.
    WeightFormat("MXFP4", 4, 17, scale_bytes=2, scales="bf16", codebook=_E2M1),
    WeightFormat("NVFP4", 4, 36, scale_bytes=2, scales="e4m3", num_scales=2, codebook=_E2M1, file_columns=64),
    # Points of the grids are spelled out, so that the kernels need none of these.
    WeightFormat("IQ3_XXS", 4, 98, scale_bytes=1, super_scale_bytes=2, codebook=_IQ3_XXS, halvings=2),
    WeightFormat("IQ3_S", 4, 110, scale_bytes=1, super_scale_bytes=2, codebook=_IQ3_S),
    WeightFormat("IQ2_XXS", 3, 66, scale_bytes=1, super_scale_bytes=2, codebook=_IQ2, halvings=3),
    *(
        WeightFormat(name, 3, n_bytes, 1, 2, scales="odd", num_scales=2, codebook=_IQ2, halvings=3)
        for name, n_bytes in (("IQ2_XS", 74), ("IQ2_S", 82))
    ),
    *(
        WeightFormat(name, 2, n_bytes, 2, 2, scales="odd_groups", num_scales=2, codebook=_IQ1, halvings=3)
        for name, n_bytes in (("IQ1_S", 50), ("IQ1_M", 56))
    ),
    # Digits to base 3 are spread to two bits.
    WeightFormat("TQ1_0", 2, 54, super_scale_bytes=2, offset=1),
    WeightFormat("TQ2_0", 2, 66, super_scale_bytes=2, offset=1),
    WeightFormat("Q1_0", 1, 18, scale_bytes=2, codebook=(-1, 1), file_columns=128),
    WeightFormat("Q2_0", 2, 18, scale_bytes=2, offset=1, file_columns=64),
)
FORMATS: Final[Mapping[str, WeightFormat]] = {row.name: row for row in _ROWS}
"""By name."""
