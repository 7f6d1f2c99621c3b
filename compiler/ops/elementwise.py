"""What sum and product of elements share: one input, and beside it a value or a weight.

That is of the input's columns, or of one column (a weight: of one element), which then stands for all.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node
from ..operation import Float64


def operands(inputs: Sequence[Float64], weights: Sequence[Float64]) -> tuple[Float64, Float64]:
    """Return both operands, such that NumPy broadcasts the second."""
    one, other = (*inputs, *weights)
    return one, other


def operands_problem(graph: Graph, node: Node) -> str:
    """Return what is wrong with a node's operands, for `Operation.problem`."""
    if len(node.inputs) + len(node.weights) != 2:
        return f"expected two operands, found {len(node.inputs) + len(node.weights)}"
    columns = graph.values[node.inputs[0]].columns
    if node.weights:
        shape = graph.weights[node.weights[0]].shape
        other = shape[-1] if all(extent == 1 for extent in shape[:-1]) else 0
    else:
        other = graph.values[node.inputs[1]].columns
    return "" if other in (1, columns) else f"expected an operand of {columns} columns or of one, found {other}"
