"""Rows of queries, keys and values of latent attention, as `rope_kv` takes them.

A key of `head_dim` elements is what its head has of its own, and behind it `tail_dim` that all heads of a token share.
Inputs are the queries, what the latent was expanded to (of each head its own part of a key, then its value), and the
shared tail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter

_ATTRIBUTES = ("num_heads", "head_dim", "tail_dim", "value_dim")


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    query, expanded, tail = inputs
    rows, heads, own = len(query), node.integer("num_heads"), node.integer("head_dim") - node.integer("tail_dim")
    key, value = np.split(expanded.reshape(rows, heads, -1), [own], axis=2)
    key = np.concatenate([key, np.repeat(tail[:, None], heads, axis=1)], axis=2)
    return np.concatenate([query, key.reshape(rows, -1), value.reshape(rows, -1)], axis=1)


def _parameters(node: Node) -> dict[str, Parameter]:
    return {name: node.integer(name) for name in _ATTRIBUTES}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = tuple(planner.value(name) for name in (*node.inputs, node.output))
    planner.launch("latent_heads", arguments, **_parameters(node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = tuple(planner.value(name) for name in (*node.inputs, node.output))
    planner.elementwise("latent_heads", node, *arguments, **_parameters(node))


def _problem(graph: Graph, node: Node) -> str:
    heads, head_dim, tail_dim, value_dim = (node.integer(name) for name in _ATTRIBUTES)
    expected = [heads * head_dim, heads * (head_dim - tail_dim + value_dim), tail_dim]
    expected.append(heads * (2 * head_dim + value_dim))
    found = [graph.values[name].columns for name in (*node.inputs, node.output)]
    return "" if found == expected else f"expected columns {expected}, found {found}"


OPERATION = Operation(
    "latent_heads", compute, host, hip, dict.fromkeys(_ATTRIBUTES, int), inputs=(3, 3), problem=_problem
)
