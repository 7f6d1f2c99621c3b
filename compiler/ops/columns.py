"""Columns of each row, `count` from `first` on; where there are `groups`, those of each group of columns, side by side.

With an `out_offset` they are a slice of the output, of which other nodes write the rest.
"""

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
    first, rows = node.integer("first"), len(inputs[0])
    grouped = inputs[0].reshape(rows, node.integer("groups", 1), -1)
    return grouped[:, :, first : first + node.integer("count")].reshape(rows, -1)


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    stride, groups = planner.graph.values[node.inputs[0]].columns, node.integer("groups", 1)
    parameters: dict[str, Parameter] = {"first": node.integer("first"), "stride": stride}
    if groups > 1:
        parameters |= {"groups": groups}
    if "out_offset" in node.attributes:
        parameters |= {"out_offset": node.integer("out_offset"), "written": _written(node)}
    return parameters


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    values = planner.value(node.inputs[0]), planner.value(node.output)
    columns = planner.graph.values[node.output].columns
    planner.launch("columns", values, columns=columns, **_parameters(planner, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("columns", node, **_parameters(planner, node))


def _written(node: Node) -> int:
    return node.integer("count") * node.integer("groups", 1)


def _problem(graph: Graph, node: Node) -> str:
    end, columns = node.integer("first") + node.integer("count"), graph.values[node.inputs[0]].columns
    groups, out = node.integer("groups", 1), graph.values[node.output].columns
    if columns % groups or end > columns // groups:
        return (
            f"expected an input of {end} columns" + f" in each of {groups} groups" * (groups > 1) + f", found {columns}"
        )
    offset = node.integer("out_offset", 0)
    fits = offset + _written(node) <= out if "out_offset" in node.attributes else _written(node) == out
    return "" if fits else f"expected an output of {offset + _written(node)} columns, found {out}"


OPERATION = Operation(
    "columns",
    compute,
    host,
    hip,
    {"first": int, "count": int},
    optional={"groups": int, "out_offset": int},
    problem=_problem,
)
