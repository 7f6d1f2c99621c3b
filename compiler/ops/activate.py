"""An activation of each element, where no gate is."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import LOGITS, Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, always
from ..plan import Parameter
from ..planner import Planner
from .activations import ACTIVATIONS, activation_problem


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    return ACTIVATIONS[node.word("activation")](inputs[0])


def _problem(graph: Graph, node: Node) -> str:
    return activation_problem(node.word("activation"))


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    host_launch(planner, node, node.word("activation"))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    hip_launch(planner, node, node.word("activation"))


def host_launch(planner: HostPlanner, node: Node, activation: str, **numbers: Parameter) -> None:
    """Append the launch of an activation on the host; `numbers` are the activation's own."""
    values = planner.value(node.inputs[0]), planner.value(node.output)
    columns = planner.graph.values[node.output].columns
    rows = planner.row_parameters(node)
    planner.launch("activate", values, columns=columns, **_parameters(planner, node, activation), **rows, **numbers)


def hip_launch(planner: HipPlanner, node: Node, activation: str, **numbers: Parameter) -> None:
    """Append the launch of an activation on a GPU, as `host_launch`."""
    planner.elementwise("activate", node, **_parameters(planner, node, activation), **numbers)


def _parameters(planner: Planner, node: Node, activation: str) -> dict[str, Parameter]:
    out = planner.graph.values[node.output]
    return {
        "activation": activation,
        "at_logits_rows": out.rows == LOGITS,
        **planner.q8_parameters(node.output),
    }


OPERATION = Operation(
    "activate",
    compute,
    host,
    hip,
    {"activation": str},
    problem=_problem,
    writes_q8=always,
    writes_superblocks=always,
)
