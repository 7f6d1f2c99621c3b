"""Logits as a model wants them: times a number, then kept between -softcap and softcap: softcap * tanh(x / softcap)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import LOGITS, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    scaled, softcap = inputs[0] * node.real("scale", 1), node.real("softcap", 0)
    capped: Float64 = softcap * np.tanh(scaled / softcap) if softcap else scaled
    return capped


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    return {
        "scale": float_literal(node.real("scale", 1)),
        "softcap": float_literal(node.real("softcap", 0)),
        "at_logits_rows": planner.graph.values[node.output].rows == LOGITS,
    }


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    columns = planner.graph.values[node.output].columns
    planner.launch("logits_map", (planner.value(node.output),), columns=columns, **_parameters(planner, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("logits_map", node, planner.value(node.output), **_parameters(planner, node))


OPERATION = Operation("logits_map", compute, host, hip, in_place=True, optional={"scale": float, "softcap": float})
