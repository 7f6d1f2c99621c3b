"""Floats to int8 blocks of 32, which stand for about the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`: rounding is of the kernels, not of what the graph means."""
    return inputs[0].copy()


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    columns = planner.graph.values[node.output].columns
    planner.launch("quantize", (planner.value(node.inputs[0]), planner.value(node.output)), columns=columns)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("quantize", node)


OPERATION = Operation("quantize", compute, host, hip)
