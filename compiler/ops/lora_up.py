"""The second half of what adapters add to a product: what `lora_down` made, times their B, added to the output.

Rows of sequences without an adapter keep their bits. See `lora_segments.py`.
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
from .lora_segments import ATTRIBUTES, adapted_rows, parameters, read_segments


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    low, out = inputs[0], inputs[1].copy()
    for one in read_segments(weights[1]):
        b = weights[0][one.first_b : one.first_b + one.ranks * one.columns].reshape(one.ranks, one.columns)
        ranks = slice(one.first_rank, one.first_rank + one.ranks)
        out[:, one.first_column : one.first_column + one.columns] += low[:, ranks] @ b
    return out


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.launch("lora_up", _arguments(planner, node), **_sizes(planner.graph, node))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`: a thread for each column."""
    sizes, threads = _sizes(planner.graph, node), planner.threads
    grid = GridEntry(threads, -(-int(sizes["columns"]) // threads), adapted_rows(planner.graph, node))
    wave = planner.gpu.wave_size
    planner.launch("lora_up", _arguments(planner, node), grid, threads=threads, wave_size=wave, **sizes)


def _arguments(planner: Planner, node: Node) -> tuple[Argument, ...]:
    b, table, _ = node.weights
    tensors = planner.tensor((b,), "f16"), planner.tensor((table,), "i32")
    return planner.value(node.inputs[0]), *tensors, planner.value(node.output)


def _sizes(graph: Graph, node: Node) -> dict[str, Parameter]:
    ranks, columns = graph.values[node.inputs[0]].columns, graph.values[node.output].columns
    return {"columns": columns, **parameters(graph, node, ranks)}


def _problem(graph: Graph, node: Node) -> str:
    return "" if node.inputs[1] == node.output else f"expected to add to its output, found {node.inputs[1]}"


OPERATION = Operation("lora_up", compute, host, hip, ATTRIBUTES, inputs=(2, 2), weights=(3, 3), problem=_problem)
