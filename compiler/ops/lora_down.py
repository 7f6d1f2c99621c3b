"""The first half of what adapters add to a product: what it reads, times their A.

Row k of a segment: scale of its adapter * unit of the segment * (A[k] . x). See `lora_segments.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...artifacts.arguments import Argument
from ...artifacts.layout import GridEntry
from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner
from .lora_segments import ATTRIBUTES, adapted_rows, factors, parameters


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`; the last of `weights` are the scales that the request gives each adapter."""
    a, table, units, scales = weights
    products = inputs[0] @ a[:, : inputs[0].shape[1]].T
    scaled: Float64 = products * factors(table, units, scales)
    return scaled


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.launch("lora_down", _arguments(planner, node), **_sizes(planner.graph, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`: a wave for each row of A."""
    wave, sizes = planner.gpu.wave_size, _sizes(planner.graph, node)
    grid = GridEntry(wave, int(sizes["ranks"]), adapted_rows(planner.graph, node))
    planner.launch("lora_down", _arguments(planner, node), grid, wave_size=wave, **sizes)


def _arguments(planner: Planner, node: Node) -> tuple[Argument, ...]:
    a, table, units, _ = node.weights
    tensors = planner.tensor((a,), "f16"), planner.tensor((table,), "i32"), planner.floats((units,))
    return planner.value(node.inputs[0]), *tensors, planner.value(node.output)


def _sizes(graph: Graph, node: Node) -> dict[str, Parameter]:
    columns, ranks = graph.values[node.inputs[0]].columns, graph.values[node.output].columns
    return {"columns": columns, **parameters(graph, node, ranks)}


def _problem(graph: Graph, node: Node) -> str:
    columns, ranks = graph.values[node.inputs[0]].columns, graph.values[node.output].columns
    rows, stored = graph.weights[node.weights[0]].shape
    fits = rows == ranks and stored >= columns
    return "" if fits else f"expected {ranks} rows of {columns} columns, found {rows} of {stored}"


OPERATION = Operation("lora_down", compute, host, hip, ATTRIBUTES, weights=(4, 4), problem=_problem)
