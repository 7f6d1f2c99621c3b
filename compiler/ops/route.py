"""The choice of experts: the weights and the numbers of those that each token goes to.

Of scores s of all experts (`scoring`): "softmax" or "sigmoid" of the logits, or "chosen", the logits themselves, of
which the softmax is taken over those chosen. They are float32, and of equal ones the first is chosen. A bias is added
for the choice alone. Where there are groups, the choice is among the `groups_used` with the largest sums of their two
best. The weights are the chosen ones' s, divided by their sum where `normalise`, times `scale`. Where `shared` says so
many, that many neighbours share an expert: its number is theirs divided by it, and its weight of s at that number.
Source: llama.cpp 11434, `build_moe_ffn` of src/llama-graph.cpp.

The output has the weights in columns [0, used), in the order of the choice, and the experts' numbers, exact as floats,
behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..model_config import MAX_EXPERTS, MOST_USED
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner

LEAST_SUM: Final = 2.0**-14  # of weights, which they are divided by


def softmax(x: Float64) -> Float64:
    """Return the softmax of each row."""
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    found: Float64 = powers / powers.sum(axis=1, keepdims=True)
    return found


_SCORES: Final[Mapping[str, Callable[[Float64], Float64]]] = {
    "softmax": softmax,
    "sigmoid": lambda logits: 1 / (1 + np.exp(-logits)),
    "chosen": lambda logits: logits,
}


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    logits, used, scoring = inputs[0], node.integer("used"), node.word("scoring")
    scores = _as_float32(_SCORES[scoring](logits))
    ranks = _as_float32(scores + weights[0]) if weights else scores
    if node.integer("groups", 1) > 1:
        ranks = _within_groups(ranks, node.integer("groups"), node.integer("groups_used"))
    chosen = np.argsort(-ranks, axis=1, kind="stable")[:, :used]
    chosen = chosen // node.integer("shared", 1)
    found = np.take_along_axis(scores, chosen, axis=1)
    if scoring == "chosen":
        found = softmax(found)
    if node.attributes.get("normalise"):
        found = found / np.maximum(found.sum(axis=1, keepdims=True), LEAST_SUM)
    return np.concatenate([found * node.real("scale", 1), chosen], axis=1)


def _as_float32(x: Float64) -> Float64:
    """Return the nearest float32 of each: large logits have the same sigmoid then, and which is first decides."""
    return x.astype(np.float32).astype(np.float64)


def _within_groups(ranks: Float64, groups: int, groups_used: int) -> Float64:
    """Return the ranks, those of groups that are not among the best below all others."""
    by_group = ranks.reshape(len(ranks), groups, -1)
    sums = np.sort(by_group, axis=2)[:, :, -2:].sum(axis=2)
    best = np.argsort(-sums, axis=1, kind="stable")[:, :groups_used]
    taken = np.zeros(sums.shape, bool)
    np.put_along_axis(taken, best, True, axis=1)
    return np.where(np.repeat(taken, by_group.shape[2], axis=1), ranks, -np.inf)


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    groups, shared = node.integer("groups", 1), node.integer("shared", 1)
    return {
        **({"shared": shared} if shared > 1 else {}),
        "experts": planner.graph.values[node.inputs[0]].columns,
        "used": node.integer("used"),
        "scoring": node.word("scoring"),
        "has_bias": bool(node.weights),
        "normalise": bool(node.attributes.get("normalise", False)),
        "scale": float_literal(node.real("scale", 1)),
        "groups": groups,
        "groups_used": node.integer("groups_used") if groups > 1 else 1,
    }


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    values = planner.value(node.inputs[0]), planner.value(node.output), planner.floats(node.weights)
    planner.launch("route", values, **_parameters(planner, node), **planner.row_parameters(node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    values = planner.value(node.inputs[0]), planner.value(node.output), planner.floats(node.weights)
    planner.rows_of_waves("route", values, **_parameters(planner, node))


def _problem(graph: Graph, node: Node) -> str:
    experts, used, groups = graph.values[node.inputs[0]].columns, node.integer("used"), node.integer("groups", 1)
    if node.word("scoring") not in _SCORES:
        return f"expected a scoring of {', '.join(_SCORES)}, found {node.word('scoring')}"
    fewest = experts // groups * node.integer("groups_used") if groups > 1 else experts
    if max(used, groups) > MOST_USED or experts % groups or fewest < used:
        return f"expected groups that {used} experts can be chosen from, found {groups} of {experts}"
    if experts % node.integer("shared", 1):
        return f"expected {experts} experts to be shared evenly, found {node.integer('shared')} to share one"
    if node.weights and graph.weights[node.weights[0]].shape != (experts,):
        return f"expected a bias of {experts} elements"
    fits = 1 <= used <= experts <= MAX_EXPERTS and graph.values[node.output].columns == 2 * used
    return "" if fits else f"expected weights and numbers of 1 to {experts} experts, found {used}"


OPERATION = Operation(
    "route",
    compute,
    host,
    hip,
    {"used": int, "scoring": str},
    optional={"normalise": bool, "scale": float, "groups": int, "groups_used": int, "shared": int},
    weights=(0, 1),
    problem=_problem,
)
