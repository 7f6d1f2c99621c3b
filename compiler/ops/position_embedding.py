"""Learned positions: to each row is added the row of a matrix that its position counts."""

from __future__ import annotations

from collections.abc import Sequence

from ...artifacts.arguments import Argument
from ...artifacts.layout import GridEntry
from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, columns_problem
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    return inputs[0] + weights[0][: len(inputs[0])]


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    parameters = planner.weight_parameters(node.weights[0])
    planner.launch("position_embedding", _arguments(planner, node), **parameters)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    parameters = planner.weight_parameters(node.weights[0])
    planner.launch("position_embedding", _arguments(planner, node), GridEntry(128, 1, "tokens"), **parameters)


def _arguments(planner: Planner, node: Node) -> tuple[Argument, ...]:
    return planner.value(node.inputs[0]), planner.matrix(node.weights), planner.value(node.output)


OPERATION = Operation("position_embedding", compute, host, hip, weights=(1, 1), problem=columns_problem)
