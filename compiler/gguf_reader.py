"""Stage: a GGUF file in, its checked header out.

The file is somebody else's: every count, length and offset is checked against the bytes that are really there
before anything is allocated or looped over by it. Versions 2 and 3, little-endian.

Source: GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..artifacts.errors import GgufError, printable
from .ggml_types import BLOCKS, GgmlType
from .gguf_cursor import Cursor, Memory, opened
from .gguf_file import GgufFile, PlacedTensor
from .gguf_values import NUMBERS, Array, HeaderFile, Metadata, ValueType, number_bytes
from .model_source import checked_int

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
MAX_DIMENSIONS = 4
MAX_TENSOR_NAME_BYTES = 63
MAX_KEY_BYTES = 65535
MAX_ARRAY_DEPTH = 4
# About what a dictionary entry, its key and its value cost beyond the value's own bytes.
_ENTRY_BYTES = 1024
# Smallest encodings, in bytes: key (length, 1 byte, type, 1 byte); tensor (length, 1 byte, dimension count,
# 1 dimension, type, offset).
_MIN_KEY_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8


def read_gguf(path: Path) -> GgufFile:
    """Read and check a GGUF file's header.

    Raises:
        GgufError: the file cannot be read, is not GGUF 2 or 3, or contradicts itself.
    """
    with opened(path) as (fd, size):
        file = HeaderFile(path, size, os.fstat(fd).st_mtime_ns, Memory())
        cursor = file.cursor(fd, size, 0)
        version = _read_version(cursor)
        tensor_count = cursor.u64("tensor count")
        key_count = cursor.u64("key count")
        cursor.require(cursor.bounded(key_count, _MIN_KEY_BYTES, "key count"), "key count", f"{key_count} keys")
        metadata = _read_metadata(cursor, key_count, file)
        needed = cursor.bounded(tensor_count, _MIN_TENSOR_BYTES, "tensor count")
        cursor.require(needed, "tensor count", f"{tensor_count} tensors")
        alignment = _read_alignment(path, metadata)
        headers = [_read_tensor_header(cursor, i) for i in range(tensor_count)]
        data_offset = -(-cursor.position // alignment) * alignment
    tensors = _place_tensors(path, headers, data_offset, alignment, size)
    return GgufFile(path, version, Metadata(metadata), MappingProxyType(tensors), alignment, data_offset, size)


def _read_version(cursor: Cursor) -> int:
    magic = cursor.take(4, "magic", "GGUF magic")
    if magic != MAGIC:
        cursor.position = 0
        raise cursor.error("magic", f"expected {MAGIC!r}, found {magic!r}")
    raw = cursor.take(4, "version", "uint32")
    version = int.from_bytes(raw, "little")
    if version in VERSIONS:
        return version
    cursor.position = 4
    swapped = int.from_bytes(raw, "big")
    if swapped in VERSIONS or swapped == 1:
        raise cursor.error("version", f"expected a little-endian file, found big-endian version {swapped}")
    raise cursor.error("version", f"expected version 2 or 3, found {version}")


def _read_metadata(cursor: Cursor, count: int, file: HeaderFile) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for index in range(count):
        key = _read_name(cursor, f"key {index}", MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.error(key, "expected each key once, found it twice")
        cursor.spend(_ENTRY_BYTES, key)
        metadata[key] = _read_value(cursor, key, _read_value_type(cursor, key), 0, file)
    return metadata


def _read_name(cursor: Cursor, field: str, maximum: int) -> str:
    """Read a key or tensor name: not empty, and free of control characters, which no real one has."""
    start = cursor.position
    name = cursor.string(field, maximum)
    if not name or not name.isprintable():
        cursor.position = start
        raise cursor.error(field, f"expected a printable name, found {printable(repr(name))}")
    return name


def _read_value_type(cursor: Cursor, field: str) -> ValueType:
    number = cursor.u32(field)
    try:
        return ValueType(number)
    except ValueError:
        known = ", ".join(f"{t.value} {t.name}" for t in ValueType)
        cursor.position -= 4
        raise cursor.error(field, f"expected a value type ({known}), found {number}") from None


def _read_value(cursor: Cursor, field: str, kind: ValueType, depth: int, file: HeaderFile) -> object:
    """Read a value; of an array of strings or numbers, where it is."""
    if kind is ValueType.STRING:
        return cursor.string(field)
    if kind is not ValueType.ARRAY:
        return _read_number(cursor, field, kind)
    if depth == MAX_ARRAY_DEPTH:
        raise cursor.error(field, f"expected arrays nested at most {MAX_ARRAY_DEPTH} deep, found more")
    item_kind = _read_value_type(cursor, field)
    count = cursor.u64(field)
    position = cursor.position
    if item_kind is ValueType.STRING:
        cursor.skip_strings(count, field)
        return Array(file, field, item_kind, count, position)
    if item_kind is not ValueType.ARRAY:
        _skip_numbers(cursor, field, item_kind, count)
        return Array(file, field, item_kind, count, position)
    cursor.require(cursor.bounded(count, 12, field), field, f"{count} arrays")
    items = []
    for _ in range(count):
        cursor.spend(_ENTRY_BYTES, field)
        items.append(_read_value(cursor, field, item_kind, depth + 1, file))
    return tuple(items)


def _read_number(cursor: Cursor, field: str, kind: ValueType) -> int | float | bool:
    data = cursor.take(number_bytes(kind), field, kind.name)
    cursor.spend(len(data), field)
    if kind is ValueType.BOOL:
        _check_booleans(cursor, field, data)
        return bool(data[0])
    if kind is ValueType.FLOAT32 or kind is ValueType.FLOAT64:
        return float(struct.unpack("<f" if kind is ValueType.FLOAT32 else "<d", data)[0])
    return int.from_bytes(data, "little", signed=NUMBERS[kind][1] == "i")


def _skip_numbers(cursor: Cursor, field: str, kind: ValueType, count: int) -> None:
    """Go past numbers, of which booleans alone can be wrong."""
    n_bytes = cursor.bounded(count, number_bytes(kind), field)
    cursor.require(n_bytes, field, f"{count} of {kind.name}")
    cursor.spend(n_bytes, field)
    if kind is ValueType.BOOL:
        _check_booleans(cursor, field, cursor.take(n_bytes, field, kind.name))
    else:
        cursor.position += n_bytes


def _check_booleans(cursor: Cursor, field: str, data: bytes) -> None:
    if data and max(data) > 1:
        raise cursor.error(field, f"expected booleans (0 or 1), found {max(data)}")


def _read_alignment(path: Path, metadata: Mapping[str, object]) -> int:
    key = "general.alignment"
    value = checked_int(partial(GgufError, path), key, metadata.get(key, DEFAULT_ALIGNMENT), 8, MAX_ALIGNMENT)
    if value & (value - 1):
        raise GgufError(path, key, f"expected a power of two, found {value}")
    return value


class _TensorHeader(NamedTuple):
    """A tensor as the header gives it; `relative` counts from the data's start."""

    name: str
    shape: tuple[int, ...]
    ggml_type: GgmlType
    relative: int
    n_bytes: int
    position: int


def _read_tensor_header(cursor: Cursor, index: int) -> _TensorHeader:
    position = cursor.position
    name = _read_name(cursor, f"tensor {index} name", MAX_TENSOR_NAME_BYTES)
    cursor.spend(_ENTRY_BYTES, name)
    dimensions = cursor.u32(name)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise cursor.error(name, f"expected 1 to {MAX_DIMENSIONS} dimensions, found {dimensions}")
    innermost_first = cursor.u64s(dimensions, name)
    ggml_type = _read_ggml_type(cursor, name)
    elements = 1
    for size in innermost_first:
        if size == 0:
            raise cursor.error(name, f"expected dimensions of at least 1, found {innermost_first}")
        elements = cursor.bounded(elements, size, name)
    block, block_bytes = BLOCKS[ggml_type]
    if innermost_first[0] % block:
        problem = f"expected rows of a multiple of {block} elements ({ggml_type.name}), found {innermost_first[0]}"
        raise cursor.error(name, problem)
    n_bytes = cursor.bounded(elements // block, block_bytes, name)
    relative = cursor.u64(name)
    return _TensorHeader(name, tuple(reversed(innermost_first)), ggml_type, relative, n_bytes, position)


def _read_ggml_type(cursor: Cursor, name: str) -> GgmlType:
    number = cursor.u32(name)
    try:
        return GgmlType(number)
    except ValueError:
        known = ", ".join(f"{t.value} {t.name}" for t in GgmlType)
        cursor.position -= 4
        raise cursor.error(name, f"expected a tensor type ({known}), found {number}") from None


def _place_tensors(
    path: Path, headers: list[_TensorHeader], data_offset: int, alignment: int, size: int
) -> dict[str, PlacedTensor]:
    """Check that all tensors are named once, aligned, inside the file, and apart."""
    tensors: dict[str, PlacedTensor] = {}
    for header in headers:
        if header.name in tensors:
            raise GgufError(path, header.name, "expected each tensor once, found it twice", header.position)
        if header.relative % alignment:
            problem = f"expected an offset aligned to {alignment}, found {header.relative}"
            raise GgufError(path, header.name, problem, header.position)
        offset = data_offset + header.relative
        if offset + header.n_bytes > size:
            problem = f"expected {header.n_bytes} bytes at {offset}, found a file of {size} bytes"
            raise GgufError(path, header.name, problem, header.position)
        tensors[header.name] = PlacedTensor(header.name, header.shape, header.ggml_type, offset)
    end, previous = data_offset, ""
    for tensor in sorted(tensors.values(), key=lambda t: t.offset):
        if tensor.offset < end:
            problem = f"expected tensors apart, found an overlap with {printable(previous)}"
            raise GgufError(path, tensor.name, problem, tensor.offset)
        end, previous = tensor.offset + tensor.n_bytes, tensor.name
    return tensors
