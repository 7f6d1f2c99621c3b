"""Embedding: the row of a matrix for each token id, times a number."""

from __future__ import annotations

from collections.abc import Sequence

from ...artifacts.layout import GridEntry
from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`; `inputs` are the token ids, [T, 1]."""
    rows: Float64 = weights[0][inputs[0][:, 0].astype(int)]
    return rows * node.real("scale", 1)


def _scale(node: Node) -> dict[str, Parameter]:
    return {"scale": float_literal(node.real("scale"))} if "scale" in node.attributes else {}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    parameters = {**planner.weight_parameters(node.weights[0]), **_scale(node)}
    planner.launch("embedding", (planner.matrix(node.weights), planner.value(node.output)), **parameters)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = (planner.matrix(node.weights), planner.value(node.output))
    parameters = {**planner.weight_parameters(node.weights[0]), **_scale(node)}
    planner.launch("embedding", arguments, GridEntry(128, 1, "tokens"), **parameters)


OPERATION = Operation(
    "embedding", compute, host, hip, optional={"scale": float}, inputs=(0, 0), weights=(1, 1), reads_tokens=True
)
