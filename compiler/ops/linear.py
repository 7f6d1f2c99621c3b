"""Product with one matrix or several that are stacked, with biases, into a slice of the output, added to it or not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import LOGITS, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, columns_problem
from ..plan import Parameter


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`; the slice alone."""
    matrices = [weight for weight in weights if weight.ndim == 2]
    biases = [weight for weight in weights if weight.ndim == 1]
    result: Float64 = inputs[0] @ np.concatenate(matrices).T
    if biases:
        result = result + np.concatenate(biases)
    offset = node.integer("out_offset")
    return result + inputs[1][:, offset : offset + result.shape[1]] if len(inputs) == 2 else result


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
    matrices, biases = planner.graph.split_weights(node)
    bias = planner.tensor(biases, "f32") if biases else None
    planner.launch(
        "matmul",
        (planner.matrix(matrices), planner.value(node.inputs[0]), planner.value(node.output), bias),
        **_common(planner, node, matrices, bool(biases)),
        **planner.weight_parameters(matrices[0]),
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    matrices, biases = planner.graph.split_weights(node)
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
    inputs=(1, 2),
    weights=(1, 6),
    problem=columns_problem,
    takes_q8=True,
)
