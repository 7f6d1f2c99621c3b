"""Logits of some tokens as those of all: each token's where a weight says, minus infinity of the others.

The weight has a number for each token: the column of its logit, or -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import LOGITS, Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    column = weights[0].astype(int)
    return np.where(column < 0, -np.inf, inputs[0][:, np.maximum(column, 0)])


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    values = planner.graph.values
    return {"stride": values[node.inputs[0]].columns, "at_logits_rows": values[node.output].rows == LOGITS}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = planner.value(node.inputs[0]), planner.tensor(node.weights, "f32"), planner.value(node.output)
    columns = planner.graph.values[node.output].columns
    planner.launch("token_logits", arguments, columns=columns, **_parameters(planner, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = planner.value(node.inputs[0]), planner.tensor(node.weights, "f32"), planner.value(node.output)
    planner.elementwise("token_logits", node, *arguments, **_parameters(planner, node))


def _problem(graph: Graph, node: Node) -> str:
    shape, columns = graph.weights[node.weights[0]].shape, graph.values[node.output].columns
    return "" if shape == (columns,) else f"expected a weight of {columns} elements, found {list(shape)}"


OPERATION = Operation("token_logits", compute, host, hip, weights=(1, 1), problem=_problem)
