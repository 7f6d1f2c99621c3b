"""Rows of queries and of the one key of latent attention, as `rope_kv` takes them.

A query is what of its head meets the latent, `rank` elements, and behind it `tail_dim` that are rotated; the key is the
latent and its own tail. Inputs are the queries' tails, the latent, the key's tail, and the queries' first parts; where
heads have nothing of their own these are not there, and 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.arguments import Argument
from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner

_ATTRIBUTES = ("num_heads", "rank", "tail_dim")


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    heads, rows = node.integer("num_heads"), len(inputs[0])
    tails, latent, key_tail, *absorbed = inputs
    first = absorbed[0] if absorbed else np.zeros((rows, heads * latent.shape[1]))
    queries = np.concatenate([part.reshape(rows, heads, -1) for part in (first, tails)], axis=2)
    return np.concatenate([queries.reshape(rows, -1), latent, key_tail], axis=1)


def _parameters(node: Node) -> dict[str, Parameter]:
    return {"absorbed": len(node.inputs) == 4, **{name: node.integer(name) for name in _ATTRIBUTES}}


def _values(planner: Planner, node: Node) -> tuple[Argument, ...]:
    tails, latent, key_tail, *absorbed = (planner.value(name) for name in node.inputs)
    return tails, latent, key_tail, planner.value(node.output), *absorbed


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.launch("latent_heads", _values(planner, node), **_parameters(node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.elementwise("latent_heads", node, *_values(planner, node), **_parameters(node))


def _problem(graph: Graph, node: Node) -> str:
    heads, rank, tail_dim = (node.integer(name) for name in _ATTRIBUTES)
    absorbed = [heads * rank] * (len(node.inputs) - 3)
    expected = [heads * tail_dim, rank, tail_dim, *absorbed, (heads + 1) * (rank + tail_dim)]
    found = [graph.values[name].columns for name in (*node.inputs, node.output)]
    return "" if found == expected else f"expected columns {expected}, found {found}"


OPERATION = Operation(
    "latent_heads", compute, host, hip, dict.fromkeys(_ATTRIBUTES, int), inputs=(3, 4), problem=_problem
)
