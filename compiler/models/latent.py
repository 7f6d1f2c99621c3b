"""Latent attention, absorbed: all heads have one key, which is a latent of the token and a tail that is rotated, and
whose first elements are the value. What makes keys of the latent is applied to queries instead, and what makes values
of it to what attention found.

Source: DeepSeek-AI: "DeepSeek-V2", section 2.1.
"""

from __future__ import annotations

from ..graph import Attribute
from ..graph_builder import GraphBuilder
from ..model_config import LayerConfig, ModelConfig
from .architecture import Shapes

ROLES = (
    *("attention_q_a", "attention_q_a_norm", "attention_q_own", "attention_q_tail"),
    *("attention_latent", "attention_latent_norm", "attention_key_tail", "attention_k_b", "attention_v_b"),
)
"""Of weights that a layer has, in the stead of those of queries, keys and values."""


def shapes(config: ModelConfig, layer: LayerConfig) -> Shapes:
    """Return the shapes of a layer's projections by role; those of heads apart are [heads, outputs, inputs]."""
    hidden, heads, tail = config.hidden_size, layer.num_heads, config.key_tail
    own, source = layer.head_dim - tail, config.query_rank or hidden
    found: dict[str, tuple[int, ...]] = {
        "attention_q_tail": (heads, tail, source),
        "attention_latent": (config.kv_rank, hidden),
        "attention_latent_norm": (config.kv_rank,),
        "attention_key_tail": (tail, hidden),
        "indexer_norm": (1,),  # nobody reads it
        "attention_v_b": (heads, layer.value_dim or layer.head_dim, config.kv_rank),
    }
    if own:
        found |= {"attention_q_own": (heads, own, source), "attention_k_b": (heads, config.kv_rank, own)}
    if config.query_rank:
        found |= {"attention_q_a": (config.query_rank, hidden), "attention_q_a_norm": (config.query_rank,)}
    return found


def heads(config: ModelConfig, layer: LayerConfig) -> dict[str, Attribute]:
    """Return the heads of a layer, as its nodes are told of them: see `Heads`."""
    return {
        "num_heads": layer.num_heads,
        "num_kv_heads": 1,
        "head_dim": config.kv_rank + config.key_tail,
        "value_dim": config.kv_rank,
        "values_in_keys": True,
    }


def rows(g: GraphBuilder, config: ModelConfig, layer: LayerConfig, normed: str) -> str:
    """Append rows of queries and keys, before the rotation."""
    query = normed
    if config.query_rank:
        query = g.linear("query_latent", normed, "attention_q_a")
        query = g.norm("query_latent_normed", query, "attention_q_a_norm", config.norm_epsilon)
    latent = g.linear("latent", normed, "attention_latent")
    parts = [
        g.linear("query_tail", query, "attention_q_tail"),
        g.norm("latent_normed", latent, "attention_latent_norm", config.norm_epsilon),
        g.linear("key_tail", normed, "attention_key_tail"),
    ]
    if g.has("attention_k_b"):
        own = g.linear("query_own", query, "attention_q_own")
        parts.append(g.head_linear("query_absorbed", own, "attention_k_b", layer.num_heads))
    return g.latent_heads("qkv", *parts, num_heads=layer.num_heads)
