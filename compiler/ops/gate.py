"""The gate of a feed-forward, of a row that holds gate and up side by side: activation(gate) * up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from .activations import ACTIVATIONS, activation_problem


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


def _problem(graph: Graph, node: Node) -> str:
    return activation_problem(node.word("activation"))


OPERATION = Operation("gate", compute, host, hip, {"activation": str}, problem=_problem)
