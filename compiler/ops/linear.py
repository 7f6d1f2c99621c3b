"""Product with one matrix or several that are stacked, with biases, into a slice of the output, added to it or not.

(x . matrix * its scale + bias) * scale + what the output held. The first scale is a weight of one element, the other an
attribute; biases and the scales of matrices are there for all of a node's matrices or for none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...artifacts.arguments import Argument
from ..graph import LOGITS, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, columns_problem
from ..plan import Parameter, float_literal
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`; the slice alone."""
    result = np.concatenate(products(node, inputs[0], weights), axis=1) * node.real("scale", 1)
    offset = node.integer("out_offset")
    return result + inputs[1][:, offset : offset + result.shape[1]] if len(inputs) == 2 else result


def products(node: Node, x: Float64, weights: Sequence[Float64]) -> list[Float64]:
    """Return the product of rows with each matrix of a node, times its scale, with its bias."""
    numbers = dict(zip(node.weights, weights, strict=True))
    matrices, biases, scales = ([numbers[name] for name in names] for names in node.parts())
    found = [x @ matrix.T for matrix in matrices]
    if scales:
        found = [product * scale for product, scale in zip(found, scales, strict=True)]
    return [product + bias for product, bias in zip(found, biases, strict=True)] if biases else found


def scale_parameters(node: Node) -> dict[str, Parameter]:
    """Return what a kernel is told of the scales of a product, where it has some."""
    parameters: dict[str, Parameter] = {"has_scale": True} if node.parts()[2] else {}
    if "scale" in node.attributes:
        parameters["product_scale"] = float_literal(node.real("scale"))
    return parameters


def trimmed(*arguments: Argument) -> tuple[Argument, ...]:
    """Return arguments without those at the end that are not there."""
    count = max(index for index, argument in enumerate(arguments) if argument is not None)
    return arguments[: count + 1]


def _launches(planner: Planner, node: Node) -> Iterator[tuple[str, tuple[Argument, ...], dict[str, Parameter]]]:
    """Yield a matrix, arguments and parameters: of all matrices stacked, or where they have scales of one by one."""
    matrices, biases, scales = node.parts()
    out, offset = planner.graph.values[node.output], node.integer("out_offset")
    for index in range(len(matrices) if scales else 1):
        mine = slice(index, index + 1) if scales else slice(None)
        rows = sum(planner.graph.weights[name].shape[0] for name in matrices[mine])
        values = planner.value(node.inputs[0]), planner.value(node.output)
        bias, scale = planner.floats(biases[mine]), planner.floats(scales[mine])
        parameters: dict[str, Parameter] = {
            "rows": rows,
            "out_stride": out.columns,
            "out_offset": offset,
            "has_bias": bool(biases),
            "accumulate": len(node.inputs) == 2,
            "at_logits_rows": out.rows == LOGITS,
            **scale_parameters(node),
        }
        arguments = planner.matrix(matrices[mine]), *values, bias
        yield matrices[index], (*arguments, scale) if scales else arguments, parameters
        offset += rows


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    for matrix, arguments, parameters in _launches(planner, node):
        rows = planner.row_parameters(node)
        planner.launch("matmul", arguments, **parameters, **rows, **planner.weight_parameters(matrix, node.inputs[0]))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    for matrix, arguments, parameters in _launches(planner, node):
        planner.matmul(arguments, matrix, int(parameters["rows"]), gate_up=False, out_q8=False, **parameters)


OPERATION = Operation(
    "linear",
    compute,
    host,
    hip,
    {"out_offset": int},
    optional={"scale": float},
    inputs=(1, 2),
    weights=(1, 12),
    problem=columns_problem,
    takes_q8=True,
)
