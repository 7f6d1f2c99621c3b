"""Importance of columns, as llama.cpp's `llama-imatrix` measures it: mean squares of what a matrix is multiplied with.

What counts is how columns of one matrix compare, so that sums are as good as means.

Source: llama.cpp `tools/imatrix` and its GGUF files (`NAME.in_sum2`); the older files are a count of entries, each a
name, a number of calls, and sums: of stacked experts those of expert 0, then those of expert 1, and so on. A GGUF file
made of such a one has them in one row, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import InputError, printable
from ..gguf_cursor import opened
from ..gguf_file import GgufFile, read_into
from ..gguf_reader import MAGIC, read_gguf
from ..model_source import TensorInfo

MAX_OLD_BYTES = 256 << 20
_MAX_NAME = 256
Columns = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Importance:
    """An importance matrix.

    Attributes:
        columns: by tensor, float32[matrices, columns]: 1 matrix, or as many as there are experts.
        sha256: hex digest of its file.
    """

    columns: Mapping[str, Columns]
    sha256: str


def read_importance(path: Path, tensors: Mapping[str, TensorInfo]) -> Importance:
    """Read an importance matrix.

    Args:
        path: of its file.
        tensors: of the model that it is for, by name: they say how many experts a row of sums is of.

    Raises:
        InputError: the file cannot be read, is none, or contradicts itself.
    """
    with opened(path) as (fd, size):
        magic = np.zeros(4, np.uint8)
        read_into(fd, magic, 0)
        is_gguf = magic.tobytes() == MAGIC
        if not is_gguf and size > MAX_OLD_BYTES:
            raise InputError(path, "file", f"expected at most {MAX_OLD_BYTES} bytes, found {size}")
    columns = _of_gguf(read_gguf(path)) if is_gguf else _of_old(path)
    if not columns:
        raise InputError(path, "file", "expected an importance matrix, found one of no tensors")
    for name, values in columns.items():
        if not (np.isfinite(values) & (values >= 0)).all():
            raise InputError(path, name, "expected finite sums of squares, found others")
    columns = {name: _weights(_by_matrix(values, tensors.get(name))) for name, values in columns.items()}
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Importance(MappingProxyType(columns), digest)


def _by_matrix(values: Columns, info: TensorInfo | None) -> Columns:
    """Return sums with a row for each expert where one row has those of all; others as they are.

    Args:
        values: float32[rows, columns].
        info: the tensor that they are of; None: the model has none.

    Returns:
        float32[rows, columns], or float32[matrices, columns] of the tensor.
    """
    if info is None or values.shape != (1, info.matrices * info.shape[-1]):
        return values
    return values.reshape(info.matrices, -1)


def _weights(values: Columns) -> Columns:
    """Return weights of about 1 for each matrix; where none was seen, all alike. A column is never without any."""
    mean = values.mean(axis=1, keepdims=True, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(mean > 0, values / mean, 1.0)
    return np.maximum(scaled, 1e-6).astype(np.float32)


def _of_gguf(file: GgufFile) -> dict[str, Columns]:
    kind = file.get_str("general.type", "")
    if kind != "imatrix":
        raise file.error("general.type", f"expected imatrix, found {printable(kind) or 'nothing'}")
    columns = {}
    for name, info in file.tensors.items():
        base = name.removesuffix(".in_sum2")
        if base == name:
            continue
        if info.ggml_type.name != "F32":
            raise file.error(name, f"expected sums in F32, found {info.ggml_type.name}")
        columns[base] = file.read_tensor(name).view("<f4").reshape(info.rows, -1)
    return columns


def _of_old(path: Path) -> dict[str, Columns]:
    data = path.read_bytes()
    place = 0

    def number() -> int:
        nonlocal place
        if place + 4 > len(data):
            raise InputError(path, "file", f"expected an importance matrix, found an end at {len(data)}", place)
        place += 4
        return int.from_bytes(data[place - 4 : place], "little", signed=True)

    def take(count: int, largest: int, what: str) -> bytes:
        nonlocal place
        if not 0 < count <= largest or place + count > len(data):
            raise InputError(path, what, f"expected an importance matrix, found a length of {count}", place)
        place += count
        return data[place - count : place]

    columns: dict[str, Columns] = {}
    entries = number()
    if not 0 < entries <= 1 << 20:
        raise InputError(path, "file", f"expected an importance matrix, found {entries} entries")
    for _ in range(entries):
        name = take(number(), _MAX_NAME, "name").decode("utf-8", "replace")
        number()  # calls
        columns[name] = np.frombuffer(take(4 * number(), len(data), name), "<f4").reshape(1, -1)
    return columns
