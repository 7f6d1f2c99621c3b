"""Product of the elements of two values, or of a value and a weight."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from .elementwise import OPTIONAL, hip_launch, host_launch, operands, operands_problem


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    one, other = operands(node, inputs, weights)
    return one * other


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    host_launch(planner, node, "mul")


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    hip_launch(planner, node, "mul")


OPERATION = Operation(
    "mul", compute, host, hip, optional=OPTIONAL, inputs=(1, 2), weights=(0, 1), problem=operands_problem
)
