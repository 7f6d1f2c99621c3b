"""How far elements of a row are above its mean and some of its standard deviations; 0 where they are not.

max(x - mean(x) - deviations * sqrt(sum((x - mean(x))^2) / (columns - 1)), 0)
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
    x = inputs[0]
    cut = x.mean(axis=1, keepdims=True) + node.real("deviations") * x.std(axis=1, ddof=1, keepdims=True)
    result: Float64 = np.maximum(x - cut, 0)
    return result


def _launch(planner: Planner, node: Node, grid: GridEntry | None = None, /, **more: Parameter) -> None:
    planner.launch(
        "gaussian_cut",
        (planner.value(node.inputs[0]), planner.value(node.output)),
        grid,
        columns=planner.graph.values[node.output].columns,
        deviations=float_literal(node.real("deviations")),
        **more,
    )


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    _launch(planner, node)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    threads = planner.threads
    _launch(planner, node, GridEntry(threads, 1, "tokens"), threads=threads, wave_size=planner.gpu.wave_size)


def _problem(graph: Graph, node: Node) -> str:
    columns = graph.values[node.inputs[0]].columns
    return "" if columns > 1 else f"expected more than a column, found {columns}"


OPERATION = Operation("gaussian_cut", compute, host, hip, {"deviations": float}, problem=_problem)
