"""Learned positions: to each row is added the row of a matrix that its position counts."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Node
from ..operation import Float64, Operation, columns_problem, no_kernel


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    return inputs[0] + weights[0][: len(inputs[0])]


OPERATION = Operation("position_embedding", compute, no_kernel, no_kernel, weights=(1, 1), problem=columns_problem)
