"""What sum and product of elements share: one input, and beside it a value or a weight.

That is of the input's columns, or of one column (a weight: of one element), which then stands for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...artifacts.arguments import Argument
from ..graph import LOGITS, Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64
from ..plan import Parameter
from ..planner import Planner

OPTIONAL: Final[dict[str, type]] = {"other_offset": int}
"""Optional attributes: the column of the second input that the operand begins with, which then is of all columns."""


def operands(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> tuple[Float64, Float64]:
    """Return both operands, such that NumPy broadcasts the second."""
    one, other = (*inputs, *weights)
    if "other_offset" in node.attributes:
        offset = node.integer("other_offset")
        other = other[:, offset : offset + one.shape[1]]
    return one, other


def operands_problem(graph: Graph, node: Node) -> str:
    """Return what is wrong with a node's operands, for `Operation.problem`."""
    if len(node.inputs) + len(node.weights) != 2:
        return f"expected two operands, found {len(node.inputs) + len(node.weights)}"
    columns = graph.values[node.inputs[0]].columns
    if node.weights:
        shape = graph.weights[node.weights[0]].shape
        other = shape[-1] if all(extent == 1 for extent in shape[:-1]) else 0
    else:
        other = graph.values[node.inputs[1]].columns
    if "other_offset" in node.attributes:
        end = node.integer("other_offset") + columns
        return "" if end <= other and not node.weights else f"expected an operand of {end} columns, found {other}"
    return "" if other in (1, columns) else f"expected an operand of {columns} columns or of one, found {other}"


def _parameters(planner: Planner, node: Node, combine: str) -> dict[str, Parameter]:
    graph, out = planner.graph, planner.graph.values[node.output]
    other = graph.weights[node.weights[0]].shape[-1] if node.weights else graph.values[node.inputs[1]].columns
    sliced = "other_offset" in node.attributes
    return {
        "combine": combine,
        "other_columns": out.columns if sliced else other,
        "other_stride": 0 if node.weights else other,
        "at_logits_rows": out.rows == LOGITS,
        **({"other_offset": node.integer("other_offset")} if sliced else {}),
    }


def _arguments(planner: Planner, node: Node) -> tuple[Argument, ...]:
    other = planner.floats(node.weights) or planner.value(node.inputs[1])
    return planner.value(node.inputs[0]), other, planner.value(node.output)


def host_launch(planner: HostPlanner, node: Node, combine: str) -> None:
    """Append the launch of a node on the host."""
    columns = planner.graph.values[node.output].columns
    parameters = {**_parameters(planner, node, combine), **planner.row_parameters(node)}
    planner.launch("elementwise", _arguments(planner, node), columns=columns, **parameters)


def hip_launch(planner: HipPlanner, node: Node, combine: str) -> None:
    """Append the launch of a node on a GPU."""
    planner.elementwise("elementwise", node, *_arguments(planner, node), **_parameters(planner, node, combine))
