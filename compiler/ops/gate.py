"""The gate of a feed-forward, of a row that holds gate and up side by side: activation(gate) * up.

With `limit` the gate is held below it and up within it of 0; with `up_offset` that is then added to up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from .activations import ACTIVATIONS, activation_problem

OPTIONAL: Final[dict[str, type]] = {"limit": float, "up_offset": float}
"""Optional attributes."""


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    gate, up = np.split(inputs[0], 2, axis=1)
    if "limit" in node.attributes:
        limit = node.real("limit")
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return ACTIVATIONS[node.word("activation")](gate) * (up + node.real("up_offset", 0))


def _parameters(node: Node) -> dict[str, Parameter]:
    numbers = {name: float_literal(node.real(name)) for name in OPTIONAL if name in node.attributes}
    return {"activation": node.word("activation"), **numbers}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.launch(
        "gate",
        (planner.value(node.inputs[0]), planner.value(node.output)),
        columns=planner.graph.values[node.output].columns,
        **_parameters(node),
        **planner.row_parameters(node),
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("gate", node, **_parameters(node))


def _problem(graph: Graph, node: Node) -> str:
    return activation_problem(node.word("activation"))


OPERATION = Operation("gate", compute, host, hip, {"activation": str}, optional=OPTIONAL, problem=_problem)
