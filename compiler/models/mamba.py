"""Mamba 1 and 2, and PLaMo 2's form of it, of which each head has a step and a decay.

Source: llama.cpp 11434, `src/models/mamba-base.cpp` and `plamo2.cpp`.
"""

from __future__ import annotations

from typing import Final

from ..graph_builder import GraphBuilder
from ..model_config import ModelConfig, Recurrence
from .architecture import Shapes

MAMBA2_ROLES: Final = ("ssm_in", "ssm_taps", "ssm_step_bias", "ssm_a", "ssm_d", "ssm_norm", "ssm_out")
MAMBA_ROLES: Final = ("ssm_in", "ssm_taps", "ssm_x", "ssm_step", "ssm_a", "ssm_d", "ssm_out")
NORMS: Final = ("ssm_step_norm", "ssm_b_norm", "ssm_c_norm")


def shapes(config: ModelConfig, has: Recurrence) -> Shapes:
    """Return the shapes of a layer's weights."""
    hidden, keys = config.hidden_size, has.groups * has.state
    common: dict[str, tuple[int, ...]] = {
        "ssm_a": (has.heads,) if has.kind != "mamba" else (has.heads, has.state),
        "ssm_d": (has.heads,),
        "ssm_out": (hidden, has.size),
    }
    if has.kind == "mamba2":
        return common | {
            "ssm_in": (2 * has.size + 2 * keys + has.heads, hidden),
            "ssm_taps": (has.size + 2 * keys, has.taps),
            "ssm_step_bias": (has.heads,),
            "ssm_norm": (has.size,),
        }
    return common | {
        "ssm_in": (2 * has.size, hidden),
        "ssm_taps": (has.size, has.taps),
        "ssm_x": (has.rank + 2 * keys, has.size),
        "ssm_step": (has.heads, has.rank),
        "ssm_step_norm": (has.rank,),
        "ssm_b_norm": (has.state,),
        "ssm_c_norm": (has.state,),
    }


def mamba2(g: GraphBuilder, config: ModelConfig, has: Recurrence, normed: str) -> str:
    """Append a layer whose first product is z, x, B, C and the steps side by side."""
    keys = has.groups * has.state
    source = g.linear("ssm_in", normed, "ssm_in")
    convolved = g.short_conv("convolved", source, "ssm_taps", first=has.size)
    scanned = g.scan(
        "scanned",
        "mamba2",
        (convolved, source, convolved, convolved),
        ("ssm_a", "ssm_d", "ssm_step_bias"),
        dt_first=2 * has.size + 2 * keys,
        b_first=has.size,
        c_first=has.size + keys,
        groups=has.groups,
        heads=has.heads,
        state=has.state,
        columns=has.size // has.heads,
    )
    if g.has("ssm_norm"):
        group, epsilon = has.size // has.groups, config.norm_epsilon
        gated = g.gated_norm(
            "gated", scanned, source, "ssm_norm", norm="after", activation="silu", group=group, epsilon=epsilon
        )
    else:
        gated = g.gated_norm("gated", scanned, source, norm="none", activation="silu")
    return g.linear("mixed", gated, "ssm_out", scale=config.residual_scale)


def mamba(g: GraphBuilder, config: ModelConfig, has: Recurrence, normed: str) -> str:
    """Append a layer whose first product is x and z side by side, and whose second the step's rank, B and C."""
    source = g.linear("ssm_in", normed, "ssm_in")
    convolved = g.short_conv("convolved", source, "ssm_taps")
    firsts = {"step": 0, "b": has.rank, "c": has.rank + has.state}
    scanned = _scanned(g, config, has, convolved, firsts)
    gated = g.gated_norm("gated", scanned, source, norm="none", activation="silu", gate_first=has.size)
    return g.linear("mixed", gated, "ssm_out", scale=config.residual_scale)


def plamo2(g: GraphBuilder, config: ModelConfig, has: Recurrence, normed: str) -> str:
    """Append a layer whose first product is z and x of each head in turn, and whose second B, C and the step's rank."""
    columns = has.size // has.heads
    source = g.linear("ssm_in", normed, "ssm_in")
    source = g.columns_joined("z_and_x", source, (0, columns), (columns, columns), groups=has.heads)
    convolved = g.short_conv("convolved", source, "ssm_taps", first=has.size)
    firsts = {"b": 0, "c": has.state, "step": 2 * has.state}
    scanned = _scanned(g, config, has, convolved, firsts)
    gated = g.gated_norm("gated", scanned, source, norm="none", activation="silu")
    return g.linear("mixed", gated, "ssm_out", scale=config.residual_scale)


def _scanned(g: GraphBuilder, config: ModelConfig, has: Recurrence, convolved: str, firsts: dict[str, int]) -> str:
    """Append the scan of channels whose step, B and C are made of them; `firsts` are their columns."""
    both = g.linear("ssm_x", convolved, "ssm_x")
    parts = {name: g.columns_of(name, both, first, _count(has, name)) for name, first in firsts.items()}
    if has.normed:
        parts = {name: _norm(g, config, name, part) for name, part in parts.items()}
    steps = g.linear("steps", parts["step"], "ssm_step")
    return g.scan(
        "scanned",
        "mamba" if has.kind == "mamba" else "mamba2",
        (convolved, steps, parts["b"], parts["c"]),
        ("ssm_a", "ssm_d"),
        heads=has.heads,
        state=has.state,
        columns=has.size // has.heads,
    )


def _count(has: Recurrence, name: str) -> int:
    return has.rank if name == "step" else has.state


def _norm(g: GraphBuilder, config: ModelConfig, name: str, part: str) -> str:
    role = f"ssm_{name}_norm"
    return g.norm(f"{name}_normed", part, role if g.has(role) else "", config.norm_epsilon)
