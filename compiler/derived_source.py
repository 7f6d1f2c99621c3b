"""A source over another: the same model with some of its weights changed on their way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..artifacts.errors import InputError
from .model_source import ModelSource, TensorInfo


class DerivedSource(ModelSource):
    """A model that is `base` but for its tensors.

    Args:
        base: whose metadata, files and names in messages it has.
        tensors: by name; those that differ are for a subclass to read.
    """

    __slots__ = ("base", "metadata", "path", "tensors")

    def __init__(self, base: ModelSource, tensors: Mapping[str, TensorInfo]) -> None:
        self.base = base
        self.path: Path = base.path
        self.metadata: Mapping[str, object] = base.metadata
        self.tensors: Mapping[str, TensorInfo] = tensors

    def files(self) -> tuple[Path, ...]:
        """See `ModelSource`."""
        return self.base.files()

    def facts(self) -> dict[str, object]:
        """See `ModelSource`."""
        return self.base.facts()

    def error(self, key: str, problem: str) -> InputError:
        """See `ModelSource`."""
        return self.base.error(key, problem)

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        return self.base.read_rows(name, first, count)
