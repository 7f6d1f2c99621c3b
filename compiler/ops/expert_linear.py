"""Products of each token with the matrices of the experts that it goes to, side by side into a slice of the output.

The experts' matrices are one, stacked; `used` of them are taken for a token, as `route` has them in its second half.
The input has one row for all of a token's experts, or with `each` one for each, side by side. With `weighted` a product
is taken times the expert's weight, before its bias. `repeats` is how often a token may go to the same expert: once, if
it is not given.
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
    """See `Operation`; the slice alone."""
    x, routed = inputs
    used, experts = node.integer("used"), node.integer("experts")
    names = dict(zip(node.weights, weights, strict=True))
    (matrix,), biases, scales = node.parts()
    stacked = names[matrix].reshape(experts, -1, names[matrix].shape[1])
    found = np.empty((len(x), used, stacked.shape[1]))
    for token, slot in np.ndindex(len(x), used):
        expert = int(routed[token, used + slot])
        row = x[token].reshape(used, -1)[slot] if node.attributes.get("each") else x[token]
        product = stacked[expert] @ row
        if scales:
            product = product * names[scales[0]].reshape(-1)[expert]
        if node.attributes.get("weighted"):
            product = product * routed[token, slot]
        found[token, slot] = product + names[biases[0]].reshape(experts, -1)[expert] if biases else product
    return found.reshape(len(x), -1)


def _arguments(planner: Planner, node: Node) -> tuple[Argument, ...]:
    matrices, biases, scales = node.parts()
    values = planner.value(node.inputs[0]), planner.value(node.inputs[1]), planner.value(node.output)
    return trimmed(planner.matrix(matrices), *values, planner.floats(biases), planner.floats(scales))


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    (matrix,), biases, scales = node.parts()
    experts, repeats = node.integer("experts"), node.integer("repeats", 1)
    return {
        **({"repeats": repeats} if repeats > 1 else {}),
        "experts": experts,
        "used": node.integer("used"),
        "rows": planner.graph.weights[matrix].shape[0] // experts,
        "out_stride": planner.graph.values[node.output].columns,
        "out_offset": node.integer("out_offset"),
        "each": bool(node.attributes.get("each", False)),
        "weighted": bool(node.attributes.get("weighted", False)),
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
    rows, columns = graph.weights[matrix].shape
    used, experts = node.integer("used"), node.integer("experts")
    if others or rows % experts or graph.values[node.inputs[1]].columns != 2 * used:
        return f"expected a matrix of {experts} experts, and the weights and numbers of {used}"
    if graph.values[node.inputs[0]].columns != (columns * used if node.attributes.get("each") else columns):
        return "weight and input differ in columns"
    shapes = [graph.weights[name].shape for name in (*biases, *scales)]
    if not 1 <= node.integer("repeats", 1) <= used:
        return f"expected a token to go to an expert 1 to {used} times, found {node.integer('repeats')}"
    return "" if shapes in ([], [(rows,)], [(experts,)], [(rows,), (experts,)]) else "bias or scale of another shape"


OPERATION = Operation(
    "expert_linear",
    compute,
    host,
    hip,
    {"experts": int, "used": int, "out_offset": int},
    optional={"each": bool, "weighted": bool, "repeats": int},
    inputs=(2, 2),
    weights=(1, 3),
    problem=_problem,
    takes_q8=True,
)
