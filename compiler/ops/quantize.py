"""Floats to int8 blocks of 32 or superblocks of 256, which stand for about the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import LOGITS, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`: rounding is of the kernels, not of what the graph means."""
    return inputs[0].copy()


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    values = planner.value(node.inputs[0]), planner.value(node.output)
    columns = planner.graph.values[node.output].columns
    rows = {**_rows(planner, node), **planner.row_parameters(node)}
    planner.launch("quantize", values, columns=columns, **planner.super_parameters(node.output), **rows)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("quantize", node, **_rows(planner, node))


def _rows(planner: Planner, node: Node) -> dict[str, Parameter]:
    return {"at_logits_rows": True} if planner.graph.values[node.output].rows == LOGITS else {}


OPERATION = Operation("quantize", compute, host, hip)
