"""What operations share that are lowered to the kernels of the host: kernels/host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..artifacts.formats import BLOCK_COLUMNS, FORMATS
from ..artifacts.layout import KvLayout
from .graph import Graph
from .plan import Parameter
from .planner import Buffers, Planner
from .target import Target

Q8_BLOCK_BYTES: Final = 60  # sizeof(struct q8_block) in kernels/host/common.h
UNIT_COLUMNS: Final = 64
"""Activations that share a unit, where all who make or read them have so many together; else those of a block do."""


class HostPlanner(Planner):
    """One launch a node; a step runs them in order on all threads."""

    packing = "rows16"

    def __init__(
        self,
        graph: Graph,
        target: Target,
        buffers: Buffers,
        kv: KvLayout,
        max_seq_len: int,
        together: Mapping[str, int],
    ) -> None:
        """See `Planner`; `together` are the columns of int8 values that all who make or read one have together."""
        super().__init__(graph, target, buffers, kv, max_seq_len)
        self._together = together

    def weight_parameters(self, name: str) -> dict[str, Parameter]:
        """Return what a kernel is told of a matrix."""
        weight = self.graph.weights[name]
        return {"columns": weight.shape[1], "weight_type": weight.ggml_type}

    def product_parameters(self, name: str, value: str) -> dict[str, Parameter]:
        """Return what a kernel is told of a matrix and of the rows that it is multiplied with, those of a value."""
        weight = self.graph.weights[name]
        columns = weight.shape[1]
        parameters = self.weight_parameters(name)
        if FORMATS[weight.ggml_type].is_float:
            return {**parameters, "activation_bytes": 4 * columns}
        shared: dict[str, Parameter] = {"unit_columns": UNIT_COLUMNS} if self._shares_units(value) else {}
        return {**parameters, "activation_bytes": columns // BLOCK_COLUMNS * Q8_BLOCK_BYTES, **shared}

    def output_parameters(self, name: str) -> dict[str, Parameter]:
        """See `Planner`."""
        return {**super().output_parameters(name), **self.unit_parameters(name)}

    def unit_parameters(self, name: str) -> dict[str, Parameter]:
        """Return what a kernel is told of the units of an int8 value that it writes."""
        return {"out_unit_columns": UNIT_COLUMNS} if self._shares_units(name) else {}

    def _shares_units(self, value: str) -> bool:
        return value in self._together and self._together[value] % UNIT_COLUMNS == 0
