"""Products of a row's heads, side by side, each with a matrix of its own; the heads' matrices are one, stacked.

On both back ends it is `expert_linear` of tokens that all go to the same experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.arguments import Argument
from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner
from .linear import trimmed


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


def _arguments(planner: Planner, node: Node) -> tuple[Argument, ...]:
    matrices, biases, scales = node.parts()
    values = planner.value(node.inputs[0]), None, planner.value(node.output)
    return trimmed(planner.matrix(matrices), *values, planner.floats(biases), planner.floats(scales))


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    (matrix,), biases, scales = node.parts()
    heads = node.integer("num_heads")
    return {
        "experts": heads,
        "used": heads,
        "rows": planner.graph.weights[matrix].shape[0] // heads,
        "out_stride": planner.graph.values[node.output].columns,
        "out_offset": 0,
        "each": True,
        "weighted": False,
        "by_slot": True,
        "has_bias": bool(biases),
        "has_scale": bool(scales),
    }


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    weight = planner.weight_parameters(node.weights[0])
    planner.launch("expert_matmul", _arguments(planner, node), **_parameters(planner, node), **weight)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.expert_matmul(_arguments(planner, node), node.weights[0], **_parameters(planner, node))


def _problem(graph: Graph, node: Node) -> str:
    (matrix, *others), biases, scales = node.parts()
    heads, (rows, columns) = node.integer("num_heads"), graph.weights[matrix].shape
    if others or rows % heads:
        return f"expected a matrix of {heads} heads"
    expected, found = (heads * columns, rows), (node.inputs[0], node.output)
    widths = tuple(graph.values[name].columns for name in found)
    if widths != expected:
        return f"expected columns {expected}, found {widths}"
    shapes = [graph.weights[name].shape for name in (*biases, *scales)]
    return "" if shapes in ([], [(rows,)], [(heads,)], [(rows,), (heads,)]) else "bias or scale of another shape"


OPERATION = Operation(
    "head_linear",
    compute,
    host,
    hip,
    {"num_heads": int},
    weights=(1, 3),
    problem=_problem,
    takes_q8=True,
)
