"""Graph and target to plan: which back end lowers it."""

from __future__ import annotations

from .graph import Graph
from .lower_host import HostPlanner
from .model_config import ModelConfig
from .plan import Plan
from .target import Target


def make_plan(graph: Graph, config: ModelConfig, target: Target) -> Plan:
    """Lower a graph that has been through all passes.

    Args:
        graph: verified.
        config: the model's hyperparameters.
        target: a row of the target table.
    """
    return HostPlanner(graph, config, target).finish()
