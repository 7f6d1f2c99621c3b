"""Sum of what a token's experts made of it, side by side, each times its weight unless that is in it already."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    x, routed = inputs
    used = node.integer("used")
    parts = x.reshape(len(x), used, -1)
    if not node.attributes.get("weighted"):
        parts = parts * routed[:, :used, None]
    found: Float64 = parts.sum(axis=1) * node.real("scale", 1)
    return found


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    return {
        "used": node.integer("used"),
        "weighted": bool(node.attributes.get("weighted", False)),
        "scale": float_literal(node.real("scale", 1)),
    }


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    values = tuple(planner.value(name) for name in (*node.inputs, node.output))
    columns = planner.graph.values[node.output].columns
    parameters = {**_parameters(planner, node), **planner.row_parameters(node)}
    planner.launch("expert_sum", values, columns=columns, **parameters)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    values = tuple(planner.value(name) for name in (*node.inputs, node.output))
    planner.elementwise("expert_sum", node, *values, **_parameters(planner, node))


def _problem(graph: Graph, node: Node) -> str:
    columns, used = graph.values[node.output].columns, node.integer("used")
    found = [graph.values[name].columns for name in node.inputs]
    return "" if found == [columns * used, 2 * used] else f"expected {used} experts of {columns} columns, found {found}"


OPERATION = Operation(
    "expert_sum",
    compute,
    host,
    hip,
    {"used": int},
    optional={"weighted": bool, "scale": float},
    inputs=(2, 2),
    problem=_problem,
)
