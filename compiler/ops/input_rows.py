"""Columns of rows given from outside, for the tokens that take one: an image's embeddings, hidden states.

Where a token takes a row, its `count` columns from `column` on stand for the source's, or (`add`) are added to them;
else the source stays, in place. Without a source there are zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.arguments import Argument
from ...artifacts.layout import GridEntry
from ..graph import TOKENS, Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    given, *sources = inputs
    first = node.integer("column")
    rows = given[:, first : first + node.integer("count")]
    source = sources[0] if sources else np.zeros_like(rows)
    taken = rows + source if node.attributes.get("add") else rows
    return np.where(np.isnan(given).all(axis=1, keepdims=True), source, taken)


def _launch(planner: Planner, node: Node, grid: GridEntry | None = None, /, **more: Parameter) -> None:
    arguments: tuple[Argument, ...] = (planner.value(node.output),)
    planner.launch(
        "input_rows",
        arguments,
        grid,
        columns=node.integer("count"),
        width=planner.graph.input_width,
        first=node.integer("column"),
        keeps=bool(node.inputs),
        adds=bool(node.attributes.get("add")),
        **more,
    )


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    _launch(planner, node)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    threads = planner.threads
    grid = GridEntry(threads, -(-node.integer("count") // threads), "tokens")
    _launch(planner, node, grid, threads=threads, wave_size=planner.gpu.wave_size)


def _problem(graph: Graph, node: Node) -> str:
    for name in (*node.inputs, node.output):
        value = graph.values[name]
        if (value.rows, value.columns) != (TOKENS, node.integer("count")):
            return f"expected values of {node.integer('count')} columns a token, found {value.columns}"
    return "expected a source to add to" if node.attributes.get("add") and not node.inputs else ""


OPERATION = Operation(
    "input_rows",
    compute,
    host,
    hip,
    {"column": int, "count": int},
    optional={"add": bool},
    inputs=(0, 1),
    problem=_problem,
    in_place=True,
    reads_rows=True,
)
