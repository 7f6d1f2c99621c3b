"""Draws a token id of each row of logits, as the step's sampling records say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.layout import GridEntry
from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`; what it draws where nothing else is asked for: the largest."""
    drawn: Float64 = np.argmax(inputs[0], axis=1, keepdims=True).astype(np.float64)
    return drawn


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    vocab_size = planner.graph.values[node.inputs[0]].columns
    planner.launch("sample", (planner.value(node.inputs[0]), planner.value(node.output)), vocab_size=vocab_size)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    planner.launch(
        "sample",
        (planner.value(node.inputs[0]),),
        GridEntry(512, 1, "logits"),
        vocab_size=planner.graph.values[node.inputs[0]].columns,
        wave_size=planner.gpu.wave_size,
    )


OPERATION = Operation("sample", compute, host, hip)
