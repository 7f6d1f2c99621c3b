"""Products of each token with the matrices of the experts that it goes to, side by side into a slice of the output.

The experts' matrices are one, stacked; `used` of them are taken for a token, as `route` has them in its second half.
The input has one row for all of a token's experts, or with `each` one for each, side by side. With `weighted` a product
is taken times the expert's weight, before its bias. `repeats` is how often a token may go to the same expert: once, if
it is not given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
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


def launch_stacked(planner: HostPlanner | HipPlanner, node: Node, **parameters: Parameter) -> None:
    """Append the launches of products with a stack of `experts` matrices, as the inputs after the first choose them.

    Args:
        planner: of a back end.
        node: whose weights are the stack, its biases and its scales.
        parameters: of the kernels, less those that are the same for every such node.
    """
    matrices, biases, scales = node.parts()
    routed = planner.value(node.inputs[1]) if len(node.inputs) == 2 else None
    values = planner.value(node.inputs[0]), routed, planner.value(node.output)
    arguments = trimmed(planner.matrix(matrices), *values, planner.floats(biases), planner.floats(scales))
    parameters["rows"] = planner.graph.weights[matrices[0]].shape[0] // int(parameters["experts"])
    parameters["out_stride"] = planner.graph.values[node.output].columns
    parameters["has_bias"], parameters["has_scale"] = bool(biases), bool(scales)
    if isinstance(planner, HipPlanner):
        planner.expert_matmul(arguments, matrices[0], **parameters)
    else:
        parameters |= planner.weight_parameters(matrices[0], node.inputs[0]) | planner.row_parameters(node)
        planner.launch("expert_matmul", arguments, **parameters)


def stack_problem(graph: Graph, node: Node, count: int) -> str:
    """Return the problem of biases and scales that are not those of a stack of so many matrices, for `Operation`."""
    (matrix, *_), biases, scales = node.parts()
    rows = graph.weights[matrix].shape[0]
    shapes = [graph.weights[name].shape for name in (*biases, *scales)]
    return "" if shapes in ([], [(rows,)], [(count,)], [(rows,), (count,)]) else "bias or scale of another shape"


def _launch(planner: HostPlanner | HipPlanner, node: Node) -> None:
    names = "experts", "used", "out_offset"
    flags = {name: bool(node.attributes.get(name)) for name in ("each", "weighted")}
    repeats: dict[str, Parameter] = {"repeats": node.integer("repeats")} if node.integer("repeats", 1) > 1 else {}
    launch_stacked(planner, node, **{name: node.integer(name) for name in names}, **flags, **repeats)


def _problem(graph: Graph, node: Node) -> str:
    (matrix, *others), _, _ = node.parts()
    rows, columns = graph.weights[matrix].shape
    used, experts = node.integer("used"), node.integer("experts")
    if others or rows % experts or graph.values[node.inputs[1]].columns != 2 * used:
        return f"expected a matrix of {experts} experts, and the weights and numbers of {used}"
    if graph.values[node.inputs[0]].columns != (columns * used if node.attributes.get("each") else columns):
        return "weight and input differ in columns"
    if not 1 <= node.integer("repeats", 1) <= used:
        return f"expected a token to go to an expert 1 to {used} times, found {node.integer('repeats')}"
    return stack_problem(graph, node, experts)


OPERATION = Operation(
    "expert_linear",
    compute,
    _launch,
    _launch,
    {"experts": int, "used": int, "out_offset": int},
    optional={"each": bool, "weighted": bool, "repeats": int},
    inputs=(2, 2),
    weights=(1, 3),
    problem=_problem,
    takes_q8=True,
)
