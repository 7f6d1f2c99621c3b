"""Latent attention: keys and values of all heads are made of one latent of a token, and the rotated end of keys is one
for all heads.

Here the latent is made into keys and values before they are written to the cache, which holds those of each head.
"""

from __future__ import annotations

from ..graph_builder import GraphBuilder
from ..model_config import LayerConfig, ModelConfig
from .architecture import Shapes


def shapes(config: ModelConfig, layer: LayerConfig) -> Shapes:
    """Return the shapes of a layer's projections by role."""
    hidden, heads, own = config.hidden_size, layer.num_heads, layer.head_dim - layer.rope_dim
    value_dim = layer.value_dim or layer.head_dim
    return {
        "attention_q": (heads * layer.head_dim, config.query_rank or hidden),
        "attention_q_a": (config.query_rank, hidden),
        "attention_q_a_norm": (config.query_rank,),
        "attention_latent": (config.kv_rank, hidden),
        "attention_latent_norm": (config.kv_rank,),
        "attention_key_tail": (layer.rope_dim, hidden),
        "attention_kv_b": (heads * (own + value_dim), config.kv_rank),
    }


def qkv(g: GraphBuilder, config: ModelConfig, layer: LayerConfig, normed: str) -> str:
    """Append rows of queries, keys and values, before the rotation."""
    query = normed
    if config.query_rank:
        query = g.linear("query_latent", normed, "attention_q_a")
        query = g.norm("query_latent_normed", query, "attention_q_a_norm", config.norm_epsilon)
    latent = g.linear("latent", normed, "attention_latent")
    latent = g.norm("latent_normed", latent, "attention_latent_norm", config.norm_epsilon)
    value_dim = layer.value_dim or layer.head_dim
    return g.latent_heads(
        "qkv",
        g.linear("query", query, "attention_q"),
        g.linear("expanded", latent, "attention_kv_b"),
        g.linear("key_tail", normed, "attention_key_tail"),
        layer.num_heads * (2 * layer.head_dim + value_dim),
        num_heads=layer.num_heads,
        head_dim=layer.head_dim,
        tail_dim=layer.rope_dim,
        value_dim=value_dim,
    )
