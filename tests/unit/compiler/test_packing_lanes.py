"""Packing "lanes32" loses nothing: an unpacker written from kernels/hip gives back each weight, to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.formats import FORMATS
from rocmforge.artifacts.packing_sizes import packed_bytes
from rocmforge.compiler.packing_lanes import interleave_lane_pairs, pack_lanes
from rocmforge.tests.kernels.kernel_harness import (
    FLOAT_TYPES,
    SUPER_TYPES,
    TERNARY_TYPES,
    WEIGHT_TYPES,
    codebook,
    random_rows,
    whole_columns,
)
from rocmforge.tests.oracles.dequantize import dequantize

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
OFFSETS = {"Q4_0": 8, "Q5_0": 16, "Q3_K": 4, "Q6_K": 32, "TQ1_0": 1, "TQ2_0": 1, "Q2_0": 1}
# Bits of a packed code, of types whose name does not begin with Q and the number.
CODE_BITS = {"IQ2_XXS": 3, "IQ2_XS": 3, "IQ2_S": 3, **dict.fromkeys(("IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0"), 2)}
WITH_HEADS = ("IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S")
"""Those whose superblocks begin with a byte of scales of each block."""


def code_bits(kind: str) -> int:
    return CODE_BITS.get(kind) or (int(kind[1]) if kind[0] == "Q" else 4)


class Reader:
    """Takes fields of a tile in order: each of 32 lanes, `n_bytes` a lane."""

    def __init__(self, tile: Bytes) -> None:
        self.tile, self.position = tile, 0

    def lanes(self, n_bytes: int) -> Bytes:
        taken = self.tile[self.position : self.position + 32 * n_bytes]
        self.position += 32 * n_bytes
        assert len(taken) == 32 * n_bytes
        return taken.reshape(32, n_bytes)


def halves(field: Bytes) -> Floats:
    return np.ascontiguousarray(field).view("<f2").astype(np.float32)


def quants_of_block(kind: str, pieces: list[Bytes], high: Bytes) -> npt.NDArray[np.int32]:
    """int32[32 rows, 32 columns] of one block, from its pieces [32, 16] or [32, 8] and its high bits [32, bytes]."""
    bits = code_bits(kind)
    quants = np.zeros((32, 32), np.int32)
    if bits == 8:
        return np.concatenate(pieces, axis=1).view(np.int8).astype(np.int32)
    for column in range(32):
        half, vector, byte = column // 16, column % 16 // 4, column % 4
        if bits in (2, 3):
            quants[:, column] = pieces[0][:, 4 * half + byte] >> 2 * vector & 3
        elif bits > 3:
            quants[:, column] = pieces[0][:, column % 16] >> 4 * half & 15
        if bits % 2:
            quants[:, column] |= (high[:, byte].astype(np.int32) >> (4 * half + vector) & 1) << (bits - 1)
        if bits == 6:
            pairs = high[:, 4 * half + byte].astype(np.int32)
            quants[:, column] |= (pairs >> 2 * vector & 3) << 4
    return quants - OFFSETS.get(kind, 0)


def chunk_blocks(read: Reader, kind: str, width: int) -> Iterator[tuple[Bytes, npt.NDArray[np.int32]]]:
    """Scales [32, bytes] and quants of each block of a chunk."""
    bits = code_bits(kind)
    scale_bytes = 4 if kind in {"Q4_1", "Q5_1"} else 0 if kind in (*WITH_HEADS, *TERNARY_TYPES) else 2
    scales = read.lanes(width * scale_bytes).reshape(32, width, scale_bytes)
    if bits < 4:
        low = 8 if bits > 1 else 0
        both = read.lanes(low * width).reshape(32, width, low)
        pieces = [[both[:, block]] for block in range(width)]
    else:
        pieces = [[read.lanes(16) for _ in range(bits // 4 if bits == 8 else 1)] for _ in range(width)]
    high_bytes = {1: 4, 3: 4, 5: 4, 6: 8}.get(bits, 0)
    high = read.lanes(width * high_bytes).reshape(32, width, high_bytes)
    for block in range(width):
        yield scales[:, block], quants_of_block(kind, pieces[block], high[:, block])


def super_block(kind: str, supers: Bytes, scales: Bytes, quants: npt.NDArray[np.int32]) -> Floats:
    """float32[32, 32] of a block of a superblock."""
    values = quants.astype(np.float32)
    if kind in ("Q2_K", "Q4_K", "Q5_K"):
        steps, offsets = scales[:, :1].astype(np.float32), scales[:, 1:].astype(np.float32)
        if kind == "Q2_K":
            steps, offsets = (np.repeat(x, 16, axis=1).astype(np.float32) for x in (scales & 15, scales >> 4))
        return (halves(supers[:, :2]) * steps) * values - halves(supers[:, 2:]) * offsets
    d = np.ascontiguousarray(supers).view("<f4")
    if kind in TERNARY_TYPES:
        return d * values
    if kind in ("Q3_K", "Q6_K"):
        return np.repeat(d * scales.view(np.int8).astype(np.float32), 16, axis=1) * values
    if kind in ("IQ1_S", "IQ1_M"):
        groups = np.unpackbits(scales[:, 1:], axis=1, bitorder="little")[:, :4].astype(np.int32)
        quants = quants | np.repeat(groups, 8, axis=1) << 2
    steps = np.repeat(scales[:, :1].astype(np.int8), 2, axis=1)
    if kind not in ("IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS"):
        steps = 2 * np.stack([scales[:, 0] & 15, scales[:, 0] >> 4], axis=1) + 1
    return np.repeat(d * steps.astype(np.float32), 16, axis=1) * np.array(codebook(kind), np.float32)[quants]


def plain_block(kind: str, scales: Bytes, quants: npt.NDArray[np.int32]) -> Floats:
    """float32[32, 32] of a block that is one by itself."""
    values = (np.array(codebook(kind))[quants] if codebook(kind) else quants).astype(np.float32)
    if kind == "MXFP4":
        return (np.ascontiguousarray(scales).view("<u2").astype(np.uint32) << 16).view(np.float32) * values
    if kind == "NVFP4":
        exponent, mantissa = (scales >> 3).astype(np.int32), (scales & 7).astype(np.float32)
        factors = np.where(exponent, np.ldexp(1 + mantissa / 8, exponent - 7), mantissa / 512) / 2
        return np.repeat(factors.astype(np.float32), 16, axis=1) * values
    values *= halves(scales[:, :2])
    return values + halves(scales[:, 2:]) if kind in ("Q4_1", "Q5_1") else values


def unpack_tile(tile: Bytes, kind: str, columns: int) -> Floats:
    """float32[32, columns]."""
    read = Reader(tile)
    if kind in FLOAT_TYPES:
        size = {"F32": 4, "F16": 2, "BF16": 2}[kind]
        pieces = [read.lanes(16) for _ in range(columns * size // 16)]
        return dequantize(np.concatenate(pieces, axis=1), kind)
    blocks: list[Floats] = []
    while len(blocks) < columns // 32:
        if kind in SUPER_TYPES and len(blocks) % 8 == 0:
            supers, heads = read.lanes(4), read.lanes(8 if kind in WITH_HEADS else 0)
        for scales, quants in chunk_blocks(read, kind, min(2, columns // 32 - len(blocks))):
            at = len(blocks) % 8
            of = heads[:, at : at + 1] if kind in WITH_HEADS else scales
            blocks.append(
                super_block(kind, supers, of, quants) if kind in SUPER_TYPES else plain_block(kind, of, quants)
            )
    assert read.position == len(tile)
    return np.concatenate(blocks, axis=1)


def same_bits(one: Floats, other: Floats) -> bool:
    """Whether all are the same to the bit, or both not a number: the payload of a NaN says nothing."""
    both = np.isnan(one) & np.isnan(other)
    return one.shape == other.shape and bool((both | (one.view(np.uint32) == other.view(np.uint32))).all())


@pytest.mark.slow
@pytest.mark.parametrize("kind", WEIGHT_TYPES)
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 96])
@pytest.mark.parametrize("blocks", [1, 2, 9, 16])
def test_unpacked_weights_are_those_of_the_file(kind: str, rows: int, blocks: int) -> None:
    columns = blocks * whole_columns(kind, 32)
    random = np.random.default_rng(rows)
    # Every byte of a block random, so every value of every field, infinite and NaN scales among them.
    raw = random.integers(0, 256, (rows, FORMATS[kind].row_bytes(columns)), np.uint8)
    packed = pack_lanes(raw, kind, columns)
    assert packed.size == packed_bytes(f"lanes32_{kind.lower()}", (rows, columns))
    with np.errstate(invalid="ignore", over="ignore"):
        expected = dequantize(raw, kind)
        found = np.concatenate([unpack_tile(tile, kind, columns) for tile in packed])
    assert same_bits(found[:rows], expected)
    assert not found[rows:].any()  # the last tile is filled up with rows of zeros


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
def test_tiles_of_whole_chunks_are_whole_lines(kind: str) -> None:
    """So each load of a wave starts at a multiple of 128 bytes; kernels/hip/gemv.h."""
    assert packed_bytes(f"lanes32_{kind.lower()}", (32, 256)) % 128 == 0


def test_pairs_lie_one_tile_each_in_turn() -> None:
    gate, up = np.arange(0, 3, dtype=np.uint8)[:, None], np.arange(10, 13, dtype=np.uint8)[:, None]
    assert interleave_lane_pairs(gate, up).ravel().tolist() == [0, 10, 1, 11, 2, 12]
    assert packed_bytes("lanes32_pairs_q4_0", (64, 32)) == 2 * packed_bytes("lanes32_q4_0", (32, 32))
    with pytest.raises(ValueError, match="multiple of 64 rows"):
        packed_bytes("lanes32_pairs_q4_0", (96, 32))


@pytest.mark.parametrize("columns", [1, 7, 60, 61])
@pytest.mark.parametrize("kind", FLOAT_TYPES)
def test_float_rows_are_filled_up_to_whole_pieces_with_zeros(kind: str, columns: int) -> None:
    raw = random_rows(np.random.default_rng(columns), kind, 32, columns)
    packed = pack_lanes(raw, kind, columns)
    pieces = -(-raw.shape[1] // 16)
    assert packed.size == packed_bytes(f"lanes32_{kind.lower()}", (32, columns)) == 32 * 16 * pieces
    rows = packed.reshape(pieces, 32, 16).transpose(1, 0, 2).reshape(32, -1)
    assert np.array_equal(rows[:, : raw.shape[1]], raw)
    assert not rows[:, raw.shape[1] :].any()
