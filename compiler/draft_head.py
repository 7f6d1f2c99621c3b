"""Blocks that draft tokens, as models of their own: what a part `mtp` of a bundle is compiled of.

A file counts them among its blocks, behind those of the model. The first of them is read as a model of one layer; of
several, the others are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from ..artifacts.errors import InputError
from .architectures import ARCHITECTURES
from .arrays import is_array
from .derived_source import DerivedSource
from .model_config import ModelConfig
from .model_source import ModelSource, TensorInfo
from .models.architecture import Architecture

_LAYER: Final = "blk.0."
_NOT_OF_LAYERS: Final = ("rope.dimension_sections",)


class DraftSource(DerivedSource):
    """The block number `block` of a model and what is of no block, as a model of one layer."""

    __slots__ = ("_first",)

    def __init__(self, base: ModelSource, row: Architecture, block: int) -> None:
        self._first = f"blk.{block}."
        tensors: dict[str, TensorInfo] = {}
        for name, info in base.tensors.items():
            own = _LAYER + name.removeprefix(self._first)
            if name.startswith(self._first):
                tensors[own] = TensorInfo(own, info.shape, info.ggml_type)
            elif not name.startswith("blk."):
                tensors[name] = info
        super().__init__(base, tensors)
        self.metadata = _metadata(base, row, block)

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        return self.base.read_rows(self._in_file(name), first, count)

    def error(self, key: str, problem: str) -> InputError:
        """See `ModelSource`; by the name that the file has."""
        return self.base.error(self._in_file(key), problem)

    def _in_file(self, name: str) -> str:
        return name.replace(_LAYER, self._first, 1) if name.startswith(_LAYER) else name


def _metadata(base: ModelSource, row: Architecture, block: int) -> Mapping[str, object]:
    """Return what the file says, of one block."""
    count = base.get_int(row.key("num_layers"))
    of_layers = {
        key: value[block : block + 1]
        for key, value in base.metadata.items()
        if key.startswith(f"{row.name}.") and is_array(value) and len(value) == count
        if not key.endswith(_NOT_OF_LAYERS)
    }
    return {**base.metadata, **of_layers, row.key("num_layers"): 1, row.key("draft_layers"): 0}


def draft_source(source: ModelSource, config: ModelConfig) -> DraftSource | None:
    """Return the first block that drafts tokens; None where there is none, or none that can be compiled."""
    row, block = ARCHITECTURES[config.architecture], config.num_layers
    if not config.draft_layers or not row.drafts or row.tensor_name("draft_projection", block) not in source.tensors:
        return None
    return DraftSource(source, row, block)
