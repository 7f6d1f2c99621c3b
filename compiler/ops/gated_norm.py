"""What a mixer made, gated: x * activation(gates), with a norm of groups of its elements before, after, or none.

    norm      result
    before    x / rms(x) * weight * activation(z)
    after     y / rms(y) * weight, y = x * activation(z)
    none      x * activation(z)

rms is sqrt(mean of squares + `epsilon`) over each `group` of neighbouring elements, the whole row where it is not
given; the weight, which need not be there, is of a row, or of a group, which all groups then share. z is as many
columns of the second input as x has, from `gate_first` on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ...artifacts.arguments import Argument
from ...artifacts.layout import GridEntry
from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner
from .activations import ACTIVATIONS, activation_problem
from .norm import groups_fit_q8, normed

NORMS: Final = ("before", "after", "none")


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    x, first = inputs[0], node.integer("gate_first", 0)
    gates = ACTIVATIONS[node.word("activation")](inputs[1][:, first : first + x.shape[1]])
    if node.word("norm") == "none":
        return x * gates
    group = node.integer("group", x.shape[1])
    weight = (weights[0] if weights else np.ones(group)).reshape(-1, group)
    grouped = (x if node.word("norm") == "before" else x * gates).reshape(len(x), -1, group)
    result = normed(grouped, weight, node.real("epsilon")).reshape(x.shape)
    return result * gates if node.word("norm") == "before" else result


def _launch(planner: Planner, node: Node, grid: GridEntry | None = None, /, **more: Parameter) -> None:
    values, out = planner.graph.values, planner.graph.values[node.output]
    arguments: list[Argument] = [planner.value(name) for name in (*node.inputs, node.output)]
    weight_columns = planner.graph.weights[node.weights[0]].shape[0] if node.weights else 0
    planner.launch(
        "gated_norm",
        (*arguments, planner.floats(node.weights)),
        grid,
        columns=out.columns,
        group=node.integer("group", out.columns),
        norm=node.word("norm"),
        activation=node.word("activation"),
        epsilon=float_literal(node.real("epsilon", 0)),
        weight_columns=weight_columns,
        gate_stride=values[node.inputs[1]].columns,
        gate_first=node.integer("gate_first", 0),
        **planner.q8_parameters(node.output),
        **more,
    )


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    _launch(planner, node)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    out, threads = planner.graph.values[node.output], planner.threads
    grid = GridEntry(threads, out.columns // node.integer("group", out.columns), "tokens")
    _launch(planner, node, grid, threads=threads, wave_size=planner.gpu.wave_size)


def _problem(graph: Graph, node: Node) -> str:
    columns, first = graph.values[node.inputs[0]].columns, node.integer("gate_first", 0)
    if node.word("norm") not in NORMS:
        return f"expected a norm of {', '.join(NORMS)}, found {node.word('norm')}"
    if first + columns > graph.values[node.inputs[1]].columns:
        return f"expected gates of {first + columns} columns, found {graph.values[node.inputs[1]].columns}"
    group = node.integer("group", columns)
    if columns % group:
        return f"expected groups that {columns} columns are a multiple of, found {group}"
    if (node.word("norm") == "none") == ("epsilon" in node.attributes):
        return "expected an epsilon where there is a norm, and none without"
    shapes = [graph.weights[name].shape for name in node.weights]
    if any(shape not in ((columns,), (group,)) for shape in shapes) or (shapes and node.word("norm") == "none"):
        return f"expected a weight of {columns} or of {group}, or none, found {list(shapes[0])}"
    return activation_problem(node.word("activation"))


OPERATION = Operation(
    "gated_norm",
    compute,
    host,
    hip,
    {"activation": str, "norm": str},
    optional={"epsilon": float, "group": int, "gate_first": int},
    inputs=(2, 2),
    weights=(0, 1),
    problem=_problem,
    writes_q8=groups_fit_q8,
)
