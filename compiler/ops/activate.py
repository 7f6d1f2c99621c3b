"""An activation of each element, where no gate is."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node
from ..operation import Float64, Operation, no_kernel
from .activations import ACTIVATIONS, activation_problem


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    return ACTIVATIONS[node.word("activation")](inputs[0])


def _problem(graph: Graph, node: Node) -> str:
    return activation_problem(node.word("activation"))


OPERATION = Operation("activate", compute, no_kernel, no_kernel, {"activation": str}, problem=_problem)
