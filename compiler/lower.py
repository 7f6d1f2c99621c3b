"""Graph and target to plan: which back end lowers it."""

from __future__ import annotations

from .graph import Graph
from .lower_hip import HipPlanner
from .lower_host import HostPlanner
from .model_config import ModelConfig
from .plan import Plan
from .target import Target


def make_plan(graph: Graph, config: ModelConfig, target: Target, max_seq_len: int | None = None) -> Plan:
    """Lower a graph that has been through all passes.

    Args:
        graph: verified.
        config: the model's hyperparameters.
        target: a row of the target table.
        max_seq_len: positions of a sequence; None: the model's.
    Raises:
        UsageError: the target has no kernels for a shape of the model.
    """
    if target.backend == "hip":
        return HipPlanner(graph, config, target, max_seq_len).finish()
    return HostPlanner(graph, config, target).finish()
