"""What stands for attention in layers with recurrent state: a short convolution, and a scan behind it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..graph_builder import GraphBuilder
from ..model_config import ModelConfig, Recurrence
from . import delta, lightning, mamba
from .architecture import Shapes

_CONV_ROLES: Final = ("conv_in", "conv_taps", "conv_out")
ROLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "short_conv": _CONV_ROLES,
        "mamba": mamba.MAMBA_ROLES,
        "mamba2": mamba.MAMBA2_ROLES,
        "plamo2": mamba.MAMBA_ROLES,
        "delta": delta.DELTA_ROLES,
        "kda": delta.KDA_ROLES,
        "lightning": lightning.ROLES,
    }
)
"""Kind to the roles of weights that each layer of it has."""
KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "short_conv": ("short_taps",),
        "mamba": ("ssm_taps", "ssm_size", "ssm_state", "ssm_normed"),
        "mamba2": ("ssm_taps", "ssm_size", "ssm_state", "ssm_heads", "ssm_groups"),
        "plamo2": ("ssm_taps", "ssm_size", "ssm_state", "ssm_heads"),
        "delta": ("ssm_taps", "ssm_size", "ssm_state", "ssm_heads", "ssm_groups", "recurrent_layers", "full_interval"),
        "kda": ("ssm_taps", "delta_head_dim"),
        "lightning": ("recurrent_layers", "full_interval"),
    }
)
"""Kind to the hyperparameters that its files have."""


def shapes(config: ModelConfig) -> Shapes:
    """Return the shapes of what a layer with recurrent state has in the place of attention."""
    has = recurrence(config)
    if has.kind == "short_conv":
        return {
            "conv_in": (3 * has.size, config.hidden_size),
            "conv_taps": (has.size, has.taps),
            "conv_out": (config.hidden_size, has.size),
        }
    if has.kind == "lightning":
        return lightning.shapes(config, has)
    return delta.shapes(config, has) if has.kind in ("delta", "kda") else mamba.shapes(config, has)


def mixed(g: GraphBuilder, config: ModelConfig, normed: str) -> str:
    """Append what a layer makes of what it reads, with its sequence's state."""
    has = recurrence(config)
    if has.kind == "short_conv":
        return _short_conv(g, config, has, normed)
    append = {
        "mamba": mamba.mamba,
        "plamo2": mamba.plamo2,
        "mamba2": mamba.mamba2,
        "delta": delta.delta,
        "kda": delta.kda,
        "lightning": lightning.lightning,
    }
    return append[has.kind](g, config, has, normed)


def recurrence(config: ModelConfig) -> Recurrence:
    """Return what layers with recurrent state have, of a model that has some."""
    assert config.recurrence is not None
    return config.recurrence


def _short_conv(g: GraphBuilder, config: ModelConfig, has: Recurrence, normed: str) -> str:
    """Append c * conv(b * x), with b, c and x side by side."""
    source = g.linear("conv_in", normed, "conv_in")
    firsts = {"first": 2 * has.size, "times_first": 0, "gate_first": has.size}
    mixed = g.short_conv("convolved", source, "conv_taps", activation="none", **firsts)
    return g.linear("mixed", mixed, "conv_out", scale=config.residual_scale)
