"""Lightning attention: linear attention whose heads forget each at a rate of its own, which no file has.

Source: llama.cpp 11434, `src/models/minimax-01.cpp`.
"""

from __future__ import annotations

from typing import Final

from ..graph_builder import GraphBuilder
from ..model_config import ModelConfig, Recurrence
from .architecture import Shapes

QKV: Final = ("lightning_q", "lightning_k", "lightning_v")
ROLES: Final = (*QKV, "lightning_gate", "ssm_a", "ssm_norm")


def shapes(config: ModelConfig, has: Recurrence) -> Shapes:
    """Return the shapes of a layer's weights."""
    rows = dict.fromkeys((*QKV, "lightning_gate"), (has.size, config.hidden_size))
    return {**rows, "ssm_a": (has.heads,), "ssm_norm": (has.size,), "attention_output": (config.hidden_size, has.size)}


def lightning(g: GraphBuilder, config: ModelConfig, has: Recurrence, normed: str) -> str:
    """Append a layer: queries, keys and values are activated, and what comes of them is normed, all heads together."""
    source = g.activate("lightning_activated", g.linear("lightning_qkv", normed, *QKV), "silu")
    scanned = g.scan(
        "scanned",
        "linear",
        (source, source, source),
        ("ssm_a",),
        x_first=2 * has.size,
        b_first=has.size,
        heads=has.heads,
        state=has.state,
        columns=has.state,
        groups=has.heads,
    )
    gates = g.linear("gates", normed, "lightning_gate")
    epsilon = config.norm_epsilon / config.residual_scale**2  # as the file has it, see `refine.minimax_01`
    gated = g.gated_norm("gated", scanned, gates, "ssm_norm", norm="before", activation="sigmoid", epsilon=epsilon)
    return g.linear("mixed", gated, "attention_output", scale=config.residual_scale)
