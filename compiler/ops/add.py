"""Sum of two values of one shape. It has no kernel: a pass has the product before it add to the other."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import GraphError, Node
from ..operation import Float64, Operation
from ..planner import Planner


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    return inputs[0] + inputs[1]


def _no_kernel(planner: Planner, node: Node) -> None:
    raise GraphError(f"{node.output}: expected an addition behind a linear, which takes it in")


OPERATION = Operation("add", compute, _no_kernel, _no_kernel, inputs=(2, 2))
