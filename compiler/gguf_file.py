"""A GGUF file whose header was checked: its metadata by type, its tensors by name."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import GgufError
from .arrays import np
from .gguf_cursor import opened
from .model_source import ModelSource, TensorInfo

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class PlacedTensor(TensorInfo):
    """A tensor, and where it lies: `offset` bytes from the start of the file."""

    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class GgufFile(ModelSource):
    """A GGUF file whose header has been checked whole.

    Attributes:
        path: the file.
        version: 2 or 3.
        metadata: see `ModelSource`.
        tensors: by name, in the file's order; inside the file, aligned, and apart from each other.
        alignment: of tensor data, in bytes.
        data_offset: start of the tensor data, in bytes.
        n_bytes: size of the file.
    """

    path: Path
    version: int
    metadata: Mapping[str, object]
    tensors: Mapping[str, PlacedTensor]
    alignment: int
    data_offset: int
    n_bytes: int

    def files(self) -> tuple[Path, ...]:
        """See `ModelSource`."""
        return (self.path,)

    def facts(self) -> dict[str, object]:
        """See `ModelSource`."""
        return {"gguf_version": self.version}

    def tensor_bytes(self, name: str) -> npt.NDArray[np.uint8]:
        """Map a tensor's bytes.

        A file that is cut after this call raises SIGBUS on access, as any mapping does; where that matters
        use `read_tensor`.

        Returns:
            uint8[n_bytes], read-only, backed by the file.

        Raises:
            GgufError: no such tensor, or the file's size changed since it was read.
        """
        tensor = self._placed(name)
        with opened(self.path) as (fd, size):
            self._check_size(size)
            start = tensor.offset - tensor.offset % mmap.ALLOCATIONGRANULARITY
            length = tensor.offset + tensor.n_bytes - start
            try:
                mapping = mmap.mmap(fd, length, access=mmap.ACCESS_READ, offset=start)
            except ValueError:  # cut since its size was looked at
                raise self.error(name, "expected the tensor's bytes, found a file that was cut") from None
        return np.frombuffer(mapping, np.uint8, tensor.n_bytes, tensor.offset - start)

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        tensor = self._placed(name)
        data = np.empty((count, tensor.row_bytes), np.uint8)
        with opened(self.path) as (fd, size):
            self._check_size(size)
            start = tensor.offset + first * tensor.row_bytes
            done = read_into(fd, data.reshape(-1), start)
        if done < data.nbytes:
            problem = f"expected {data.nbytes} bytes, found {done}: the file was cut"
            raise GgufError(self.path, name, problem, start)
        return data

    def _placed(self, name: str) -> PlacedTensor:
        self.tensor(name)
        return self.tensors[name]

    def _check_size(self, size: int) -> None:
        if size != self.n_bytes:
            raise self.error("file", f"expected {self.n_bytes} bytes as at first, found {size}: it changed")


def read_into(fd: int, data: npt.NDArray[np.uint8], start: int) -> int:
    """Fill `data` from `start` on; return the bytes that were there."""
    done = 0
    while done < data.nbytes:
        n_bytes = os.preadv(fd, [data[done:].data], start + done)
        if n_bytes == 0:
            break
        done += n_bytes
    return done
