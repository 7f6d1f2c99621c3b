"""Products of a row's heads, side by side, each with a matrix of its own; the heads' matrices are one, stacked.

On both back ends it is `expert_linear` of tokens that all go to the same experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from .expert_linear import launch_stacked, stack_problem


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    heads, rows = node.integer("num_heads"), len(inputs[0])
    names = dict(zip(node.weights, weights, strict=True))
    (matrix,), biases, scales = node.parts()
    stacked = names[matrix].reshape(heads, -1, names[matrix].shape[1])
    found: Float64 = np.einsum("thc,hrc->thr", inputs[0].reshape(rows, heads, -1), stacked)
    if scales:
        found = found * names[scales[0]].reshape(-1, 1)
    if biases:
        found = found + names[biases[0]].reshape(heads, -1)
    return found.reshape(rows, -1)


def _launch(planner: HostPlanner | HipPlanner, node: Node) -> None:
    heads = node.integer("num_heads")
    launch_stacked(planner, node, experts=heads, used=heads, out_offset=0, each=True, weighted=False, by_slot=True)


def _problem(graph: Graph, node: Node) -> str:
    (matrix, *others), _, _ = node.parts()
    heads, (rows, columns) = node.integer("num_heads"), graph.weights[matrix].shape
    if others or rows % heads:
        return f"expected a matrix of {heads} heads"
    expected, found = (heads * columns, rows), (node.inputs[0], node.output)
    widths = tuple(graph.values[name].columns for name in found)
    if widths != expected:
        return f"expected columns {expected}, found {widths}"
    return stack_problem(graph, node, heads)


OPERATION = Operation(
    "head_linear",
    compute,
    _launch,
    _launch,
    {"num_heads": int},
    weights=(1, 3),
    problem=_problem,
    takes_q8=True,
)
