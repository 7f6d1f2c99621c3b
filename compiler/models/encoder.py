"""Encoders of BERT's kind: each position sees all, and norms stand behind the sums with the residual stream.

Source: llama.cpp 11434, `src/models/bert.cpp`. The last norm of the last layer is the final one. They have no matrix
of outputs; that of the embedding stands for it, so that golden records have logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..graph import LOGITS, TOKENS, Graph, Weight
from ..graph_builder import GraphBuilder
from ..model_config import LayerConfig, ModelConfig, RopeStyle
from . import decoder
from .architecture import Architecture, Mixture, Shapes
from .decoder import Style, attended, feed_forward
from .decoder_names import FUSED, KEYS, TENSORS
from .experts import expert_feed_forward

_NAMES: Mapping[str, str] = {
    **TENSORS,
    "token_type": "token_types.weight",
    "attention_out_norm": "blk.{layer}.attn_output_norm.weight",
    "layer_out_norm": "blk.{layer}.layer_output_norm.weight",
}
_ALL = (
    *("token_embedding", "embedding_norm", "attention_q", "attention_k", "attention_v", "attention_output"),
    *("attention_out_norm", "ffn_up", "ffn_down", "layer_out_norm"),
)
"""Roles that each has."""
_EXPERTS = ("expert_router", "ffn_up_experts", "ffn_down_experts")
_FFN_BIASES = ("ffn_gate_bias", "ffn_up_bias", "ffn_down_bias")


def shapes(style: Style, config: ModelConfig, layer: LayerConfig) -> Shapes:
    """See `Architecture`."""
    hidden = config.hidden_size
    norms = ("token_type", "attention_out_norm", "layer_out_norm", "attention_norm_2")
    return {**decoder.shapes(style, config, layer), **dict.fromkeys(norms, (hidden,))}


def graph(style: Style, config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """See `Architecture`."""
    g = GraphBuilder(weights)
    hidden = g.embed("embedded", "token_embedding")
    if g.has("token_type"):
        hidden = g.add_weight("typed", hidden, "token_type")
    if g.has("position_embedding"):
        hidden = g.position_embed("placed", hidden, "position_embedding")
    hidden = g.norm("embedding_normed", hidden, "embedding_norm", config.norm_epsilon, kind=style.norm)
    for number in range(config.num_layers):
        hidden = _layer(g.layer(number), style, config, number, hidden)
    g.sample("sampled", g.linear("logits", hidden, "token_embedding"))
    return g.graph()


def _layer(g: GraphBuilder, style: Style, config: ModelConfig, number: int, hidden: str) -> str:
    """Append a layer; the norm that ends the last is of the rows that are asked for alone."""

    def norm(output: str, source: str, role: str, rows: str = TOKENS) -> str:
        return g.norm(output, source, role, config.norm_epsilon, rows, kind=style.norm)

    out = g.linear("attention_out", attended(g, style, config, number, hidden), "attention_output")
    between = norm("attention_out_normed", g.add("attention_residual", hidden, out), "attention_out_norm")
    if g.has("attention_norm_2"):
        between = norm("attention_normed_2", g.add("attention_residual_2", hidden, between), "attention_norm_2")
    if config.layer(number).num_experts:
        branch = expert_feed_forward(g, config, between, style.activation)
    else:
        branch = feed_forward(g, style, config, between)
    whole = g.add("ffn_residual", between, branch)
    return norm("layer_normed", whole, "layer_out_norm", LOGITS if number == config.num_layers - 1 else TOKENS)


def _row(
    name: str,
    rope_style: RopeStyle,
    also: tuple[str, ...],
    optional: tuple[str, ...],
    unread: tuple[str, ...] = (),
    mixture: Mixture | None = None,
    **style: Any,
) -> Architecture:
    how = Style(norm="layer", qk_norm_kind="layer", both_ways=True, **style)
    roles = {*_ALL, *also, *optional, "output"}
    keys = {**KEYS, "norm_epsilon": "attention.layer_norm_epsilon"}
    return Architecture(
        name,
        rope_style,
        {one: key for one, key in keys.items() if one != "causal"},
        {role: gguf for role, gguf in _NAMES.items() if role in roles},
        partial(shapes, how),
        partial(graph, how),
        frozenset((*optional, "output")),
        {base: parts for base, parts in FUSED.items() if roles >= set(parts)},
        frozenset(unread),
        forms={"token_type": "first_row"},
        defaults={"max_alibi_bias": 8.0} if name == "jina-bert-v2" else {},
        mixture=mixture,
    )


ARCHITECTURES = (
    _row("bert", "none", ("position_embedding",), ("token_type",), activation="gelu"),
    _row("nomic-bert", "half", ("ffn_gate",), ("token_type",), _FFN_BIASES, activation="silu"),
    _row(
        "nomic-bert-moe",
        "half",
        _EXPERTS,
        ("token_type",),
        mixture=Mixture(normalise=False),
        activation="gelu",
    ),
    _row("jina-bert-v3", "half", (), ("token_type",), activation="gelu"),
    _row(
        "jina-bert-v2",
        "none",
        ("token_type",),
        ("ffn_gate", "attention_q_norm", "attention_k_norm", "attention_norm_2"),
        activation="gelu",
        qk_norm="row",
    ),
)
"""A row each."""
