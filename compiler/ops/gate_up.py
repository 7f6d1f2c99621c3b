"""Products with the matrices of gate and up, and the gate of both, without what lies between in memory.

Scales and biases of both matrices as `linear` has them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...artifacts.arguments import Argument
from ..graph import LOGITS, Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, always, columns_problem
from ..planner import Planner
from .activations import ACTIVATIONS, activation_problem
from .linear import products, scale_parameters, trimmed


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    gate, up = products(node, inputs[0], weights)
    return ACTIVATIONS[node.word("activation")](gate) * up


def _arguments(planner: Planner, node: Node) -> tuple[Argument, ...]:
    matrices, biases, scales = node.parts()
    values = planner.value(node.inputs[0]), planner.value(node.output)
    return trimmed(planner.matrix(matrices, pairs=True), *values, planner.floats(biases), planner.floats(scales))


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    out = planner.graph.values[node.output]
    planner.launch(
        "gate_up",
        _arguments(planner, node),
        rows=out.columns,
        activation=node.word("activation"),
        **planner.q8_parameters(node.output),
        **({"has_bias": True} if node.parts()[1] else {}),
        **scale_parameters(node),
        **planner.row_parameters(node),
        **planner.weight_parameters(node.weights[0], node.inputs[0]),
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    out = planner.graph.values[node.output]
    planner.matmul(
        _arguments(planner, node),
        node.weights[0],
        2 * out.columns,
        rows=out.columns,
        activation=node.word("activation"),
        gate_up=True,
        **planner.q8_parameters(node.output),
        out_stride=out.columns,
        out_offset=0,
        has_bias=bool(node.parts()[1]),
        accumulate=False,
        at_logits_rows=out.rows == LOGITS,
        **scale_parameters(node),
    )


def _problem(graph: Graph, node: Node) -> str:
    return columns_problem(graph, node) or activation_problem(node.word("activation"))


OPERATION = Operation(
    "gate_up",
    compute,
    host,
    hip,
    {"activation": str},
    weights=(2, 6),
    problem=_problem,
    takes_q8=True,
    writes_q8=always,
)
