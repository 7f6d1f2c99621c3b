"""The sizes that the bundle format promises, against what the compiler writes and what GGUF says."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import pytest

from rocmforge.artifacts.formats import FORMATS
from rocmforge.artifacts.packing_sizes import packed_bytes
from rocmforge.compiler.packing import interleave_pairs, pack_rows
from rocmforge.tools.generate import gguf_types  # noqa: F401 - more types

# Bytes that a row of a block gains: 12 bytes of 6-bit fields are spread to 16, 6 to 8; a power of two takes 2; points
# of grids are spelled out, in 4, 3 or 2 bits a column; digits to base 3 take 2 bits; 32 bits each have a scale.
GAIN = {
    **{"Q3_K": 4, "Q4_K": 4, "Q5_K": 4, "IQ4_XS": 2, "MXFP4": 1, "TQ1_0": 12, "Q1_0": 6, "Q2_0": 2},
    **{"IQ3_XXS": 40, "IQ3_S": 28, "IQ2_XXS": 40, "IQ2_XS": 32, "IQ2_S": 24, "IQ1_S": 32, "IQ1_M": 26},
}


def raw_rows(kind: str, rows: int, columns: int) -> np.ndarray:
    """Rows of `kind` as a GGUF holds them, all zero: sizes from the `gguf` package."""
    block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return np.zeros((rows, columns // block * n_bytes), np.uint8)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rows", [1, 16, 17, 64])
def test_sizes_are_those_that_are_written(kind: str, rows: int) -> None:
    block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    assert (FORMATS[kind].columns, FORMATS[kind].gguf_bytes) == (block, n_bytes)
    assert FORMATS[kind].packed_bytes == n_bytes + GAIN.get(kind, 0)
    packed = pack_rows(raw_rows(kind, rows, 512), kind, 512)
    assert packed_bytes(f"rows16_{kind.lower()}", (rows, 512)) == packed.nbytes
    if rows % 32 == 0:
        pairs = interleave_pairs(packed, packed)
        assert packed_bytes(f"rows16_pairs_{kind.lower()}", (2 * rows, 512)) == pairs.nbytes


def test_sizes_of_what_is_no_matrix() -> None:
    assert packed_bytes("f32", (3, 5)) == packed_bytes("f32", (15,)) == 60
    assert packed_bytes("rope_table", (7, 4)) == 7 * 4 * 4


@pytest.mark.parametrize(
    "packing, shape, problem",
    [
        ("rows16_q4_0", (16, 31), "multiple of 32 columns"),
        ("rows16_q4_k", (16, 32), "multiple of 256 columns"),
        ("rows16_q4_0", (512,), "columns"),
        ("rows16_q4_0", (16, 32, 1), "columns"),
        ("rows16_pairs_q4_0", (96, 32), "multiple of 64 rows"),
        ("rows16_pairs_q4_0", (64,), "columns"),
        ("rope_table", (8,), "positions"),
        ("rope_table", (8, 3), "even"),
        ("rows16_", (16, 32), "known packing"),
        ("rows16_q4_0_", (16, 32), "known packing"),
        ("rows16_pairs_pairs_q4_0", (64, 32), "known packing"),
        ("q4_0", (16, 32), "known packing"),
        ("rows16_q8_k", (16, 256), "known packing"),
        ("", (16,), "known packing"),
    ],
)
def test_F39_shapes_that_no_packing_holds(packing: str, shape: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        packed_bytes(packing, shape)


# Columns of a block, and bytes of a row of it: weights of 16 bytes and more are read by lane, 8 columns at once.
LANES = {
    "f32": (8, 32), "f16": (8, 16), "bf16": (8, 16), "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22),
    "q5_1": (32, 24), "q8_0": (32, 34), "q3_k": (256, 116), "q4_k": (256, 148), "q5_k": (256, 180), "q6_k": (256, 212),
    "q2_k": (256, 84), "iq4_xs": (256, 140), "iq3_xxs": (256, 140), "iq3_s": (256, 140), "iq2_xxs": (256, 108),
    "iq2_xs": (256, 108), "iq2_s": (256, 108), "iq1_s": (256, 84), "iq1_m": (256, 84), "tq1_0": (256, 68),
    "tq2_0": (256, 68), "iq4_nl": (32, 18), "mxfp4": (32, 18), "nvfp4": (64, 36), "q1_0": (128, 24), "q2_0": (64, 20),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS)
def test_sizes_in_lanes_of_32(kind: str) -> None:
    name = kind.lower()
    columns, n_bytes = LANES[name]
    for rows, tiles in ((1, 1), (32, 1), (33, 2), (64, 2)):
        assert packed_bytes(f"lanes32_{name}", (rows, 3 * columns)) == 32 * tiles * 3 * n_bytes
    assert packed_bytes(f"lanes32_pairs_{name}", (128, columns)) == 128 * n_bytes
    if FORMATS[kind].is_float:  # filled up to 16 bytes
        assert packed_bytes(f"lanes32_{name}", (32, columns + 1)) == 32 * (n_bytes + 16)
    else:
        with pytest.raises(ValueError, match=rf"^expected rows by a multiple of {columns} columns$"):
            packed_bytes(f"lanes32_{name}", (32, columns + 1))
    with pytest.raises(ValueError, match=r"^expected a multiple of 64 rows$"):
        packed_bytes(f"lanes32_pairs_{name}", (96, columns))


def test_pairs_of_rows16_are_tiles_of_64_rows() -> None:
    assert packed_bytes("rows16_pairs_q8_0", (64, 32)) == 64 * 34
    assert packed_bytes("rows16_q8_0", (65, 32)) == 80 * 34
    with pytest.raises(ValueError, match=r"^expected a multiple of 64 rows$"):
        packed_bytes("rows16_pairs_q8_0", (32, 32))
    with pytest.raises(ValueError, match=r"^expected positions by an even number of cosines and sines$"):
        packed_bytes("rope_table", (2, 2, 2))


def test_the_documented_bytes_are_those() -> None:
    """docs/weights.md: of 256 columns of a row, in the file and packed."""
    text = (Path(__file__).parents[3] / "docs/weights.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| ([\d |]+) \|$", text, re.MULTILINE))
    for kind, row in FORMATS.items():
        sizes = [packed_bytes(f"{of}_{kind.lower()}", (n, 256)) // n for of, n in (("rows16", 16), ("lanes32", 32))]
        assert rows.pop(kind) == " | ".join(map(str, (row.columns, row.row_bytes(256), *sizes)))
    assert not rows
