"""The first half of what adapters add to an embedding: the rows of their A that stand for the tokens.

Column k of a segment: scale of its adapter * unit of the segment * A[token, k]. See `lora_segments.py`; A has a row for
each token, and so lies the other way round than that of a product.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...artifacts.arguments import Argument
from ...artifacts.layout import GridEntry
from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..planner import Planner
from .lora_segments import ATTRIBUTES, adapted_rows, factors, parameters


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`; `inputs` are the token ids, [T, 1], the last of `weights` the scales that the request gives."""
    a, table, units, scales = weights
    each = factors(table, units, scales)
    rows: Float64 = a[: a.size // len(each) * len(each)].reshape(-1, len(each))[inputs[0][:, 0].astype(int)]
    return rows * each


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.launch("lora_rows", _arguments(planner, node), **parameters(planner.graph, node, _ranks(planner, node)))


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`: a wave for each token."""
    wave, more = planner.gpu.wave_size, parameters(planner.graph, node, _ranks(planner, node))
    grid = GridEntry(wave, 1, adapted_rows(planner.graph, node))
    planner.launch("lora_rows", _arguments(planner, node), grid, wave_size=wave, **more)


def _arguments(planner: Planner, node: Node) -> tuple[Argument, ...]:
    a, table, units, _ = node.weights
    tensors = planner.tensor((a,), "f16"), planner.tensor((table,), "i32"), planner.floats((units,))
    return *tensors, planner.value(node.output)


def _ranks(planner: Planner, node: Node) -> int:
    return planner.graph.values[node.output].columns


def _problem(graph: Graph, node: Node) -> str:
    (elements,), ranks = graph.weights[node.weights[0]].shape, graph.values[node.output].columns
    return "" if elements >= ranks else f"expected rows of {ranks} columns, found {elements} elements"


OPERATION = Operation(
    "lora_rows", compute, host, hip, ATTRIBUTES, inputs=(0, 0), weights=(4, 4), problem=_problem, reads_tokens=True
)
