"""The activation of Apertus, whose four numbers are those of a layer.

Above 0: positive * x^2 + beta * x. Else: (e^min(x, epsilon) - 1 - x) * negative + beta * x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Node
from ..operation import Float64, Operation, no_kernel


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    positive, negative, beta, epsilon = (node.real(name) for name in PARAMETERS)
    x = inputs[0]
    below = (np.expm1(np.minimum(x, epsilon)) - x) * negative
    result: Float64 = np.where(x > 0, positive * x * x, below) + beta * x
    return result


PARAMETERS = ("positive", "negative", "beta", "epsilon")
"""The attributes of a node."""
OPERATION = Operation("xielu", compute, no_kernel, no_kernel, dict.fromkeys(PARAMETERS, float))
