"""A safetensors file: its header checked by the `safetensors` package, its tensors read by rows.

The package sees to it that shapes, types and offsets agree, that tensors neither overlap nor leave gaps, and that they
end where the file does. Its reader maps the file and knows no NumPy type for BF16 or FP8; so bytes are copied here,
from where the order of the tensors says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import InputError, printable
from ..gguf_cursor import opened
from ..gguf_file import read_into

MAX_HEADER_BYTES = 64 << 20
# Bits of an element, by the name of its type in a header.
_BITS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("F4",), 4),
        **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
        **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
        **dict.fromkeys(("I32", "U32", "F32"), 32),
        **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
        **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    }
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a safetensors file.

    Attributes:
        name: as in the file; printable.
        dtype: `F32`, `BF16`, `F8_E4M3` and so on.
        shape: outermost dimension first; empty of a scalar.
        offset: bytes from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def n_bytes(self) -> int:
        """Bytes stored."""
        return math.prod(self.shape) * _BITS[self.dtype] // 8

    @property
    def rows(self) -> int:
        """Rows of the innermost dimension's length."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True, slots=True, eq=False)
class SafetensorsFile:
    """A safetensors file whose header has been checked whole.

    Attributes:
        tensors: by name, in the order of their bytes.
        n_bytes: size of the file.
    """

    path: Path
    tensors: Mapping[str, StoredTensor]
    n_bytes: int

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Copy rows of a tensor, which are there and whole bytes.

        Returns:
            uint8[count, bytes of a row].

        Raises:
            InputError: the file is not what it was when it was opened.
        """
        tensor = self.tensors[name]
        row_bytes = tensor.n_bytes // max(tensor.rows, 1)
        data = np.empty((count, row_bytes), np.uint8)
        with opened(self.path) as (fd, size):
            if size != self.n_bytes:
                raise InputError(self.path, "file", f"expected {self.n_bytes} bytes as at first, found {size}")
            done = read_into(fd, data.reshape(-1), tensor.offset + first * row_bytes)
        if done < data.nbytes:
            raise InputError(self.path, name, f"expected {data.nbytes} bytes, found {done}: the file was cut")
        return data


def read_safetensors(path: Path) -> SafetensorsFile:
    """Read and check a safetensors file's header.

    Raises:
        InputError: the file cannot be read, or is not safetensors.
    """
    with opened(path) as (fd, size):
        length = np.zeros(8, np.uint8)
        read_into(fd, length, 0)
    header_bytes = int.from_bytes(length.tobytes(), "little")
    if header_bytes > MAX_HEADER_BYTES:
        problem = f"expected a header of at most {MAX_HEADER_BYTES} bytes, found {header_bytes}: is it safetensors?"
        raise InputError(path, "header", problem)
    tensors: dict[str, StoredTensor] = {}
    offset = 8 + header_bytes
    try:
        with safe_open(path, "numpy") as file:
            for name in file.offset_keys():
                view = file.get_slice(name)
                tensor = StoredTensor(name, view.get_dtype(), tuple(view.get_shape()), offset)
                if not name or not name.isprintable():
                    raise InputError(path, "header", f"expected printable names, found {printable(repr(name))}")
                if tensor.dtype not in _BITS:
                    raise InputError(path, name, f"expected a type of {', '.join(_BITS)}, found {tensor.dtype}")
                tensors[name] = tensor
                offset += tensor.n_bytes
    except (SafetensorError, OSError) as error:
        raise InputError(path, "header", f"the safetensors library refuses it: {printable(error, 300)}") from None
    if offset != size:
        raise InputError(path, "file", f"expected {offset} bytes, found {size}")
    return SafetensorsFile(path, MappingProxyType(tensors), size)
