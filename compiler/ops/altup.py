"""Sums over the residual streams of a token (Gemma 3n's AltUp), which lie side by side in a row; the first is active.

Of kind `predict`: stream i and the sum of all streams j times coefficient [i, j]; the second input are coefficients.
Of kind `correct`: stream i and (y less the first stream) * (1 + coefficient [i]); the others are y, coefficients.
Of kind `spread`: the first stream as it is, the others and y; the second input is y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner

KINDS: Final[Mapping[str, int]] = MappingProxyType({"predict": 2, "correct": 3, "spread": 2})
"""Inputs of a node by its kind."""


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    rows, count, kind = len(inputs[0]), node.integer("streams"), node.word("kind")
    streams = inputs[0].reshape(rows, count, -1)
    if kind == "predict":
        result = streams + np.einsum("tij,tjc->tic", inputs[1].reshape(rows, count, count), streams)
    elif kind == "correct":
        result = streams + (1 + inputs[2])[:, :, None] * (inputs[1] - streams[:, 0])[:, None]
    else:
        result = streams.copy()
        result[:, 1:] += inputs[1][:, None]
    joined: Float64 = result.reshape(rows, -1)
    return joined


def _expected(node: Node, columns: int) -> tuple[int, ...]:
    count = node.integer("streams")
    of_kind = {"predict": (count * count,), "correct": (columns // count, count), "spread": (columns // count,)}
    return columns, *of_kind[node.word("kind")]


def _problem(graph: Graph, node: Node) -> str:
    if node.word("kind") not in KINDS:
        return f"expected a kind of {', '.join(KINDS)}, found {node.word('kind')}"
    columns = graph.values[node.output].columns
    expected, found = _expected(node, columns), tuple(graph.values[name].columns for name in node.inputs)
    if columns % node.integer("streams") or expected != found:
        return f"expected inputs of {expected} columns, in {node.integer('streams')} streams, found {found}"
    return ""


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    columns, count = planner.graph.values[node.output].columns, node.integer("streams")
    return {"kind": node.word("kind"), "streams": count, "stream_columns": columns // count}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = tuple(planner.value(name) for name in (node.output, *node.inputs))
    planner.launch("altup", arguments, **_parameters(planner, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = tuple(planner.value(name) for name in (node.output, *node.inputs))
    planner.elementwise("altup", node, *arguments, **_parameters(planner, node))


OPERATION = Operation("altup", compute, host, hip, {"kind": str, "streams": int}, inputs=(2, 3), problem=_problem)
