"""The activation of Apertus, whose four numbers are those of a layer.

Above 0: positive * x^2 + beta * x. Else: (e^min(x, epsilon) - 1 - x) * negative + beta * x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, always
from ..plan import Parameter, float_literal
from .activate import hip_launch, host_launch


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    positive, negative, beta, epsilon = (node.real(name) for name in PARAMETERS)
    x = inputs[0]
    below = (np.expm1(np.minimum(x, epsilon)) - x) * negative
    result: Float64 = np.where(x > 0, positive * x * x, below) + beta * x
    return result


PARAMETERS = ("positive", "negative", "beta", "epsilon")
"""The attributes of a node."""


def _numbers(node: Node) -> dict[str, Parameter]:
    return {name: float_literal(node.real(name)) for name in PARAMETERS}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    host_launch(planner, node, "xielu", **_numbers(node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    hip_launch(planner, node, "xielu", **_numbers(node))


OPERATION = Operation(
    "xielu", compute, host, hip, dict.fromkeys(PARAMETERS, float), writes_q8=always, writes_superblocks=always
)
