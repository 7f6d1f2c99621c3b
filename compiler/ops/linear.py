"""Product with one matrix or several that are stacked, with biases, into a slice of the output, added to it or not.

(x . matrix * its scale + bias) * scale + what the output held. The first scale is a weight of one element, the other an
attribute; biases and the scales of matrices are there for all of a node's matrices or for none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import LOGITS, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, columns_problem, no_kernel
from ..plan import Parameter


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


def _common(
    planner: HostPlanner | HipPlanner, node: Node, matrices: tuple[str, ...], bias: bool
) -> dict[str, Parameter]:
    out = planner.graph.values[node.output]
    return {
        "rows": sum(planner.graph.weights[name].shape[0] for name in matrices),
        "out_stride": out.columns,
        "out_offset": node.integer("out_offset"),
        "has_bias": bias,
        "accumulate": len(node.inputs) == 2,
        "at_logits_rows": out.rows == LOGITS,
    }


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    matrices, biases, scales = node.parts()
    if scales or "scale" in node.attributes:
        no_kernel(planner, node)
    bias = planner.tensor(biases, "f32") if biases else None
    planner.launch(
        "matmul",
        (planner.matrix(matrices), planner.value(node.inputs[0]), planner.value(node.output), bias),
        **_common(planner, node, matrices, bool(biases)),
        **planner.weight_parameters(matrices[0]),
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    matrices, biases, scales = node.parts()
    if scales or "scale" in node.attributes:
        no_kernel(planner, node)
    bias = planner.tensor(biases, "f32") if biases else None
    common = _common(planner, node, matrices, bool(biases))
    planner.matmul(
        (planner.matrix(matrices), planner.value(node.inputs[0]), planner.value(node.output), bias),
        matrices[0],
        int(common["rows"]),
        gate_up=False,
        out_q8=False,
        **common,
    )


OPERATION = Operation(
    "linear",
    compute,
    host,
    hip,
    {"out_offset": int},
    optional={"scale": float},
    inputs=(1, 2),
    weights=(1, 9),
    problem=columns_problem,
    takes_q8=True,
)
