"""A GGUF file whose header was checked: its metadata by type, its tensors by name."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType

from ..artifacts.errors import GgufError, printable
from .gguf_cursor import opened


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies and how it is stored.

    Attributes:
        name: as in the file; printable.
        shape: 1 to 4 dimensions of at least 1, outermost first (GGUF's order reversed).
        ggml_type: block format; the innermost dimension is a multiple of its block.
        offset: bytes from the start of the file.
        n_bytes: bytes stored.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: GGMLQuantizationType
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile:
    """A GGUF file whose header has been checked whole.

    Attributes:
        path: the file.
        version: 2 or 3.
        metadata: bool, int, float and str as such; arrays of strings (and of arrays) as tuples, of
            numbers as read-only NumPy arrays.
        tensors: by name, in the file's order; inside the file, aligned, and apart from each other.
        alignment: of tensor data, in bytes.
        data_offset: start of the tensor data, in bytes.
        n_bytes: size of the file.
    """

    path: Path
    version: int
    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]
    alignment: int
    data_offset: int
    n_bytes: int

    def error(self, key: str, problem: str) -> GgufError:
        """Return the error that `key` of this file has `problem`."""
        return GgufError(self.path, key, problem)

    def get_int(
        self, key: str, default: int | None = None, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """Read an integer within `minimum` and `maximum`; `default` where the key is absent.

        Raises:
            GgufError: absent without a default, not an integer, or out of bounds.
        """
        value = self.metadata.get(key, default)
        return checked_int(self.path, key, value, minimum, maximum)

    def get_float(
        self,
        key: str,
        default: float | None = None,
        minimum: float | None = None,
        maximum: float | None = None,
    ) -> float:
        """Read a finite number within `minimum` and `maximum`; `default` where the key is absent.

        Raises:
            GgufError: absent without a default, not a finite number, or out of bounds.
        """
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.error(key, f"expected a finite number, found {_describe(value)}")
        if not (minimum is None or value >= minimum) or not (maximum is None or value <= maximum):
            raise self.error(key, f"expected {_range(minimum, maximum)}, found {value}")
        return float(value)

    def get_bool(self, key: str, default: bool | None = None) -> bool:
        """Read a boolean; `default` where the key is absent.

        Raises:
            GgufError: absent without a default, or not a boolean.
        """
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"expected a boolean, found {_describe(value)}")
        return value

    def get_str(self, key: str, default: str | None = None) -> str:
        """Read a string; `default` where the key is absent.

        Raises:
            GgufError: absent without a default, or not a string.
        """
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"expected a string, found {_describe(value)}")
        return value

    def get_str_list(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Read an array of strings; `default` where the key is absent.

        Raises:
            GgufError: absent without a default, or not an array of strings.
        """
        value = self.metadata.get(key, default)
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"expected an array of strings, found {_describe(value)}")
        return value

    def get_int_list(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Read an array of integers; `default` where the key is absent.

        Raises:
            GgufError: absent without a default, or not an array of integers.
        """
        value = self.metadata.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.integer):
            raise self.error(key, f"expected an array of integers, found {_describe(value)}")
        return tuple(value.tolist())

    def tensor_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """Map a tensor's bytes.

        A file that is cut after this call raises SIGBUS on access, as any mapping does; where that matters
        use `read_tensor`.

        Returns:
            uint8[n_bytes], read-only, backed by the file.

        Raises:
            GgufError: no such tensor, or the file's size changed since it was read.
        """
        tensor = self._tensor(name)
        with opened(self.path) as (fd, size):
            self._check_size(size)
            start = tensor.offset - tensor.offset % mmap.ALLOCATIONGRANULARITY
            length = tensor.offset + tensor.n_bytes - start
            try:
                mapping = mmap.mmap(fd, length, access=mmap.ACCESS_READ, offset=start)
            except ValueError:  # cut since its size was looked at
                raise self.error(name, "expected the tensor's bytes, found a file that was cut") from None
        return np.frombuffer(mapping, np.uint8, tensor.n_bytes, tensor.offset - start)

    def read_tensor(self, name: str) -> npt.NDArray[np.uint8]:
        """Copy a tensor's bytes; unlike a mapping, safe against a file that is cut meanwhile.

        Returns:
            uint8[n_bytes].

        Raises:
            GgufError: no such tensor, or the file's size changed since it was read.
        """
        tensor = self._tensor(name)
        data = np.empty(tensor.n_bytes, np.uint8)
        with opened(self.path) as (fd, size):
            self._check_size(size)
            done = 0
            while done < tensor.n_bytes:
                n = os.preadv(fd, [data[done:].data], tensor.offset + done)
                if n == 0:
                    problem = f"expected {tensor.n_bytes} bytes, found {done}: the file was cut"
                    raise GgufError(self.path, name, problem, tensor.offset)
                done += n
        return data

    def _tensor(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise self.error(name, "expected this tensor, found none of that name")
        return self.tensors[name]

    def _check_size(self, size: int) -> None:
        if size != self.n_bytes:
            raise self.error("file", f"expected {self.n_bytes} bytes as at first, found {size}: it changed")


def checked_int(path: Path, key: str, value: object, minimum: int | None, maximum: int | None) -> int:
    """Return an integer of the metadata within `minimum` and `maximum`.

    Raises:
        GgufError: it is not an integer, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise GgufError(path, key, f"expected an integer, found {_describe(value)}")
    if not (minimum is None or value >= minimum) or not (maximum is None or value <= maximum):
        raise GgufError(path, key, f"expected {_range(minimum, maximum)}, found {value}")
    return value


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f"{minimum} to {maximum}"
    return f"at least {minimum}" if maximum is None else f"at most {maximum}"


def _describe(value: object) -> str:
    """Name a foreign value without printing all of it."""
    if value is None:
        return "nothing"
    if isinstance(value, tuple | np.ndarray):
        kind = value.dtype.name if isinstance(value, np.ndarray) else type(value[0]).__name__ if value else "no"
        return f"an array of {len(value)} {kind} values"
    return f"{type(value).__name__} {printable(repr(value), 60)}"
