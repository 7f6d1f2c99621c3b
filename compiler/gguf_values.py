"""The values of a GGUF file's metadata, of which arrays are read when they are asked for.

A vocabulary is most of a header, and what only looks at a model has no use for it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import GgufError
from .arrays import np
from .gguf_cursor import Cursor, Memory, opened

if TYPE_CHECKING:
    import numpy.typing as npt


class ValueType(IntEnum):
    """The type of a value, by its number in a file; names are the specification's."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


NUMBERS: Mapping[ValueType, str] = MappingProxyType(
    {
        ValueType.UINT8: "<u1",
        ValueType.INT8: "<i1",
        ValueType.UINT16: "<u2",
        ValueType.INT16: "<i2",
        ValueType.UINT32: "<u4",
        ValueType.INT32: "<i4",
        ValueType.FLOAT32: "<f4",
        ValueType.BOOL: "<?",
        ValueType.UINT64: "<u8",
        ValueType.INT64: "<i8",
        ValueType.FLOAT64: "<f8",
    }
)
"""NumPy's names of the types that are numbers; the last character of all but one is the bytes that one takes."""


_LETTERS = dict(zip(["u1", "i1", "u2", "i2", "u4", "i4", "f4", "u8", "i8", "f8"], "BbHhIifQqd", strict=True))
"""The same types' letters in `struct`."""


FEW_NUMBERS = 1 << 16
"""That may be read as Python's own: of layers, not of tokens."""


def number_bytes(kind: ValueType) -> int:
    """Return the bytes of a number."""
    return 1 if kind is ValueType.BOOL else int(NUMBERS[kind][-1])


@dataclass(frozen=True, slots=True)
class HeaderFile:
    """The file that a header was read from, as it was then."""

    path: Path
    n_bytes: int
    modified: int
    memory: Memory

    def cursor(self, fd: int, size: int, position: int) -> Cursor:
        """Return one that reads on at `position`.

        Raises:
            GgufError: the file is another than it was.
        """
        if (size, os.fstat(fd).st_mtime_ns) != (self.n_bytes, self.modified):
            raise GgufError(self.path, "file", "expected the file as it was when its header was read: it changed")
        return Cursor(self.path, fd, size, self.memory, position)


@dataclass(frozen=True, slots=True)
class Array:
    """An array of a header that was checked, and is still in its file only."""

    file: HeaderFile
    field: str
    kind: ValueType
    count: int
    position: int

    def read(self) -> tuple[str, ...] | npt.NDArray[np.generic]:
        """Return strings as a tuple, numbers as a read-only array.

        Raises:
            GgufError: the file changed, or strings take more memory than a header may.
        """
        if self.kind is not ValueType.STRING:
            return np.frombuffer(self._bytes(), np.dtype(NUMBERS[self.kind]))
        with opened(self.file.path) as (fd, size):
            return self.file.cursor(fd, size, self.position).strings(self.count, self.field)

    def numbers(self) -> tuple[int | float, ...]:
        """Return numbers as Python's own, without NumPy, whose import takes longer than all else of an `rfc inspect`.

        Raises:
            GgufError: the file changed.
        """
        letter = _LETTERS.get(NUMBERS[self.kind][1:], "?")
        return struct.unpack(f"<{self.count}{letter}", self._bytes())

    def _bytes(self) -> bytes:
        with opened(self.file.path) as (fd, size):
            cursor = self.file.cursor(fd, size, self.position)
            return cursor.take(self.count * number_bytes(self.kind), self.field, self.kind.name)


class Metadata(Mapping[str, object]):
    """A file's values by key: what `ModelSource.metadata` says, each array read once, when it is first asked for."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> object:
        value = self._values[key]
        if isinstance(value, Array | tuple):
            value = self._values[key] = _whole(value)
        return value

    def numbers(self, key: str) -> tuple[str, tuple[int | float, ...]] | None:
        """Return NumPy's name of the type of an array of few numbers that was not read yet, and the numbers."""
        value = self._values.get(key)
        if not isinstance(value, Array) or value.kind is ValueType.STRING or value.count > FEW_NUMBERS:
            return None
        return value.kind.name.lower(), value.numbers()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _whole(value: object) -> object:
    """Return a value with all arrays that it consists of."""
    if isinstance(value, Array):
        return value.read()
    if isinstance(value, tuple) and any(isinstance(item, Array | tuple) for item in value[:1]):
        return tuple(map(_whole, value))
    return value
