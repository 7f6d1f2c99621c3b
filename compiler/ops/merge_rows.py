"""Neighbouring rows made one, from each row on whose logits are asked for: patches of an image that become one token.

`merged` rows side by side; or `mean`, their mean; or `turned`: the first elements of all, then the second, and so on.
Behind a step's last row there are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import LOGITS, TOKENS, Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner

KINDS = ("side", "mean", "turned")


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    x, merged = inputs[0], node.integer("merged")
    filled = np.concatenate([x, np.zeros((merged - 1, x.shape[1]))])
    neighbours = np.stack([filled[first : first + len(x)] for first in range(merged)], axis=1)
    kind = node.word("kind")
    if kind == "mean":
        mean: Float64 = neighbours.mean(axis=1)
        return mean
    return (neighbours.swapaxes(1, 2) if kind == "turned" else neighbours).reshape(len(x), -1)


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    source = planner.graph.values[node.inputs[0]].columns
    return {"kind": node.word("kind"), "merged": node.integer("merged"), "source_columns": source}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    values = planner.value(node.inputs[0]), planner.value(node.output)
    columns = planner.graph.values[node.output].columns
    planner.launch("merge_rows", values, columns=columns, **_parameters(planner, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("merge_rows", node, **_parameters(planner, node))


def _problem(graph: Graph, node: Node) -> str:
    source, out = graph.values[node.inputs[0]], graph.values[node.output]
    if node.word("kind") not in KINDS:
        return f"expected a kind of {', '.join(KINDS)}, found {node.word('kind')}"
    if (source.rows, out.rows) != (TOKENS, LOGITS):
        return "expected rows of tokens, of which some are asked for"
    columns = source.columns * (1 if node.word("kind") == "mean" else node.integer("merged"))
    return "" if out.columns == columns else f"expected an output of {columns} columns, found {out.columns}"


OPERATION = Operation(
    "merge_rows", compute, host, hip, {"kind": str, "merged": int}, problem=_problem, mixes_tokens=True
)
