"""What makes a row of decoders of what sets an architecture apart from llama."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from ..graph import Graph, Weight
from ..model_config import ModelConfig, RopeStyle
from ..model_source import ModelSource
from . import draft_block, experts, latent, mixers
from .architecture import Architecture, Mixer, Mixture, WeightForm, Windows, as_read
from .decoder import Style, graph, shapes
from .decoder_names import FURTHER_KEYS, FUSED, KEYS, TENSORS

_ALL = (
    *("token_embedding", "output_norm", "output", "attention_norm", "attention_q", "attention_k", "attention_v"),
    *("attention_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)
"""Roles that a decoder has if its row does not say otherwise."""
QKV = "blk.{layer}.attn_qkv"
REST = "attention_rest"
ROPE_FACTORS = ("rope_factors", "rope_factors_long", "rope_factors_short")
POST = ("attention_post_norm", "ffn_post_norm")
NORMS = ("output_norm", "attention_norm", "ffn_norm")
OUTER_BIASES = ("attention_output_bias", "ffn_gate_bias", "ffn_up_bias", "ffn_down_bias")
PROJECTIONS = ("attention_q", "attention_k", "attention_v")
LATENT = latent.ROLES
SCALES = ("embedding_scale", "residual_scale", "logit_scale", "attention_scale")


def row(
    name: str,
    rope_style: RopeStyle,
    *,
    without: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    unread: tuple[str, ...] = (),
    forms: Mapping[str, WeightForm] | None = None,
    names: Mapping[str, str] | None = None,
    keys: tuple[str, ...] = (),
    no_keys: tuple[str, ...] = (),
    defaults: Mapping[str, float] | None = None,
    windows: Windows | None = None,
    mixture: Mixture | None = None,
    mixer: Mixer | None = None,
    interleaved: Mapping[str, tuple[str, ...]] | None = None,
    fused: tuple[str, ...] = (),
    sections: Literal["", "apart", "interleaved"] = "",
    refine: Callable[[ModelSource, ModelConfig], ModelConfig] = as_read,
    **style: Any,
) -> Architecture:
    """Return a row.

    Args:
        without: roles of `_ALL` that it has not.
        also: roles that it has beside them.
        optional: roles that its files may have.
        names: GGUF's name of a tensor by its role, where that is another than in `TENSORS`.
        unread: see `Architecture`, as `forms`.
        keys: hyperparameters of `FURTHER_KEYS` that it has.
        no_keys: those of `KEYS` that mean nothing in its files.
        style: fields of `Style`.
    """
    how = Style(**style)
    if how.drafts:
        also, optional = (*also, *draft_block.ROLES), (*optional, *draft_block.OPTIONAL)
    norms = ("attention_q_norm", "attention_k_norm") if how.qk_norm and "attention_q_norm" not in optional else ()
    if mixture is not None:
        also, optional = (*also, *experts.ROLES), (*optional, *experts.OPTIONAL)
    if mixer is not None:
        also, keys = (*also, *mixers.ROLES[mixer.kind]), (*keys, *mixers.KEYS[mixer.kind])
    roles = {*_ALL, *also, *optional, *norms} - set(without)
    known = {**TENSORS, **(names or {})}
    apart = {role for parts in (interleaved or {}).values() for role in parts}
    taken = {base: parts for base, parts in FUSED.items() if roles >= set(parts) and not apart & set(parts)}
    if sections:
        keys = (*keys, "rope_sections")
    return Architecture(
        name,
        rope_style,
        _hyperparameters(how, windows, keys, no_keys),
        {role: gguf for role, gguf in known.items() if role in roles},
        partial(shapes, how),
        partial(_graph, how),
        frozenset(optional),
        {**taken, **({QKV: fused} if fused else {})},
        frozenset(unread),
        forms or {},
        defaults or {},
        windows,
        mixture,
        refine,
        interleaved=interleaved or {},
        mixer=mixer,
        sections=sections,
        drafts=how.drafts,
    )


def _hyperparameters(
    style: Style, windows: Windows | None, further: tuple[str, ...], without: tuple[str, ...]
) -> dict[str, str]:
    """Return GGUF's keys by the fields of `ModelConfig` that they give."""
    if windows:
        further = (*further, "window", "window_pattern")
    if windows and windows.theta is not None:
        further = (*further, "rope_theta_windowed")
    epsilon = {"norm_epsilon": "attention.layer_norm_epsilon"} if style.norm == "layer" else {}
    named = {**KEYS, **{one: FURTHER_KEYS[one] for one in further}, **epsilon}
    return {one: key for one, key in named.items() if one not in without}


def _graph(style: Style, config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """See `Architecture`."""
    return (draft_block.graph if config.drafting else graph)(style, config, weights)


llama = partial(row, rope_style="interleaved")
half = partial(row, rope_style="half")
