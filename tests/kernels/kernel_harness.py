"""Runs single host kernels: builds any number of them in one shared object, and calls each by its record.

The structures mirror kernels/host/common.h.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.host import cpu_features, host_arch
from rocmforge.compiler.build import build_variants, find_toolchain
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.ops.attention import SPAN, host_record_floats
from rocmforge.compiler.plan import KernelSpec, Parameter
from rocmforge.compiler.render import render_kernel
from rocmforge.compiler.target import TARGETS
from rocmforge.tools.generate import gguf_types  # noqa: F401 - more types

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

FLOAT_TYPES = ("F32", "F16", "BF16")
K_TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
IQ_TYPES = ("IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M")
TERNARY_TYPES = ("TQ1_0", "TQ2_0")
SUPER_TYPES = (*K_TYPES, *IQ_TYPES, *TERNARY_TYPES)
"""Of blocks of 256 columns, and multiplied with superblocks of activations alone."""
FP4_TYPES = ("MXFP4", "NVFP4")
WEIGHT_TYPES = (
    *FLOAT_TYPES,
    *("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *SUPER_TYPES,
    *("IQ4_NL", *FP4_TYPES, "Q1_0", "Q2_0"),
)
FAMILIES = ("F16", "Q4_1", "Q8_0", "Q6_K", "IQ4_XS", "Q2_K")
"""A type of each family of code, for what hangs on shapes or on a machine's instructions beside the type."""
LIKE_ANOTHER = ("IQ3_S", "IQ2_XXS", "IQ2_S", "IQ1_M", "TQ1_0", "IQ4_NL")
"""Types of which each part of the code is that of another type: of IQ3_XXS, IQ2_XS, IQ1_S, TQ2_0, IQ4_XS and Q4_0."""
ROUNDING = 2.0**-24  # of one float32 operation, relative
LEVELS = tuple(
    one.level
    for one in TARGETS[host_arch()].variants
    if cpu_features().issuperset(one.cpu_features) and one.plain_flags is None
)
"""ISA levels that this machine can run, best first; `test_panels` has the one whose tiles the system has to give."""

Q8_BLOCK = np.dtype(
    [
        *(("unit", "<f4"), ("shifts", "<i4", 2), ("sums", "<i4", 2)),
        *(("scaled_sum", "<f4"), ("quants", "i1", 32)),
    ]
)
"""struct q8_block."""
MAX_SHIFT = 11
_Q8_PART = np.dtype([("shifts", "<i4", 2), ("sums", "<i4", 2), ("sum", "<f4"), ("quants", "i1", 32)])
Q8_SUPERBLOCK = np.dtype(
    [("unit", "<f4"), ("part_twos", "<i2", 16), ("block_fours", "<i2", 8), ("blocks", _Q8_PART, 8)]
)
"""struct q8_superblock."""
SUPER_SHIFT = 5

_GUARD_BYTES = 256
_GUARD = 0xA5


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("num_tokens", "num_logits", "blocks_per_row", "reserved")),
        *((name, ctypes.c_void_p) for name in ("token_ids", "positions", "rows", "block_table", "logits_rows")),
        *((name, ctypes.c_void_p) for name in ("sampling", "sampled", "adapter_scales")),
        ("num_sequences", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("sequence_starts", "state_from", "state_to")),
        *((name, ctypes.c_void_p) for name in ("input_rows", "row_of", "rope_positions", "output_rows")),
        ("num_outputs", ctypes.c_int32),
    )


_Items = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
_Run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)


class _Kernel(ctypes.Structure):
    _fields_ = (("items", _Items), ("run", _Run))


@dataclass(frozen=True, slots=True)
class Step:
    """What kernels see of a batch; fields as in `device.batch.Batch`."""

    num_tokens: int
    token_ids: Sequence[int] = ()
    positions: Sequence[int] = ()
    rows: Sequence[int] = ()
    block_table: Sequence[Sequence[int]] = ((),)
    logits_rows: Sequence[int] = ()
    adapter_scales: Float32 | None = None
    sequence_starts: Sequence[int] = ()
    state_from: Sequence[int] = ()
    state_to: Sequence[int] = ()
    input_rows: Float32 | None = None
    row_of: Sequence[int] = ()
    rope_positions: Sequence[Sequence[int]] = ()
    output_rows: Sequence[int] | None = None


def spec(template: str, **parameters: Parameter) -> KernelSpec:
    """A kernel of kernels/host."""
    return KernelSpec(template, tuple(sorted(parameters.items())))


def weight_parameters(ggml_type: str, columns: int) -> dict[str, Parameter]:
    """What kernels that read weights need beside their own."""
    return {"columns": columns, "weight_type": ggml_type}


def product_parameters(ggml_type: str, columns: int, x_super: bool = False) -> dict[str, Parameter]:
    """What kernels that multiply rows with weights need beside their own.

    Args:
        x_super: rows are superblocks, as they are anyway where the type wants it.
    """
    parameters = weight_parameters(ggml_type, columns)
    if ggml_type in FLOAT_TYPES:
        return {**parameters, "activation_bytes": 4 * columns}
    x_super |= ggml_type in SUPER_TYPES
    n_bytes = columns // 256 * Q8_SUPERBLOCK.itemsize if x_super else columns // 32 * Q8_BLOCK.itemsize
    return {**parameters, "activation_bytes": n_bytes, "x_super": x_super}


def attention_records(heads: int, value_dim: int, length: int) -> Float32:
    """What the host's attention shares spans in, for sequences of that length: counts of zero, and anything."""
    records = np.full(host_record_floats(heads, value_dim, -(-length // SPAN)), np.nan, np.float32)
    records[: host_record_floats(heads, value_dim, 0)] = 0
    return records


def guarded(shape: tuple[int, ...], dtype: npt.DTypeLike) -> tuple[Array, Array]:
    """An array for a kernel to write, filled with 0xA5, and the memory that it lies in the middle of."""
    kind = np.dtype(dtype)
    n_bytes = int(np.prod(shape)) * kind.itemsize
    memory = np.full(n_bytes + 2 * _GUARD_BYTES, _GUARD, np.uint8)
    return memory[_GUARD_BYTES : _GUARD_BYTES + n_bytes].view(kind).reshape(shape), memory


def assert_guards_whole(memory: Array) -> None:
    """The kernel wrote nothing before or after its output."""
    assert (memory[:_GUARD_BYTES] == _GUARD).all(), "written before the output"
    assert (memory[-_GUARD_BYTES:] == _GUARD).all(), "written after the output"


class Kernels:
    """One shared object of kernels, loaded."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def has(self, kernel: KernelSpec) -> bool:
        """Whether it was built with the others."""
        return hasattr(self._library, kernel.symbol)

    def run(self, kernel: KernelSpec, step: Step, *arguments: Array | None, by_item: bool = False) -> None:
        """Run a kernel on arrays, which it reads and writes in place.

        Args:
            by_item: the work items one by one, the last first, as threads may take them.
        """
        record = _Kernel.in_dll(self._library, kernel.symbol)
        arrays = [
            np.ascontiguousarray(value, np.int32)
            for value in (step.token_ids, step.positions, step.rows, step.block_table, step.logits_rows)
        ]
        native = _Step(
            step.num_tokens, len(step.logits_rows), arrays[3].shape[-1], 0, *(array.ctypes.data for array in arrays)
        )
        if step.adapter_scales is not None:
            native.adapter_scales = step.adapter_scales.ctypes.data
        native.num_sequences, state = len(step.state_from), []
        for name in ("sequence_starts", "state_from", "state_to") if step.state_from else ():
            state.append(np.array(getattr(step, name), np.int32))
            setattr(native, name, state[-1].ctypes.data)
        row_of = np.array(step.row_of, np.int32)
        if step.input_rows is not None:
            native.input_rows, native.row_of = step.input_rows.ctypes.data, row_of.ctypes.data
        if step.rope_positions:
            state.append(np.array(step.rope_positions, np.int32))
            native.rope_positions = state[-1].ctypes.data
        if step.output_rows is not None:
            state.append(np.array(step.output_rows, np.int32))
            native.output_rows, native.num_outputs = state[-1].ctypes.data, len(step.output_rows)
        assert all(array is None or array.flags.c_contiguous for array in arguments)
        pointers = (ctypes.c_void_p * 8)(*(None if array is None else array.ctypes.data for array in arguments))
        where = ctypes.addressof(native), ctypes.addressof(pointers)
        items = record.items(where[0])
        for first in reversed(range(items)) if by_item else ():
            record.run(*where, first, first + 1)
        if not by_item:
            record.run(*where, 0, items)


_numbers = itertools.count()


def build(
    specs: Iterable[KernelSpec],
    cache: BuildCache,
    folder: Path,
    levels: Sequence[str],
    optimize: str = "-O1",
    first: str = "",
) -> Mapping[str, Kernels]:
    """Build kernels with the pinned toolchain, at each of `levels`.

    Args:
        optimize: "-O3" as the product does; less takes half the time, and no flag may change a bit of the results.
        first: line of each source.
    """
    host = TARGETS[host_arch()]
    variants = (variant for variant in host.variants if variant.level in levels)
    target = replace(host, variants=tuple(replace(one, flags=(*one.flags, optimize)) for one in variants))
    rendered = (render_kernel("host", one) for one in {one.symbol: one for one in specs}.values())
    sources = tuple(replace(one, text=first + one.text) for one in rendered)
    code = build_variants(sources, target, find_toolchain("auto", target), cache, lambda _done, _total: None, 2)
    loaded = {}
    for item in code:
        path = folder / f"{next(_numbers)}.so"  # glibc knows libraries by path
        path.write_bytes(item.data)
        loaded[item.variant.level] = Kernels(path)
    return loaded


def random_rows(
    random: np.random.Generator, ggml_type: str, rows: int, columns: int, scale: float = 1.0
) -> npt.NDArray[np.uint8]:
    """Rows of a GGUF tensor: every bit of it random, but for scales, which are finite and of normal size.

    Args:
        scale: that all weights are times as large; of types whose scales are no float16, to a power of two.

    Returns:
        uint8[rows, row_bytes].
    """
    if ggml_type in FLOAT_TYPES:
        values = random.normal(0, scale, (rows, columns)).astype(np.float32)
        if ggml_type == "BF16":
            return np.ascontiguousarray(values.view(np.uint16)[:, 1::2]).view(np.uint8)
        return values.astype({"F32": np.float32, "F16": np.float16}[ggml_type]).view(np.uint8)
    block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[ggml_type]]
    raw = random.integers(0, 256, (rows, columns // block, n_bytes), np.uint8)
    deviation, power = 0.1 * scale, round(math.log2(scale))
    for offset in SCALE_OFFSETS.get(ggml_type, ()):
        scales = random.normal(0, deviation, (rows, columns // block, 1)).astype("<f2")
        raw[..., offset : offset + 2] = scales.view(np.uint8)
    if ggml_type == "MXFP4":
        raw[..., 0] = random.integers(120 + power, 125 + power, raw.shape[:2])  # 2^-8 to 2^-4
    elif ggml_type == "NVFP4":  # 2^-7 to 2^-3, or what is left of that down to the least that is not 0
        least, end = (max(byte + 8 * power, no_less) for byte, no_less in ((0x08, 1), (0x28, 2)))
        raw[..., :4] = random.integers(least, end, (*raw.shape[:2], 4))
    elif ggml_type == "IQ1_M":  # four bits in each of four words
        d = random.normal(0, deviation, (rows, columns // block)).astype("<f2").view(np.uint16)
        for word in range(4):
            high = (d >> 4 * word & 15) << 4
            raw[..., 49 + 2 * word] = raw[..., 49 + 2 * word] & 15 | high
    return raw.reshape(rows, -1)


def whole_columns(ggml_type: str, columns: int) -> int:
    """`columns` or more, of whole blocks."""
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[ggml_type]][0]
    return -(-columns // block) * block


def codebook(ggml_type: str) -> tuple[int, ...]:
    """What the codes of a packed weight stand for, from the tables of the `gguf` package; none: for themselves."""
    if ggml_type in ("IQ4_NL", "IQ4_XS"):
        return tuple(gguf.quants.IQ4_NL.kvalues)
    if ggml_type in FP4_TYPES:
        return tuple(gguf.quants.MXFP4.kvalues)
    if ggml_type.startswith(("IQ2", "IQ3")):
        values = (*getattr(gguf.quants, ggml_type).grid_map, *((0,) if ggml_type.startswith("IQ2") else ()))
        return (*values, *(-value for value in values))
    if ggml_type.startswith("IQ1"):  # in eighths, with one more and with one less
        return tuple(8 * value + delta for delta in (1, -1) for value in (*gguf.quants.IQ1_S.grid_map, 0))
    return (-1, 1) if ggml_type == "Q1_0" else ()


# Where the float16 fields of a block lie: block_q* in ggml's ggml-common.h.
SCALE_OFFSETS = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
    **dict.fromkeys(
        ("IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "Q1_0", "Q2_0"), (0,)
    ),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}


def q8_0(x: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """float[..., n] as the `gguf` package quantizes it: int8[..., n] and scales float16[..., n / 32]."""
    with np.errstate(over="ignore", invalid="ignore"):
        raw = gguf.quants.quantize(np.asarray(x, np.float32).reshape(-1, x.shape[-1]), gguf.GGMLQuantizationType.Q8_0)
    blocks = raw.reshape(*x.shape[:-1], x.shape[-1] // 32, 34)
    scales = np.ascontiguousarray(blocks[..., :2]).view(np.float16)[..., 0]
    return np.ascontiguousarray(blocks[..., 2:]).view(np.int8).reshape(x.shape), scales


def kv_pages(keys: Array, values: Array, dtype: str, lanes: bool = False) -> tuple[Array, Array]:
    """Pages of the KV cache, uint8[block, kv head, bytes], as the kernels' kv_blocks.h has them.

    Args:
        keys: [block, kv head, head_dim, 16].
        values: [block, kv head, 16, head_dim].
        dtype: of the pages, one of `KV_DTYPES`.
        lanes: as the GPU has them.
    """
    by_position = keys.transpose(0, 1, 3, 2), values
    if dtype == "q8_0":
        (key_quants, key_scales), (value_quants, value_scales) = map(q8_0, by_position)
        return _page(key_quants, key_scales, lanes), _page(value_quants, value_scales, None)
    with np.errstate(over="ignore"):
        halves = [x.astype(np.float16) for x in by_position]
    return _page(halves[0], None, lanes), _page(halves[1], None, None)


def page_masks(written: Array, kv_heads: int, head_dim: int, dtype: str, lanes: bool = False) -> tuple[Array, Array]:
    """Which bytes of the pages belong to positions of which bool[block, 16] `written` is true."""
    marks = -written.astype(np.int16)
    shape = (len(written), kv_heads, 16)
    elements, scales = (np.broadcast_to(marks[:, None, :, None], (*shape, n)) for n in (head_dim, head_dim // 32))
    if dtype == "q8_0":
        elements = elements.astype(np.int8)
    pages = (_page(elements, scales if dtype == "q8_0" else None, order) for order in (lanes, None))
    first, second = (page == 0xFF for page in pages)
    return first, second


def _page(elements: Array, scales: Array | None, key_lanes: bool | None) -> Array:
    """[block, kv head, 16, head_dim] with scales [block, kv head, 16, head_dim / 32] in a page's order.

    Args:
        key_lanes: None for values; of keys, whether 8 elements lie side by side.
    """
    blocks, kv_heads, _, head_dim = elements.shape
    if key_lanes:
        elements = elements.reshape(blocks, kv_heads, 16, head_dim // 8, 8).swapaxes(2, 3)
    elif key_lanes is not None:
        elements = elements.swapaxes(2, 3)
    parts = (elements,) if scales is None else (elements, scales.swapaxes(2, 3))
    return np.concatenate([np.ascontiguousarray(x).view(np.uint8).reshape(blocks, kv_heads, -1) for x in parts], -1)


def as_stored(x: Array, dtype: str) -> Array:
    """What is left of [..., head_dim] when pages of `dtype` have held it: float16, or float32 for q8_0."""
    if dtype == "f16":
        return x.astype(np.float16)
    quants, scales = q8_0(x)
    return quants * np.repeat(scales.astype(np.float32), 32, axis=-1)


def quantize_rows(x: Float32) -> npt.NDArray[np.void]:
    """float32[rows, columns] as `Q8_BLOCK`[rows, columns / 32], as kernels/host/quantize_blocks.h says, to the bit."""
    halves = x.reshape(len(x), -1, 2, 16)
    largest = np.abs(halves).max(axis=-1)
    larger = np.arange(2) == (largest[..., 1] > largest[..., 0])[..., None]
    most, other = largest.max(axis=-1), largest.min(axis=-1)
    two, five = np.float32(2), np.float32(5)
    with np.errstate(over="ignore", divide="ignore", under="ignore"):
        most = np.where((most < two * other) & (two * most * most > five * other * other), two * other, most)
        inverse = np.where(most >= 2.0**-100, np.float32(127) / most, np.float32(0)).astype(np.float32)
    (most_part, most_exponent), (part, exponent) = np.frexp(most), np.frexp(other)
    halvings = np.minimum(most_exponent - exponent - (most_part < part), MAX_SHIFT)
    halvings = np.where(other > 0, halvings, np.where(most > 0, MAX_SHIFT, 0)).astype(np.int32)
    factors = inverse[..., None] * np.exp2(np.where(larger, 0, halvings[..., None])).astype(np.float32)
    quants = np.rint(halves * factors[..., None]).astype(np.int8)
    sums = quants.sum(axis=-1, dtype=np.int32)
    blocks = np.zeros(halves.shape[:2], Q8_BLOCK)
    blocks["unit"] = most * np.float32(1 / 127) / np.exp2(halvings).astype(np.float32)
    blocks["shifts"], blocks["sums"] = np.where(larger, halvings[..., None], 0), -128 * sums
    blocks["scaled_sum"] = blocks["unit"] * (sums << blocks["shifts"]).sum(axis=-1).astype(np.float32)
    blocks["quants"] = quants.reshape(*halves.shape[:2], 32)
    return blocks


def quantize_superblocks(x: Float32) -> npt.NDArray[np.void]:
    """float32[rows, columns] as `Q8_SUPERBLOCK`[rows, columns / 256], as quantize_superblock says, to the bit."""
    parts = x.reshape(len(x), -1, 16, 16)
    largest = np.abs(parts).max(axis=-1)
    top = largest.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(top >= 2.0**-100, np.float32(127) / top, np.float32(0)).astype(np.float32)
    (top_part, top_exponent), (part, exponent) = np.frexp(top), np.frexp(largest)
    halvings = np.minimum(top_exponent - exponent - (top_part < part), SUPER_SHIFT)
    halvings = np.where(largest > 0, halvings, np.where(top > 0, SUPER_SHIFT, 0)).astype(np.int32)
    quants = np.rint(parts * (inverse * np.exp2(halvings).astype(np.float32))[..., None]).astype(np.int8)
    sums, shifts = quants.sum(axis=-1, dtype=np.int32), SUPER_SHIFT - halvings
    of_parts = sums << shifts
    of_blocks = of_parts.reshape(*of_parts.shape[:2], 8, 2).sum(axis=-1)
    result = np.zeros(parts.shape[:2], Q8_SUPERBLOCK)
    result["unit"] = top[..., 0] * np.float32(1 / 127) * np.float32(2.0**-SUPER_SHIFT)
    result["part_twos"], result["block_fours"] = np.floor((of_parts + 1) / 2), np.floor((of_blocks + 2) / 4)
    blocks = result["blocks"]
    blocks["shifts"], blocks["sums"] = (n.reshape(*n.shape[:2], 8, 2) for n in (shifts, -128 * sums))
    blocks["sum"], blocks["quants"] = of_blocks, quants.reshape(*quants.shape[:2], 8, 32)
    return result


def int8_rows(x: Float32, ggml_type: str, x_super: bool = False) -> npt.NDArray[np.void]:
    """Rows as a kernel with weights of that type reads them, `product_parameters`."""
    return quantize_superblocks(x) if x_super or ggml_type in SUPER_TYPES else quantize_rows(x)


def q8_values(blocks: npt.NDArray[np.void]) -> Float64:
    """float64[rows, columns] that `Q8_BLOCK`s or `Q8_SUPERBLOCK`s stand for, exactly."""
    if blocks.dtype == Q8_SUPERBLOCK:
        parts = blocks["blocks"]
        steps = blocks["unit"][..., None, None].astype(np.float64) * 2.0 ** parts["shifts"]
        products: Float64 = (np.repeat(steps, 16, axis=-1) * parts["quants"]).reshape(len(blocks), -1)
        return products
    scales = np.repeat(blocks["unit"][..., None].astype(np.float64) * 2.0 ** blocks["shifts"], 16, axis=-1)
    values: Float64 = (scales * blocks["quants"]).reshape(len(blocks), -1)
    return values
