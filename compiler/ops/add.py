"""Sum of the elements of two values, or of a value and a weight."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Node
from ..operation import Float64, Operation, no_kernel
from .elementwise import operands, operands_problem


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    one, other = operands(inputs, weights)
    return one + other


OPERATION = Operation("add", compute, no_kernel, no_kernel, inputs=(1, 2), weights=(0, 1), problem=operands_problem)
