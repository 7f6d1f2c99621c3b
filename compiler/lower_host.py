"""What operations share that are lowered to the kernels of the host: kernels/host."""

from __future__ import annotations

from typing import Final

from ..artifacts.formats import BLOCK_COLUMNS, FORMATS
from .plan import Parameter
from .planner import Planner

Q8_BLOCK_BYTES: Final = 60  # sizeof(struct q8_block) in kernels/host/common.h


class HostPlanner(Planner):
    """One launch a node; a step runs them in order on all threads."""

    packing = "rows16"

    def weight_parameters(self, name: str) -> dict[str, Parameter]:
        """Return what a kernel is told of a matrix and of the rows that it is multiplied with."""
        weight = self.graph.weights[name]
        is_float = FORMATS[weight.ggml_type].is_float
        columns = weight.shape[1]
        return {
            "columns": columns,
            "weight_type": weight.ggml_type,
            "activation_bytes": 4 * columns if is_float else columns // BLOCK_COLUMNS * Q8_BLOCK_BYTES,
        }
