"""Packing loses nothing: an unpacker written from the kernels' headers, and the kernels, give back each weight."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.formats import FORMATS
from rocmforge.artifacts.packing_sizes import packed_bytes
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.packing import interleave_pairs, pack_rows
from rocmforge.tests.kernels.kernel_harness import (
    FLOAT_TYPES,
    K_TYPES,
    LEVELS,
    SUPER_TYPES,
    TERNARY_TYPES,
    WEIGHT_TYPES,
    Array,
    Float32,
    Kernels,
    Step,
    assert_guards_whole,
    build,
    codebook,
    guarded,
    random_rows,
    spec,
    weight_parameters,
)
from rocmforge.tests.oracles.dequantize import dequantize

Bytes = npt.NDArray[np.uint8]
ROWS, COLUMNS = 41, 512  # two tiles and 9 rows; two superblocks
OFFSETS = {"Q4_0": 8, "Q5_0": 16, "Q3_K": 4, "Q6_K": 32, "TQ1_0": 1, "TQ2_0": 1, "Q2_0": 1}
# Bits of a packed code, of types whose name does not begin with Q and the number.
CODE_BITS = {"IQ2_XXS": 3, "IQ2_XS": 3, "IQ2_S": 3, **dict.fromkeys(("IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0"), 2)}


class Unpacker:
    """Reads packed bytes in order, as kernels/host/weights_quantized.h describes them: one tile, plain loops."""

    def __init__(self, tile: Bytes) -> None:
        self.tile, self.position = tile, 0

    def take(self, n_bytes: int) -> Bytes:
        taken = self.tile[self.position : self.position + n_bytes]
        self.position += n_bytes
        assert len(taken) == n_bytes
        return taken

    def halves(self) -> npt.NDArray[np.float32]:
        """float16 of 16 rows."""
        return self.take(32).view("<f2").astype(np.float32)

    def bytes_of_rows(self) -> npt.NDArray[np.int32]:
        """A byte of each of 16 rows."""
        return self.take(16).astype(np.int32)

    def vectors(self, kind: str) -> npt.NDArray[np.int32]:
        """Quants [row, column] of a block of 32: lane r of vector v holds columns 4v .. 4v+3 of row r."""
        quants = np.zeros((8, 64), np.int32)
        bits = CODE_BITS.get(kind) or int(kind[1]) if kind[0] == "Q" or kind in CODE_BITS else 4
        if bits == 8:
            quants[:] = self.take(512).view(np.int8).reshape(8, 64)
        elif bits == 3:
            thirds = self.take(192).reshape(3, 64).astype(np.int32)
            for v in range(6):
                quants[v] = thirds[v // 2] >> 4 * (v % 2) & 7
            for v, bit in ((6, 3), (7, 7)):
                quants[v] = sum((third >> bit & 1) << 2 - i for i, third in enumerate(thirds))
        elif bits > 3:
            nibbles = self.take(256).reshape(4, 64).astype(np.int32)
            quants[:4], quants[4:] = nibbles & 15, nibbles >> 4
        if bits in (2, 6):
            pairs = self.take(128).reshape(2, 64).astype(np.int32)
            for v in range(8):
                quants[v] |= (pairs[v // 4] >> 2 * (v % 4) & 3) << (4 if bits == 6 else 0)
        if bits in (1, 5):
            single = self.take(64).astype(np.int32)
            for v in range(8):
                quants[v] |= (single >> v & 1) << (bits - 1)
        return quants.reshape(8, 16, 4).transpose(1, 0, 2).reshape(16, 32)


def halves(first: Array, second: Array) -> npt.NDArray[np.float32]:
    """float32[16, 32]: a number of each row for columns 0..15, and one for 16..31."""
    return np.repeat(np.stack([first, second], axis=1), 16, axis=1).astype(np.float32)


def super_block(read: Unpacker, kind: str, scale: Float32, minimum: Float32) -> npt.NDArray[np.float32]:
    """float32[16, 32]: a block of 32 columns of a superblock."""
    if kind in ("Q3_K", "Q6_K"):
        factor = halves(*read.take(32).view(np.int8).reshape(2, 16)) * scale[:, None]
        return factor * (read.vectors(kind) - OFFSETS[kind]).astype(np.float32)
    if kind == "Q2_K":
        first, second = read.bytes_of_rows(), read.bytes_of_rows()
        factor, offset = halves(first & 15, second & 15), halves(first >> 4, second >> 4)
        return scale[:, None] * factor * read.vectors(kind).astype(np.float32) - minimum[:, None] * offset
    if kind in K_TYPES:
        factors, minima = (read.bytes_of_rows().astype(np.float32) for _ in range(2))
        quants = read.vectors(kind).astype(np.float32)
        return (scale * factors)[:, None] * quants - (minimum * minima)[:, None]
    if kind in TERNARY_TYPES:
        return scale[:, None] * (read.vectors(kind) - 1).astype(np.float32)
    steps, groups = read.bytes_of_rows(), np.zeros((16, 4), np.int32)
    factor = halves(2 * (steps & 15) + 1, 2 * (steps >> 4) + 1)
    if kind in ("IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS"):
        factor = halves(steps.astype(np.int8), steps.astype(np.int8))
    if kind in ("IQ1_S", "IQ1_M"):
        groups = np.unpackbits(read.take(16).reshape(16, 1), axis=1, bitorder="little")[:, :4].astype(np.int32)
    codes = read.vectors(kind) | np.repeat(groups, 8, axis=1) << 2
    eighths = {"IQ4_XS": 8, "IQ3_S": 8, "IQ3_XXS": 2}.get(kind, 1)
    values: Float32 = scale[:, None] * factor * np.float32(eighths / 8) * np.array(codebook(kind), np.float32)[codes]
    return values


def plain_block(read: Unpacker, kind: str) -> npt.NDArray[np.float32]:
    """float32[16, 32]: a block of 32 columns that is one by itself."""
    codes = read.vectors(kind)
    entries = np.array(codebook(kind))[codes] if codebook(kind) else codes - OFFSETS.get(kind, 0)
    values = entries.astype(np.float32)
    if kind == "MXFP4":
        return (read.take(32).view("<u2").astype(np.uint32) << 16).view(np.float32)[:, None] * values
    if kind == "NVFP4":
        return halves(*(e4m3(read.take(16)) / 2 for _ in range(2))) * values
    values = read.halves()[:, None] * values
    return values + read.halves()[:, None] if kind in ("Q4_1", "Q5_1") else values


def e4m3(x: Bytes) -> npt.NDArray[np.float32]:
    """Unsigned E4M3 without anything that is not a number."""
    exponent, mantissa = (x >> 3).astype(np.int32), (x & 7).astype(np.float32)
    return np.where(exponent, np.ldexp(1 + mantissa / 8, exponent - 7), mantissa / 512).astype(np.float32)


def unpack_tile(tile: Bytes, kind: str, columns: int) -> npt.NDArray[np.float32]:
    """float32[16, columns]."""
    read = Unpacker(tile)
    blocks = []
    with np.errstate(invalid="ignore", over="ignore"):
        for block in range(columns // 32):
            if kind in SUPER_TYPES and block % 8 == 0:
                scale = minimum = read.halves()
                if kind in ("Q2_K", "Q4_K", "Q5_K"):
                    minimum = read.halves()
            blocks.append(super_block(read, kind, scale, minimum) if kind in SUPER_TYPES else plain_block(read, kind))
    assert read.position == len(tile)
    return np.concatenate(blocks, axis=1).astype(np.float32)


def unpack(packed: Bytes, kind: str, columns: int) -> npt.NDArray[np.float32]:
    """float32[16 * tiles, columns]; float weights lie column by column, 16 rows each."""
    if kind not in FLOAT_TYPES:
        return np.concatenate([unpack_tile(tile, kind, columns) for tile in packed])
    size = {"F32": 4, "F16": 2, "BF16": 2}[kind]
    raw = packed.reshape(len(packed), columns, 16, size).transpose(0, 2, 1, 3).reshape(-1, columns * size)
    return dequantize(np.ascontiguousarray(raw), kind)


def same_bits(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    """Whether all are the same to the bit, or both not a number: the payload of a NaN says nothing."""
    both = np.isnan(one) & np.isnan(other)
    return one.shape == other.shape and bool((both | (one.view(np.uint32) == other.view(np.uint32))).all())


def test_the_types_are_all_that_can_be_packed() -> None:
    assert set(FORMATS) == set(WEIGHT_TYPES)


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
@pytest.mark.parametrize("rows", [1, 15, 16, 17, ROWS])
def test_unpacked_weights_are_those_of_the_file(kind: str, rows: int) -> None:
    random = np.random.default_rng(rows)
    # Every byte of a block random, so every value of every field, infinite and NaN scales among them.
    raw = random.integers(0, 256, (rows, FORMATS[kind].row_bytes(COLUMNS)), np.uint8)
    packed = pack_rows(raw, kind, COLUMNS)
    assert packed.size == packed_bytes(f"rows16_{kind.lower()}", (rows, COLUMNS))
    with np.errstate(invalid="ignore", over="ignore"):
        expected = dequantize(raw, kind)
    found = unpack(packed, kind, COLUMNS)
    assert same_bits(found[:rows], expected)
    assert not found[rows:].any()  # the last tile is filled up with rows of zeros


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
def test_each_row_is_packed_by_itself(kind: str) -> None:
    """Tiles depend on their own rows alone, so packing in pieces of whole tiles gives the same bytes."""
    raw = random_rows(np.random.default_rng(1), kind, 64, 256)
    pieces = [pack_rows(raw[start : start + 16], kind, 256) for start in range(0, 64, 16)]
    assert np.array_equal(np.concatenate(pieces), pack_rows(raw, kind, 256))
    assert all(one.tobytes() != other.tobytes() for one, other in itertools.pairwise(pieces))


def test_pairs_lie_two_tiles_each_in_turn() -> None:
    gate, up = np.arange(0, 4, dtype=np.uint8)[:, None], np.arange(10, 14, dtype=np.uint8)[:, None]
    assert interleave_pairs(gate, up).ravel().tolist() == [0, 1, 10, 11, 2, 3, 12, 13]


@pytest.fixture(scope="module")
def embeddings(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernels]:
    specs = [spec("embedding", **weight_parameters(kind, COLUMNS)) for kind in WEIGHT_TYPES]
    return dict(build(specs, build_cache, tmp_path_factory.mktemp("embedding"), LEVELS))


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
@pytest.mark.parametrize("level", LEVELS)
def test_embedding_kernel_gives_the_weights_of_the_file(embeddings: dict[str, Kernels], level: str, kind: str) -> None:
    # Subnormal, infinite and NaN floats are among them.
    raw = np.random.default_rng(7).integers(0, 256, (ROWS, FORMATS[kind].row_bytes(COLUMNS)), np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        expected = dequantize(raw, kind)
    token_ids = [*range(ROWS), 0, ROWS - 1, 16, 15, 7, 32]
    kernel = spec("embedding", **weight_parameters(kind, COLUMNS))
    for by_item in (False, True):
        out, memory = guarded((len(token_ids), COLUMNS), np.float32)
        step = Step(len(token_ids), token_ids=token_ids)
        embeddings[level].run(kernel, step, pack_rows(raw, kind, COLUMNS), out, by_item=by_item)
        assert_guards_whole(memory)
        assert same_bits(out, expected[token_ids])
