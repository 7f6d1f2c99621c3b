"""Quantized weights of folders, in GGUF's types: to the bit where they are integers, FP8 rounded once, to BF16.

Source: what `transformers` calls `quantization_config`; the layouts of AWQ (AutoAWQ, "gemm"), of compressed-tensors
("pack-quantized", "int-quantized", "float-quantized"), of FP8 with block scales (DeepSeek V3, Qwen3) and of gpt-oss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import InputError, printable
from ..ggml_types import GgmlType as Quant
from .blocks import (
    bf16_rows,
    e4m3_values,
    exact_half,
    float_values,
    q4_0_rows,
    q5_0_rows,
    q8_0_rows,
    unpack_nibbles,
)
from .json_file import JsonObject
from .safetensors_file import SafetensorsFile, StoredTensor

Bytes = npt.NDArray[np.uint8]
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where the nibbles of a word are that columns 0 to 7 have
_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a folder, with its file."""

    part: SafetensorsFile
    tensor: StoredTensor

    def error(self, problem: str) -> InputError:
        """Return the error that this tensor has `problem`."""
        return InputError(self.part.path, self.tensor.name, problem)

    def rows(self, first: int, count: int) -> Bytes:
        """Return rows as they are stored, uint8[count, bytes]."""
        return self.part.read_rows(self.tensor.name, first, count)

    def words(self) -> npt.NDArray[np.uint32]:
        """Return all of a matrix of 32-bit words."""
        return _words(self.part, self.tensor.name)

    def floats(self) -> npt.NDArray[np.float32]:
        """Return all of a tensor of floats, as it is shaped."""
        raw = self.rows(0, self.tensor.rows).reshape(-1)
        return float_values(raw, self.tensor.dtype).reshape(self.tensor.shape)

    def check(self, dtypes: tuple[str, ...], *shapes: tuple[int, ...]) -> None:
        """Check type and shape, which may be one of several.

        Raises:
            InputError: it has others.
        """
        if self.tensor.dtype not in dtypes:
            raise self.error(f"expected a type of {', '.join(dtypes)}, found {self.tensor.dtype}")
        if self.tensor.shape not in shapes:
            expected = " or ".join(str(list(shape)) for shape in shapes)
            raise self.error(f"expected shape {expected}, found {list(self.tensor.shape)}")


@lru_cache(maxsize=4)  # AWQ's rows are columns of the file: pieces of a matrix are read one after another
def _words(part: SafetensorsFile, name: str) -> npt.NDArray[np.uint32]:
    tensor = part.tensors[name]
    return part.read_rows(name, 0, tensor.rows).view("<u4").reshape(tensor.shape)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor as GGUF would have it, made of quantized parts: a matrix, or one for each expert.

    Attributes:
        name: that it has in the folder of a model that is not quantized.
        shape: outputs, inputs; before them experts.
        read: rows in `kind`, by the first and their number.
        parts: names of the tensors that it is made of.
    """

    name: str
    kind: Quant
    shape: tuple[int, ...]
    read: Callable[[int, int], Bytes]
    parts: tuple[str, ...]


Scheme = Callable[[JsonObject, Mapping[str, Stored], str], Iterable[Matrix]]


def quantized_matrices(config: JsonObject, stored: Mapping[str, Stored]) -> tuple[Matrix, ...]:
    """Return the quantized matrices of a folder; none where it is not quantized.

    Raises:
        InputError: they are quantized in a way that is not supported, or their parts contradict each other.
    """
    if not config.has("quantization_config"):
        return ()
    settings = config.part("quantization_config")
    method = settings.text("quant_method")
    if method not in _SCHEMES:
        expected = ", ".join(_SCHEMES)
        raise settings.error("quant_method", f"expected one of {expected}, found {printable(method)}")
    ending, scheme = _SCHEMES[method]
    bases = dict.fromkeys(name.removesuffix(end) for name in stored for end in ending if name.endswith(end))
    return tuple(matrix for base in bases for matrix in scheme(settings, stored, base))


def _part(stored: Mapping[str, Stored], whole: Stored, name: str) -> Stored:
    if name not in stored:
        raise whole.error(f"expected {name.rpartition('.')[2]} beside it, found no such tensor")
    return stored[name]


def _sizes(weight: Stored) -> tuple[int, int]:
    if len(weight.tensor.shape) != 2 or 0 in weight.tensor.shape:
        raise weight.error(f"expected a matrix, found shape {list(weight.tensor.shape)}")
    return weight.tensor.shape[0], weight.tensor.shape[1]


def _fp8(settings: JsonObject, stored: Mapping[str, Stored], base: str) -> Iterator[Matrix]:
    """FP8 e4m3 with a scale for each block of rows and columns."""
    weight = _part(stored, stored[f"{base}.weight_scale_inv"], f"{base}.weight")
    size = settings.numbers("weight_block_size", 1, 1 << 20) if settings.has("weight_block_size") else (128.0, 128.0)
    if len(size) != 2:
        raise settings.error("weight_block_size", f"expected rows and columns, found {len(size)} numbers")
    yield _scaled_fp8(base, weight, stored[f"{base}.weight_scale_inv"], (int(size[0]), int(size[1])))


def _scaled_fp8(base: str, weight: Stored, scale: Stored, block: tuple[int, int]) -> Matrix:
    rows, columns = _sizes(weight)
    weight.check(("F8_E4M3",), (rows, columns))
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    alone: tuple[tuple[int, ...], ...] = ((), (1,)) if grid == (1, 1) else ((rows,),) if grid == (rows, 1) else ()
    scale.check(_FLOATS, grid, *alone)

    def read(first: int, count: int) -> Bytes:
        scales = scale.floats().reshape(grid)[np.arange(first, first + count) // block[0]]
        values = e4m3_values(weight.rows(first, count))
        return bf16_rows(values * np.repeat(scales, block[1], axis=1)[:, :columns])

    return Matrix(f"{base}.weight", Quant.BF16, (rows, columns), read, _names(weight, scale, f"{base}.input_scale"))


def _names(*parts: Stored | str) -> tuple[str, ...]:
    return tuple(part if isinstance(part, str) else part.tensor.name for part in parts)


def _integers(
    base: str,
    shape: tuple[int, int],
    group: int,
    kind: Quant,
    quants: Callable[[int, int], npt.NDArray[np.int16]],
    scales: Callable[[int, int], npt.NDArray[np.float32]],
    parts: tuple[Stored | str, ...],
) -> Matrix:
    """Return a matrix of integers times a scale for each `group` columns, in blocks of 32 columns."""
    whole = next(part for part in parts if isinstance(part, Stored))
    if shape[1] % 32 or group % 32:
        raise whole.error(f"expected rows and groups of a multiple of 32, found {shape[1]} in groups of {group}")
    write = {Quant.Q4_0: q4_0_rows, Quant.Q5_0: q5_0_rows, Quant.Q8_0: q8_0_rows}[kind]

    def read(first: int, count: int) -> Bytes:
        each = scales(first, count)
        half = exact_half(each)
        if half is None:
            problem = "expected scales that float16 holds exactly, found others, which no GGUF type takes without loss"
            raise whole.error(problem)
        return write(quants(first, count), np.repeat(half, group // 32, axis=1))

    return Matrix(f"{base}.weight", kind, shape, read, _names(*parts))


def _compressed(settings: JsonObject, stored: Mapping[str, Stored], base: str) -> Iterator[Matrix]:
    """Return a matrix of compressed-tensors: integers packed or plain, or FP8."""
    plain = stored.get(f"{base}.weight")
    if f"{base}.weight_packed" in stored:
        yield _packed(stored, base)
    elif plain is not None and f"{base}.weight_scale" in stored:
        yield _plain_scaled(stored, base, plain)


def _plain_scaled(stored: Mapping[str, Stored], base: str, plain: Stored) -> Matrix:
    """Return a matrix that is not packed: integers of 8 bits, or FP8."""
    scale = stored[f"{base}.weight_scale"]
    rows, columns = _sizes(plain)
    if plain.tensor.dtype == "I8":
        group = _group(scale, rows, columns)
        if f"{base}.weight_zero_point" in stored:
            raise plain.error("expected weights without zero points, found them")

        def quants(first: int, count: int) -> npt.NDArray[np.int16]:
            return plain.rows(first, count).view(np.int8).astype(np.int16)

        each = partial(_scale_rows, scale, rows)
        return _integers(base, (rows, columns), group, Quant.Q8_0, quants, each, (plain, scale))
    grid = scale.tensor.shape
    if grid in ((), (1,), (1, 1)):
        return _scaled_fp8(base, plain, scale, (rows, columns))
    if grid in ((rows,), (rows, 1)):
        return _scaled_fp8(base, plain, scale, (1, columns))
    return _scaled_fp8(base, plain, scale, (128, 128))


def _group(scale: Stored, rows: int, columns: int) -> int:
    """Return the columns that a scale is for: of a row's scales the groups, or all."""
    shape = scale.tensor.shape
    groups = shape[1] if len(shape) == 2 else 1
    scale.check(_FLOATS, (rows, groups), *(((rows,), (1,), ()) if groups == 1 else ()))
    if not groups or columns % groups:
        raise scale.error(f"expected a divisor of the {columns} columns, found {groups} groups")
    return columns // groups


def _scale_rows(scale: Stored, rows: int, first: int, count: int) -> npt.NDArray[np.float32]:
    values = scale.floats()
    each = np.broadcast_to(values.reshape(-1, 1), (rows, 1)) if values.ndim < 2 or values.size == 1 else values
    return each[first : first + count]


def _packed(stored: Mapping[str, Stored], base: str) -> Matrix:
    """Integers of 4 or 8 bits in words, the lowest bits first, half their range above the value."""
    packed = stored[f"{base}.weight_packed"]
    scale = _part(stored, packed, f"{base}.weight_scale")
    shape = _part(stored, packed, f"{base}.weight_shape")
    shape.check(("I64", "I32"), (2,))
    sizes = shape.rows(0, 1).view("<i8" if shape.tensor.dtype == "I64" else "<i4").reshape(-1)
    rows, columns = int(sizes[0]), int(sizes[1])
    words = packed.tensor.shape[1] if len(packed.tensor.shape) == 2 else 0
    bits = 32 * words // columns if columns > 0 else 0
    if bits not in {4, 8} or words * 32 != columns * bits:
        raise packed.error(f"expected {columns} columns of 4 or 8 bits, found {list(packed.tensor.shape)} words")
    packed.check(("I32",), (rows, words))
    if f"{base}.weight_g_idx" in stored:
        raise packed.error("expected columns in their order, found weight_g_idx, which is not supported")
    group, zeros = _group(scale, rows, columns), stored.get(f"{base}.weight_zero_point")
    groups = columns // group
    if zeros is not None:
        zeros.check(("I32",), (-(-rows * bits // 32), groups))
    if zeros is not None and bits == 8:
        raise zeros.error("expected weights of 8 bits without zero points, found them")
    kind = Quant.Q8_0 if bits == 8 else Quant.Q4_0 if zeros is None else Quant.Q5_0

    def quants(first: int, count: int) -> npt.NDArray[np.int16]:
        raw = packed.rows(first, count)
        values = (raw if bits == 8 else unpack_nibbles(raw)).astype(np.int16)
        if zeros is None:
            return values - np.int16(1 << (bits - 1))
        each = unpack_nibbles(np.ascontiguousarray(zeros.words().T).view(np.uint8))[:, first : first + count]
        return values - np.repeat(each.T.astype(np.int16), group, axis=1)

    parts = (packed, scale, shape, *(() if zeros is None else (zeros,)))
    each_scale = partial(_scale_rows, scale, rows)
    return _integers(base, (rows, columns), group, kind, quants, each_scale, parts)


def _awq(settings: JsonObject, stored: Mapping[str, Stored], base: str) -> Iterator[Matrix]:
    """Integers of 4 bits, [inputs, outputs / 8] words, less a zero point for each group of inputs."""
    if settings.integer("bits", 4, 1, 32) != 4 or settings.text("version", "gemm").lower() != "gemm":
        found = f"{settings.integer('bits', 4, 1, 32)} bits, {printable(settings.text('version', 'gemm'))}"
        raise settings.error("version", f"expected gemm of 4 bits, found {found}")
    weight = stored[f"{base}.qweight"]
    scale = _part(stored, weight, f"{base}.scales")
    zeros = _part(stored, weight, f"{base}.qzeros")
    columns, words = _sizes(weight)
    rows = words * 8
    groups = scale.tensor.shape[0] if len(scale.tensor.shape) == 2 else 0
    if not groups or columns % groups:
        raise scale.error(f"expected a divisor of the {columns} inputs, found shape {list(scale.tensor.shape)}")
    weight.check(("I32",), (columns, words))
    scale.check(_FLOATS, (groups, rows))
    zeros.check(("I32",), (groups, words))

    def quants(first: int, count: int) -> npt.NDArray[np.int16]:
        low, high = first // 8, -(-(first + count) // 8)
        inside = slice(first - 8 * low, first - 8 * low + count)
        values = _awq_nibbles(weight.words()[:, low:high])[:, inside].T
        each = _awq_nibbles(zeros.words()[:, low:high])[:, inside].T
        return values - np.repeat(each, columns // groups, axis=1)

    def scales(first: int, count: int) -> npt.NDArray[np.float32]:
        return np.ascontiguousarray(scale.floats()[:, first : first + count].T)

    yield _integers(base, (rows, columns), columns // groups, Quant.Q5_0, quants, scales, (weight, scale, zeros))


def _awq_nibbles(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int16]:
    """uint32[n, m] -> int16[n, 8 m], in the order of the columns."""
    nibbles = unpack_nibbles(np.ascontiguousarray(words).view(np.uint8)).reshape(len(words), -1, 8)
    return nibbles[:, :, list(_AWQ_ORDER)].reshape(len(words), -1).astype(np.int16)


def _mxfp4(settings: JsonObject, stored: Mapping[str, Stored], base: str) -> Iterator[Matrix]:
    """Experts of gpt-oss: blocks of 32 as GGUF has them but for the order of nibbles; rows of gate and up in turn."""
    blocks = stored[f"{base}_blocks"]
    scales, bias = _part(stored, blocks, f"{base}_scales"), stored.get(f"{base}_bias")
    shape = blocks.tensor.shape
    if len(shape) != 4 or 0 in shape:
        raise blocks.error(f"expected experts, rows, blocks and 16 bytes, found shape {list(shape)}")
    blocks.check(("U8",), (*shape[:3], 16))
    scales.check(("U8",), shape[:3])
    if bias is not None:
        bias.check(("BF16",), shape[:2])
    pair = base.endswith(".gate_up_proj")
    if pair and shape[1] % 2:
        raise blocks.error(f"expected as many rows of gate as of up, found {shape[1]} of both")
    stem = base.removesuffix("gate_up_proj")
    step = 2 if pair else 1
    for place, name in enumerate((f"{stem}gate_proj", f"{stem}up_proj") if pair else (base,)):
        read = partial(_mxfp4_rows, blocks, scales, place, step)
        whole = (shape[0], shape[1] // step, 32 * shape[2])
        yield Matrix(f"{name}.weight", Quant.MXFP4, whole, read, _names(blocks, scales))
        if bias is not None:
            yield Matrix(f"{name}.bias", Quant.BF16, whole[:2], partial(_every, bias, place, step), _names(bias))


def _mxfp4_rows(blocks: Stored, scales: Stored, place: int, step: int, first: int, count: int) -> Bytes:
    """Return every `step`-th row from `place` on, of all experts, in GGUF's order of nibbles."""
    number = blocks.tensor.shape[2]
    raw = blocks.rows(first * step * number, count * step * number).reshape(count, step, number, 16)[:, place]
    exponents = scales.rows(first * step, count * step).reshape(count, step, number, 1)[:, place]
    quants = unpack_nibbles(raw.reshape(-1, 16)).reshape(count, number, 32)
    packed = quants[..., :16] | quants[..., 16:] << np.uint8(4)
    return np.concatenate([exponents, packed], axis=-1).reshape(count, -1)


def _every(bias: Stored, place: int, step: int, first: int, count: int) -> Bytes:
    """Return every `step`-th element of two bytes from `place` on, of rows."""
    return np.ascontiguousarray(bias.rows(first, count).view(np.uint16)[:, place::step]).view(np.uint8)


# By `quant_method`: endings of the tensor that a matrix is known by, and how it is read.
_SCHEMES: Mapping[str, tuple[tuple[str, ...], Scheme]] = {
    "fp8": ((".weight_scale_inv",), _fp8),
    "compressed-tensors": ((".weight_packed", ".weight_scale"), _compressed),
    "awq": ((".qweight",), _awq),
    "mxfp4": (("_blocks",), _mxfp4),
}
