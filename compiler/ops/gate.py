"""The gate of a feed-forward, of a row that holds gate and up side by side: activation(gate) * up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation


def silu(x: Float64) -> Float64:
    """Return x * sigmoid(x)."""
    result: Float64 = x / (1 + np.exp(-x))
    return result


ACTIVATIONS: Mapping[str, Callable[[Float64], Float64]] = {"silu": silu}
"""By the name of the attribute `activation`, which kernels have too (kernels/*/activation.h)."""


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    gate, up = np.split(inputs[0], 2, axis=1)
    return ACTIVATIONS[node.word("activation")](gate) * up


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.launch(
        "gate",
        (planner.value(node.inputs[0]), planner.value(node.output)),
        columns=planner.graph.values[node.output].columns,
        activation=node.word("activation"),
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("gate", node, activation=node.word("activation"))


OPERATION = Operation("gate", compute, host, hip, {"activation": str})
