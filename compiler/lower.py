"""Graph and target to plan: which back end lowers it."""

from __future__ import annotations

from .graph import Graph
from .lower_hip import DEFAULT_TUNING, HipPlanner
from .lower_host import HostPlanner
from .model_config import ModelConfig
from .plan import Plan
from .target import Target
from .tuning import Tuning


def make_plan(
    graph: Graph,
    config: ModelConfig,
    target: Target,
    max_seq_len: int | None = None,
    tuning: Tuning = DEFAULT_TUNING,
    kv_dtype: str = "f16",
) -> Plan:
    """Lower a graph that has been through all passes.

    Args:
        graph: verified.
        config: the model's hyperparameters.
        target: a row of the target table.
        max_seq_len: positions of a sequence; None: the model's.
        tuning: of GPU kernels.
        kv_dtype: of the KV cache, one of `KV_DTYPES`.
    Raises:
        UsageError: the target has no kernels for a shape of the model, or cannot be tuned like that.
    """
    if target.backend == "hip":
        return HipPlanner(graph, config, target, max_seq_len, tuning, kv_dtype).finish()
    return HostPlanner(graph, config, target, kv_dtype).finish()
