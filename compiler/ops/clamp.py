"""Elements held between two numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, always
from ..plan import Parameter, float_literal
from .activate import hip_launch, host_launch


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    return np.clip(inputs[0], node.real("low"), node.real("high"))


def _numbers(node: Node) -> dict[str, Parameter]:
    return {name: float_literal(node.real(name)) for name in ("low", "high")}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    host_launch(planner, node, "clamp", **_numbers(node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    hip_launch(planner, node, "clamp", **_numbers(node))


def _problem(graph: Graph, node: Node) -> str:
    return "" if node.real("low") <= node.real("high") else "expected a range that has numbers"


OPERATION = Operation(
    "clamp",
    compute,
    host,
    hip,
    {"low": float, "high": float},
    problem=_problem,
    writes_q8=always,
    writes_superblocks=always,
)
