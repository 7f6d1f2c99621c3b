"""Where a model comes from: its metadata by type and its tensors by name, as a GGUF file has them.

A GGUF file is one as it is; a folder of Hugging Face's is read as the GGUF file that it would be, and what changes
weights on their way (`--lora`, `--quantize`) is a source over another.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import GgufError, InputError, printable
from .arrays import is_array, np
from .ggml_types import BLOCKS, GgmlType
from .gguf_values import Metadata

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """How a tensor is stored.

    Attributes:
        name: GGUF's; printable.
        shape: 1 to 4 dimensions of at least 1, outermost first (GGUF's order reversed).
        ggml_type: block format; the innermost dimension is a multiple of its block.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: GgmlType

    @property
    def rows(self) -> int:
        """Rows of the innermost dimension's length."""
        return math.prod(self.shape[:-1])

    @property
    def matrices(self) -> int:
        """Matrices that it is a stack of: as many as there are experts, and 1 where it is no stack."""
        return math.prod(self.shape[:-2])

    @property
    def row_bytes(self) -> int:
        """Bytes stored of a row."""
        block, block_bytes = BLOCKS[self.ggml_type]
        return self.shape[-1] // block * block_bytes

    @property
    def n_bytes(self) -> int:
        """Bytes stored."""
        return self.rows * self.row_bytes


class ModelSource(ABC):
    """Metadata and tensors of a model, checked.

    Attributes:
        path: the file or folder, for messages.
        metadata: by GGUF's keys: bool, int, float and str as such; arrays of strings (and of arrays) as tuples, of
            numbers as read-only NumPy arrays.
        tensors: by GGUF's names, in the source's order.
    """

    __slots__ = ()

    path: Path
    metadata: Mapping[str, object]

    tensors: Mapping[str, TensorInfo]

    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Return all files that it is made of, in order: the digest of their bytes, one after another, names it."""

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """Return what `rfc inspect` says of this kind of source."""

    @abstractmethod
    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """Copy rows of a tensor, which are there.

        Returns:
            uint8[count, row_bytes].

        Raises:
            InputError: no such tensor, or its file is not what it was when it was opened.
        """

    def read_tensor(self, name: str) -> npt.NDArray[np.uint8]:
        """Copy a tensor's bytes; unlike a mapping, safe against a file that is cut meanwhile.

        Returns:
            uint8[n_bytes].

        Raises:
            InputError: as `read_rows`.
        """
        return self.read_rows(name, 0, self.tensor(name).rows).reshape(-1)

    def tensor(self, name: str) -> TensorInfo:
        """Return the tensor of that name.

        Raises:
            InputError: there is none.
        """
        if name not in self.tensors:
            raise self.error(name, "expected this tensor, found none of that name")
        return self.tensors[name]

    def error(self, key: str, problem: str) -> InputError:
        """Return the error that a key or tensor of this source has `problem`."""
        return GgufError(self.path, key, problem)

    def get_int(
        self, key: str, default: int | None = None, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """Read an integer within `minimum` and `maximum`; `default` where the key is absent.

        Raises:
            InputError: absent without a default, not an integer, or out of bounds.
        """
        value = self.metadata.get(key, default)
        return checked_int(self.error, key, value, minimum, maximum)

    def get_float(
        self,
        key: str,
        default: float | None = None,
        minimum: float | None = None,
        maximum: float | None = None,
    ) -> float:
        """Read a finite number within `minimum` and `maximum`; `default` where the key is absent.

        Raises:
            InputError: absent without a default, not a finite number, or out of bounds.
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
            InputError: absent without a default, or not a boolean.
        """
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"expected a boolean, found {_describe(value)}")
        return value

    def get_str(self, key: str, default: str | None = None) -> str:
        """Read a string; `default` where the key is absent.

        Raises:
            InputError: absent without a default, or not a string.
        """
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"expected a string, found {_describe(value)}")
        return value

    def get_str_list(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Read an array of strings; `default` where the key is absent.

        Raises:
            InputError: absent without a default, or not an array of strings.
        """
        value = self.metadata.get(key, default)
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"expected an array of strings, found {_describe(value)}")
        return value

    def get_int_list(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Read an array of integers; `default` where the key is absent.

        Raises:
            InputError: absent without a default, or not an array of integers.
        """
        if key not in self.metadata and default is not None:
            return default
        kind, values = self.get_numbers(key) or ("", ())
        if not kind.startswith(("int", "uint")):
            raise self.error(key, f"expected an array of integers, found {_describe(self.metadata.get(key))}")
        return tuple(map(int, values))

    def get_flags(self, key: str, num_layers: int) -> tuple[bool, ...] | None:
        """Read whether each layer is something, 0 or 1; None where the key has no array of numbers.

        Raises:
            InputError: there are too few, or they are no integers.
        """
        found = self.get_numbers(key)
        if found is None:
            return None
        kind, values = found
        if len(values) < num_layers or kind.startswith("float"):
            shown = f"{len(values)} {kind} values"
            raise self.error(key, f"expected for each of {num_layers} layers 0 or 1, found {shown}")
        return tuple(bool(one) for one in values[:num_layers])

    def get_numbers(self, key: str) -> tuple[str, tuple[int | float, ...]] | None:
        """Return NumPy's name of the type of an array of numbers, and these; None where there is no such array."""
        if isinstance(self.metadata, Metadata) and (found := self.metadata.numbers(key)) is not None:
            return found
        value = self.metadata.get(key)
        return (value.dtype.name, tuple(value.tolist())) if is_array(value) else None


def checked_int(
    error: Callable[[str, str], InputError], key: str, value: object, minimum: int | None, maximum: int | None
) -> int:
    """Return an integer of the metadata within `minimum` and `maximum`.

    Raises:
        InputError: that `error` makes of the key and a problem: it is not an integer, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise error(key, f"expected an integer, found {_describe(value)}")
    if not (minimum is None or value >= minimum) or not (maximum is None or value <= maximum):
        raise error(key, f"expected {_range(minimum, maximum)}, found {value}")
    return value


def _range(minimum: float | None, maximum: float | None) -> str:
    if minimum is not None and maximum is not None:
        return f"{minimum} to {maximum}"
    return f"at least {minimum}" if maximum is None else f"at most {maximum}"


def _describe(value: object) -> str:
    """Name a foreign value without printing all of it."""
    if value is None:
        return "nothing"
    if isinstance(value, tuple) or is_array(value):
        kind = value.dtype.name if is_array(value) else type(value[0]).__name__ if value else "no"
        return f"an array of {len(value)} {kind} values"
    return f"{type(value).__name__} {printable(repr(value), 60)}"
