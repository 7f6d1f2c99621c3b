"""Groups of a row's elements, each scaled so that its root mean square is that of the second input's row.

x * sqrt(mean(like * like) / max(mean(x * x), least)). Joined, the output begins with the second input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.layout import GridEntry
from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    x, like = inputs
    groups = x.reshape(len(x), -1, like.shape[1])
    least = np.maximum(np.mean(groups * groups, axis=2), node.real("least"))
    scaled = groups * np.sqrt(np.mean(like * like, axis=1, keepdims=True) / least)[:, :, None]
    result = scaled.reshape(x.shape)
    return np.concatenate([like, result], axis=1) if node.attributes["joined"] else result


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    x, like = (planner.graph.values[name].columns for name in node.inputs)
    least, joined = float_literal(node.real("least")), bool(node.attributes["joined"])
    return {"columns": like, "groups": x // like, "least": least, "joined": joined}


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = tuple(planner.value(name) for name in (*node.inputs, node.output))
    planner.launch("magnitude", arguments, **_parameters(planner, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments = tuple(planner.value(name) for name in (*node.inputs, node.output))
    parameters, threads = _parameters(planner, node), planner.threads
    grid = GridEntry(threads, int(parameters["groups"]), "tokens")
    planner.launch("magnitude", arguments, grid, threads=threads, wave_size=planner.gpu.wave_size, **parameters)


def _problem(graph: Graph, node: Node) -> str:
    x, like = (graph.values[name].columns for name in node.inputs)
    expected = x + like * bool(node.attributes["joined"])
    if x % like or graph.values[node.output].columns != expected:
        found = graph.values[node.output].columns
        return f"expected groups of {like} columns and {expected} of the output, found {x} and {found}"
    return ""


OPERATION = Operation(
    "magnitude", compute, host, hip, {"least": float, "joined": bool}, inputs=(2, 2), problem=_problem
)
