"""Products with the matrices of gate and up, and the gate of both, without what lies between in memory."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import LOGITS, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, always, columns_problem
from .gate import ACTIVATIONS


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    gate, up = (inputs[0] @ weight.T for weight in weights)
    return ACTIVATIONS[node.word("activation")](gate) * up


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    out = planner.graph.values[node.output]
    planner.launch(
        "gate_up",
        (planner.matrix(node.weights, pairs=True), planner.value(node.inputs[0]), planner.value(node.output)),
        rows=out.columns,
        activation=node.word("activation"),
        out_q8=out.dtype == "q8",
        **planner.weight_parameters(node.weights[0]),
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    out = planner.graph.values[node.output]
    planner.matmul(
        (planner.matrix(node.weights, pairs=True), planner.value(node.inputs[0]), planner.value(node.output)),
        node.weights[0],
        2 * out.columns,
        rows=out.columns,
        activation=node.word("activation"),
        gate_up=True,
        out_q8=out.dtype == "q8",
        out_stride=out.columns,
        out_offset=0,
        has_bias=False,
        accumulate=False,
        at_logits_rows=out.rows == LOGITS,
    )


OPERATION = Operation(
    "gate_up",
    compute,
    host,
    hip,
    {"activation": str},
    weights=(2, 2),
    problem=columns_problem,
    takes_q8=True,
    writes_q8=always,
)
