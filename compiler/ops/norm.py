"""RMS norm of each row: x / sqrt(mean(x * x) + epsilon) * weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.layout import GridEntry
from ..graph import LOGITS, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation, always
from ..plan import float_literal


def normed(x: Float64, weight: Float64, epsilon: float) -> Float64:
    """Return the norm over the last axis."""
    scaled: Float64 = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight
    return scaled


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    return normed(inputs[0], weights[0], node.real("epsilon"))


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    out = planner.graph.values[node.output]
    planner.launch(
        "norm",
        (planner.value(node.inputs[0]), planner.tensor(node.weights, "f32"), planner.value(node.output)),
        columns=out.columns,
        epsilon=float_literal(node.real("epsilon")),
        out_q8=out.dtype == "q8",
        at_logits_rows=out.rows == LOGITS,
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    out = planner.graph.values[node.output]
    planner.launch(
        "norm",
        (planner.value(node.inputs[0]), planner.tensor(node.weights, "f32"), planner.value(node.output)),
        GridEntry(planner.threads, 1, "logits" if out.rows == LOGITS else "tokens"),
        columns=out.columns,
        threads=planner.threads,
        epsilon=float_literal(node.real("epsilon")),
        out_q8=out.dtype == "q8",
        at_logits_rows=out.rows == LOGITS,
        wave_size=planner.gpu.wave_size,
    )


OPERATION = Operation("norm", compute, host, hip, {"epsilon": float}, weights=(1, 1), writes_q8=always)
