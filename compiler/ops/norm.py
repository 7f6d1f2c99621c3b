"""Norm of each row, or of each group of a row's elements: y / sqrt(mean(y * y) + epsilon) * weight + bias.

y is x, or of kind `layer` x less its mean. Weight and bias need not be there; they are of a row, or of a group, which
all groups of a row then share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.layout import GridEntry
from ..graph import LOGITS, Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, always, no_kernel
from ..plan import float_literal

KINDS = ("rms", "layer")


def normed(x: Float64, weight: Float64, epsilon: float, kind: str = "rms") -> Float64:
    """Return the norm over the last axis."""
    if kind == "layer":
        x = x - np.mean(x, axis=-1, keepdims=True)
    scaled: Float64 = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight
    return scaled


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    rows, columns = inputs[0].shape
    group = node.integer("group", columns)
    weight = weights[0] if weights else np.ones(group)
    bias = weights[1] if len(weights) == 2 else np.zeros(group)
    grouped = inputs[0].reshape(rows, -1, group)
    result = normed(grouped, weight.reshape(-1, group), node.real("epsilon"), node.word("kind", "rms"))
    return (result + bias.reshape(-1, group)).reshape(rows, columns)


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    if set(node.attributes) - {"epsilon"} or len(node.weights) != 1:
        no_kernel(planner, node)
    out = planner.graph.values[node.output]
    planner.launch(
        "norm",
        (planner.value(node.inputs[0]), planner.tensor(node.weights, "f32"), planner.value(node.output)),
        columns=out.columns,
        epsilon=float_literal(node.real("epsilon")),
        out_q8=out.dtype == "q8",
        at_logits_rows=out.rows == LOGITS,
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    if set(node.attributes) - {"epsilon"} or len(node.weights) != 1:
        no_kernel(planner, node)
    out = planner.graph.values[node.output]
    planner.launch(
        "norm",
        (planner.value(node.inputs[0]), planner.tensor(node.weights, "f32"), planner.value(node.output)),
        GridEntry(planner.threads, 1, "logits" if out.rows == LOGITS else "tokens"),
        columns=out.columns,
        threads=planner.threads,
        epsilon=float_literal(node.real("epsilon")),
        out_q8=out.dtype == "q8",
        at_logits_rows=out.rows == LOGITS,
        wave_size=planner.gpu.wave_size,
    )


def _problem(graph: Graph, node: Node) -> str:
    columns = graph.values[node.inputs[0]].columns
    group = node.integer("group", columns)
    if columns % group:
        return f"expected groups that {columns} columns are a multiple of, found {group}"
    if node.word("kind", "rms") not in KINDS:
        return f"expected a kind of {', '.join(KINDS)}, found {node.word('kind')}"
    shapes = [graph.weights[name].shape for name in node.weights]
    wrong = [shape for shape in shapes if shape not in ((columns,), (group,))]
    return f"expected weights of {columns} or {group}, found {list(wrong[0])}" if wrong else ""


OPERATION = Operation(
    "norm",
    compute,
    host,
    hip,
    {"epsilon": float},
    optional={"kind": str, "group": int},
    weights=(0, 2),
    problem=_problem,
    writes_q8=always,
)
