"""Norm of each row, or of each group of a row's elements: y / sqrt(mean(y * y) + epsilon) * weight + bias.

y is x, or of kind `layer` x less its mean. Weight and bias need not be there; they are of a row, or of a group, which
all groups of a row then share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.formats import BLOCK_COLUMNS, SUPERBLOCK_COLUMNS
from ...artifacts.layout import GridEntry
from ..graph import LOGITS, Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner

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


def _launch(planner: Planner, node: Node, grid: GridEntry | None = None, /, **more: Parameter) -> None:
    source, out = planner.graph.values[node.inputs[0]], planner.graph.values[node.output]
    weight, bias = planner.floats(node.weights[:1]), planner.floats(node.weights[1:])
    if "kind" in node.attributes:
        more["kind"] = node.word("kind")
    if "group" in node.attributes:
        more["group"] = node.integer("group")
    weight_columns = planner.graph.weights[node.weights[0]].shape[0] if node.weights else 0
    if weight_columns != out.columns:
        more["weight_columns"] = weight_columns
    if bias is not None:
        more["has_bias"] = True
    if source.rows == LOGITS:
        more["packed"] = True
    values = planner.value(node.inputs[0]), planner.value(node.output)
    planner.launch(
        "norm",
        (values[0], weight, values[1], *(() if bias is None else (bias,))),
        grid,
        columns=out.columns,
        epsilon=float_literal(node.real("epsilon")),
        at_logits_rows=out.rows == LOGITS,
        **planner.q8_parameters(node.output),
        **more,
    )


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    _launch(planner, node, **planner.row_parameters(node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    out, threads = planner.graph.values[node.output], planner.threads
    groups = out.columns // node.integer("group", out.columns)
    grid = GridEntry(threads, groups, "logits" if out.rows == LOGITS else "tokens")
    _launch(planner, node, grid, threads=threads, wave_size=planner.gpu.wave_size)


def _problem(graph: Graph, node: Node) -> str:
    columns = graph.values[node.inputs[0]].columns
    group = node.integer("group", columns)
    if columns % group:
        return f"expected groups that {columns} columns are a multiple of, found {group}"
    if node.word("kind", "rms") not in KINDS:
        return f"expected a kind of {', '.join(KINDS)}, found {node.word('kind')}"
    shapes = [graph.weights[name].shape for name in node.weights]
    if len(set(shapes)) > 1 or any(shape not in ((columns,), (group,)) for shape in shapes):
        found = " and ".join(str(list(shape)) for shape in shapes)
        return f"expected weight and bias of {columns} or of {group}, found {found}"
    return ""


def groups_fit_q8(graph: Graph, node: Node) -> bool:
    """Return whether the groups of a node are of whole int8 blocks, for `Operation.writes_q8`."""
    return node.integer("group", BLOCK_COLUMNS) % BLOCK_COLUMNS == 0


def groups_fit_superblocks(graph: Graph, node: Node) -> bool:
    """Return whether they are of whole int8 superblocks, for `Operation.writes_superblocks`."""
    return node.integer("group", SUPERBLOCK_COLUMNS) % SUPERBLOCK_COLUMNS == 0


OPERATION = Operation(
    "norm",
    compute,
    host,
    hip,
    {"epsilon": float},
    optional={"kind": str, "group": int},
    weights=(0, 2),
    problem=_problem,
    writes_q8=groups_fit_q8,
    writes_superblocks=groups_fit_superblocks,
)
