"""Logits as a model wants them: times a number, then kept between -softcap and softcap: softcap * tanh(x / softcap)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Node
from ..operation import Float64, Operation, no_kernel


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    scaled, softcap = inputs[0] * node.real("scale", 1), node.real("softcap", 0)
    capped: Float64 = softcap * np.tanh(scaled / softcap) if softcap else scaled
    return capped


OPERATION = Operation("logits_map", compute, no_kernel, no_kernel, optional={"scale": float, "softcap": float})
