"""Packing "lanes32" loses nothing: an unpacker written from kernels/hip gives back each weight, to the bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.formats import FORMATS
from rocmforge.artifacts.packing_sizes import packed_bytes
from rocmforge.compiler.packing_lanes import interleave_lane_pairs, pack_lanes
from rocmforge.tests.kernels.kernel_harness import FLOAT_TYPES, WEIGHT_TYPES, dequantize

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
K_TYPES = ("Q3_K", "Q4_K", "Q5_K", "Q6_K")
OFFSETS = {"Q4_0": 8, "Q5_0": 16, "Q3_K": 4, "Q6_K": 32}


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


def column_of_dword(vector: int, byte: int) -> int:
    return 4 * vector + byte


def quants_of_block(kind: str, pieces: list[Bytes], high: Bytes) -> npt.NDArray[np.int32]:
    """int32[32 rows, 32 columns] of one block, from its pieces [32, 16] and its high bits [32, bytes]."""
    quants = np.zeros((32, 32), np.int32)
    if kind == "Q8_0":
        return np.concatenate(pieces, axis=1).view(np.int8).astype(np.int32)
    if kind == "Q3_K":
        for column in range(32):
            half, vector, byte = column // 16, column % 16 // 4, column % 4
            low = pieces[0][:, 4 * half + byte] >> 2 * vector & 3
            third = high[:, byte] >> (4 * half + vector) & 1
            quants[:, column] = low | third << 2
        return quants - OFFSETS[kind]
    for dword in range(4):
        for byte in range(4):
            value = pieces[0][:, 4 * dword + byte].astype(np.int32)
            quants[:, 4 * dword + byte] = value & 15
            quants[:, 16 + 4 * dword + byte] = value >> 4
    for vector in range(8):
        for byte in range(4):
            column = column_of_dword(vector, byte)
            if kind.startswith("Q5"):
                quants[:, column] |= (high[:, byte].astype(np.int32) >> vector & 1) << 4
            if kind == "Q6_K":
                pairs = high[:, 4 * (vector // 4) + byte].astype(np.int32)
                quants[:, column] |= (pairs >> 2 * (vector % 4) & 3) << 4
    return quants - OFFSETS.get(kind, 0)


def chunk_blocks(read: Reader, kind: str, width: int) -> Iterator[tuple[Bytes, npt.NDArray[np.int32]]]:
    """Scales [32, bytes] and quants of each block of a chunk."""
    scale_bytes = 4 if kind in {"Q4_1", "Q5_1"} else 2
    scales = read.lanes(width * scale_bytes).reshape(32, width, scale_bytes)
    if kind == "Q3_K":
        both = read.lanes(8 * width).reshape(32, width, 8)
        pieces = [[both[:, block]] for block in range(width)]
    else:
        pieces = [[read.lanes(16) for _ in range(2 if kind == "Q8_0" else 1)] for _ in range(width)]
    high_bytes = 4 if kind.startswith(("Q3", "Q5")) else 8 if kind == "Q6_K" else 0
    high = read.lanes(width * high_bytes).reshape(32, width, high_bytes)
    for block in range(width):
        yield scales[:, block], quants_of_block(kind, pieces[block], high[:, block])


def unpack_tile(tile: Bytes, kind: str, columns: int) -> Floats:
    """float32[32, columns]."""
    read = Reader(tile)
    if kind in FLOAT_TYPES:
        size = {"F32": 4, "F16": 2, "BF16": 2}[kind]
        pieces = [read.lanes(16) for _ in range(columns * size // 16)]
        return dequantize(np.concatenate(pieces, axis=1), kind)
    blocks: list[Floats] = []
    while len(blocks) < columns // 32:
        if kind in K_TYPES and len(blocks) % 8 == 0:
            supers = read.lanes(4)
        for scales, quants in chunk_blocks(read, kind, min(2, columns // 32 - len(blocks))):
            values = quants.astype(np.float32)
            if kind in ("Q3_K", "Q6_K"):
                factors = np.ascontiguousarray(supers).view("<f4") * scales.view(np.int8).astype(np.float32)
                blocks.append(np.repeat(factors, 16, axis=1) * values)
            elif kind in K_TYPES:
                scale = halves(supers[:, :2]) * scales[:, :1].astype(np.float32)
                minimum = halves(supers[:, 2:]) * scales[:, 1:].astype(np.float32)
                blocks.append(scale * values - minimum)
            else:
                values *= halves(scales[:, :2])
                blocks.append(values + halves(scales[:, 2:]) if kind.endswith("_1") else values)
    assert read.position == len(tile)
    return np.concatenate(blocks, axis=1)


def same_bits(one: Floats, other: Floats) -> bool:
    """Whether all are the same to the bit, or both not a number: the payload of a NaN says nothing."""
    both = np.isnan(one) & np.isnan(other)
    return one.shape == other.shape and bool((both | (one.view(np.uint32) == other.view(np.uint32))).all())


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 96])
@pytest.mark.parametrize("blocks", [1, 2, 9, 16])
def test_unpacked_weights_are_those_of_the_file(kind: str, rows: int, blocks: int) -> None:
    columns = blocks * (256 if kind in K_TYPES else 32)
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


@pytest.mark.parametrize("kind", FLOAT_TYPES)
def test_float_columns_come_in_eights(kind: str) -> None:
    with pytest.raises(ValueError, match="multiple of 8 columns"):
        packed_bytes(f"lanes32_{kind.lower()}", (32, 60))
