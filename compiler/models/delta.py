"""The gated delta net, and Kimi's form of it, whose states decay each row at a rate of its own.

Source: llama.cpp 11434, `src/models/qwen3next.cpp`, `qwen35.cpp` and `kimi-linear.cpp`.
"""

from __future__ import annotations

from typing import Final

from ..graph import Attribute
from ..graph_builder import GraphBuilder
from ..model_config import ModelConfig, Recurrence
from .architecture import Shapes

DELTA_ROLES: Final = ("delta_qkv", "attention_gate", "ssm_taps", "ssm_step_bias", "ssm_a", "ssm_norm", "ssm_out")
KDA_ROLES: Final = (
    *("delta_taps_q", "delta_taps_k", "delta_taps_v", "ssm_step_bias", "ssm_a", "ssm_norm", "delta_beta"),
    *("delta_decay_a", "delta_decay_b", "delta_gate_a", "delta_gate_b"),
)


def shapes(config: ModelConfig, has: Recurrence) -> Shapes:
    """Return the shapes of a layer's weights."""
    hidden, columns = config.hidden_size, has.size // has.heads
    if has.kind == "kda":
        rows = dict.fromkeys(("attention_q", "attention_k", "attention_v"), (has.size, hidden))
        taps = dict.fromkeys(("delta_taps_q", "delta_taps_k", "delta_taps_v"), (has.size, has.taps))
        low = dict.fromkeys(("delta_decay_a", "delta_gate_a"), (columns, hidden))
        high = dict.fromkeys(("delta_decay_b", "delta_gate_b"), (has.size, columns))
        beside = {"delta_beta": (has.heads, hidden), "attention_output": (hidden, has.size)}
        vectors = {"ssm_a": (has.heads,), "ssm_step_bias": (has.size,), "ssm_norm": (columns,)}
        return {**rows, **taps, **low, **high, **beside, **vectors}
    keys = has.groups * has.state
    return {
        "delta_qkv": (2 * keys + has.size, hidden),
        "attention_gate": (has.size, hidden),
        "delta_gates": (2 * has.heads, hidden),
        "delta_beta": (has.heads, hidden),
        "delta_alpha": (has.heads, hidden),
        "ssm_taps": (2 * keys + has.size, has.taps),
        "ssm_step_bias": (has.heads,),
        "ssm_a": (has.heads,),
        "ssm_norm": (columns,),
        "ssm_out": (hidden, has.size),
    }


def delta(g: GraphBuilder, config: ModelConfig, has: Recurrence, normed: str) -> str:
    """Append a layer; `delta_gates` holds beta and alpha in turn, of the heads of each of keys."""
    in_turn = g.has("delta_gates")
    roles = ("delta_gates",) if in_turn else ("delta_beta", "delta_alpha")
    source = g.linear("delta_in", normed, "delta_qkv", "attention_gate", *roles)
    convolved = g.short_conv("convolved", source, "ssm_taps")
    z_first = 2 * has.groups * has.state + has.size
    more: dict[str, Attribute] = {"gate_heads": has.heads // has.groups} if in_turn else {}
    scanned = g.scan(
        "scanned",
        "delta",
        (convolved, source),
        ("ssm_a", "ssm_step_bias"),
        gates_first=z_first + has.size,
        key_heads=has.groups,
        mapping=has.mapping,
        epsilon=config.norm_epsilon,
        **_sizes(has),
        **more,
    )
    return _out(g, config, has, scanned, source, "ssm_out", activation="silu", gate_first=z_first)


def kda(g: GraphBuilder, config: ModelConfig, has: Recurrence, normed: str) -> str:
    """Append a layer whose decays and gates come through a narrow product each."""
    source = g.linear("delta_qkv", normed, "attention_q", "attention_k", "attention_v")
    convolved = g.short_conv("convolved", source, "delta_taps_q", "delta_taps_k", "delta_taps_v")
    decays = g.linear("decays", g.linear("decays_in", normed, "delta_decay_a"), "delta_decay_b")
    rates = g.linear("rates", normed, "delta_beta")
    weights = ("ssm_a", "ssm_step_bias")
    scanned = g.scan("scanned", "kda", (convolved, decays, rates), weights, epsilon=config.norm_epsilon, **_sizes(has))
    gates = g.linear("gates", g.linear("gates_in", normed, "delta_gate_a"), "delta_gate_b")
    return _out(g, config, has, scanned, gates, "attention_output", activation="sigmoid")


def _sizes(has: Recurrence) -> dict[str, Attribute]:
    return {"heads": has.heads, "state": has.state, "columns": has.size // has.heads}


def _out(
    g: GraphBuilder, config: ModelConfig, has: Recurrence, scanned: str, gates: str, role: str, /, **gate: Attribute
) -> str:
    """Append the norm of each head, its gate, and the last product."""
    group, epsilon = has.size // has.heads, config.norm_epsilon
    gated = g.gated_norm("gated", scanned, gates, "ssm_norm", norm="before", group=group, epsilon=epsilon, **gate)
    return g.linear("mixed", gated, role, scale=config.residual_scale)
