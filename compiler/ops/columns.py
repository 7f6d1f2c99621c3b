"""Columns of each row, from one on, as many as the output has."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    first = node.integer("first")
    return inputs[0][:, first : first + node.integer("count")]


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    return {"first": node.integer("first"), "stride": planner.graph.values[node.inputs[0]].columns}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    values = planner.value(node.inputs[0]), planner.value(node.output)
    planner.launch("columns", values, columns=node.integer("count"), **_parameters(planner, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("columns", node, **_parameters(planner, node))


def _problem(graph: Graph, node: Node) -> str:
    end, columns = node.integer("first") + node.integer("count"), graph.values[node.inputs[0]].columns
    return "" if end <= columns else f"expected an input of {end} columns, found {columns}"


OPERATION = Operation("columns", compute, host, hip, {"first": int, "count": int}, problem=_problem)
