"""The gate of a feed-forward, of a row that holds gate and up side by side: silu(gate) * up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation


def gated(gate: Float64, up: Float64) -> Float64:
    """SwiGLU."""
    product: Float64 = gate / (1 + np.exp(-gate)) * up
    return product


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    gate, up = np.split(inputs[0], 2, axis=1)
    return gated(gate, up)


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    columns = planner.graph.values[node.output].columns
    planner.launch("swiglu", (planner.value(node.inputs[0]), planner.value(node.output)), columns=columns)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("swiglu", node)


OPERATION = Operation("gate", compute, host, hip)
