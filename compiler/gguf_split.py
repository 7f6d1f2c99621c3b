"""A GGUF model in several files, as `name-00001-of-00003.gguf` and on: the first has the metadata, all have tensors.

Source: llama.cpp `llama_split_path` and the keys `split.*` (behaviour).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import GgufError
from .arrays import np
from .gguf_file import GgufFile, PlacedTensor
from .gguf_reader import read_gguf
from .model_source import ModelSource

if TYPE_CHECKING:
    import numpy.typing as npt

MAX_PARTS = 99999  # that five digits can number
_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True, eq=False)
class SplitGguf(ModelSource):
    """A GGUF model of several files.

    Attributes:
        path: the first file.
        metadata: the first file's.
        tensors: those of all files, in order; names are distinct.
        parts: the files, in order.
    """

    path: Path
    metadata: Mapping[str, object]
    tensors: Mapping[str, PlacedTensor]
    parts: tuple[GgufFile, ...]

    def files(self) -> tuple[Path, ...]:
        """See `ModelSource`."""
        return tuple(part.path for part in self.parts)

    def facts(self) -> dict[str, object]:
        """See `ModelSource`."""
        return {**self.parts[0].facts(), "parts": len(self.parts)}

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        self.tensor(name)
        return next(part for part in self.parts if name in part.tensors).read_rows(name, first, count)


def open_gguf(path: Path) -> GgufFile | SplitGguf:
    """Read a GGUF model: the file, and where it is the first of several, the others.

    Raises:
        GgufError: a file cannot be trusted, is missing, or is not the part that its name says.
    """
    first = read_gguf(path)
    count = first.get_int("split.count", 0, 0, MAX_PARTS)
    if count <= 1:
        return first
    parts = (first, *_others(first, count))
    tensors: dict[str, PlacedTensor] = {}
    for part in parts:
        for name, tensor in part.tensors.items():
            if name in tensors:
                raise part.error(name, "expected each tensor in one part, found it in two")
            tensors[name] = tensor
    total = first.get_int("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise first.error("split.tensors.count", f"expected the {len(tensors)} tensors of all parts, found {total}")
    return SplitGguf(path, first.metadata, MappingProxyType(tensors), parts)


def part_paths(path: Path) -> tuple[Path, ...]:
    """Return the files of a model, by the name of its first; of a name that is no part's, the file alone."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    return tuple(path.with_name(f"{match['prefix']}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1))


def _others(first: GgufFile, count: int) -> Iterator[GgufFile]:
    """Read the parts after the first."""
    paths = part_paths(first.path)
    number = first.get_int("split.no")
    if number != 0:
        begin = f", {paths[0].name}" if len(paths) == count else ""
        raise first.error(
            "split.no", f"expected the first part of the model{begin}, found part {number + 1} of {count}"
        )
    if len(paths) != count or paths[0] != first.path:
        problem = f"expected a name that ends in -00001-of-{count:05d}.gguf, by which the other parts are found"
        raise first.error("file", f"{problem}, found {first.path.name}")
    for index, path in enumerate(paths[1:], 1):
        if not path.exists():
            raise GgufError(path, "file", f"expected part {index + 1} of {count}, found no such file")
        part = read_gguf(path)
        for key, expected in (("split.no", index), ("split.count", count)):
            found = part.get_int(key)
            if found != expected:
                raise part.error(key, f"expected {expected}, as the file's name says, found {found}")
        yield part
