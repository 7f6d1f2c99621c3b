"""Decoders with RMS norms before attention and feed-forward, rotary positions and a gated feed-forward.

Llama 2 to 3.3, Mistral, TinyLlama and SmolLM2 are `llama`; Qwen 2, 2.5 and 3 add biases or norms of heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from ..graph import LOGITS, Graph, Weight
from ..graph_builder import GraphBuilder
from ..model_config import LayerConfig, ModelConfig, RopeStyle
from .architecture import Architecture, Shapes

# Role to tensor name; a role of each layer has `{layer}` in its name.
_TENSORS: Mapping[str, str] = MappingProxyType(
    {
        "token_embedding": "token_embd.weight",
        "output_norm": "output_norm.weight",
        "output": "output.weight",
        "rope_factors": "rope_freqs.weight",
        "attention_norm": "blk.{layer}.attn_norm.weight",
        "attention_q": "blk.{layer}.attn_q.weight",
        "attention_k": "blk.{layer}.attn_k.weight",
        "attention_v": "blk.{layer}.attn_v.weight",
        "attention_q_norm": "blk.{layer}.attn_q_norm.weight",
        "attention_k_norm": "blk.{layer}.attn_k_norm.weight",
        "attention_output": "blk.{layer}.attn_output.weight",
        "ffn_norm": "blk.{layer}.ffn_norm.weight",
        "ffn_gate": "blk.{layer}.ffn_gate.weight",
        "ffn_up": "blk.{layer}.ffn_up.weight",
        "ffn_down": "blk.{layer}.ffn_down.weight",
    }
)

# Tensors that may stand for several, whose rows they hold one after another.
_FUSED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "blk.{layer}.attn_qkv": ("attention_q", "attention_k", "attention_v"),
        "blk.{layer}.ffn_up": ("ffn_gate", "ffn_up"),
    }
)

# Hyperparameter to the key's part after the architecture's prefix.
_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_layers": "block_count",
        "num_heads": "attention.head_count",
        "num_kv_heads": "attention.head_count_kv",
        "key_length": "attention.key_length",
        "value_length": "attention.value_length",
        "max_seq_len": "context_length",
        "rope_theta": "rope.freq_base",
        "rope_dim": "rope.dimension_count",
        "rope_scaling_kind": "rope.scaling.type",
        "rope_scaling_factor": "rope.scaling.factor",
        "rope_scale_linear": "rope.scale_linear",
        "norm_epsilon": "attention.layer_norm_rms_epsilon",
        "num_experts": "expert_count",
        "causal": "attention.causal",
    }
)


@dataclass(frozen=True, slots=True)
class Style:
    """What sets a decoder apart from llama.

    Attributes:
        activation: of the feed-forward's gate, one of `ACTIVATIONS`.
        qk_norm: queries and keys pass an RMS norm over each head before they rotate.
    """

    activation: str = "silu"
    qk_norm: bool = False


def shapes(style: Style, config: ModelConfig, layer: LayerConfig) -> Shapes:
    """See `Architecture`."""
    hidden, inner = config.hidden_size, layer.intermediate_size
    query, key = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
    found: dict[str, tuple[int, ...]] = {
        "token_embedding": (config.vocab_size, hidden),
        "output_norm": (hidden,),
        "attention_norm": (hidden,),
        "attention_q": (query, hidden),
        "attention_k": (key, hidden),
        "attention_v": (key, hidden),
        "attention_output": (hidden, query),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    if not config.tie_word_embeddings:
        found["output"] = (config.vocab_size, hidden)
    if config.rope_scaling.kind == "factors":
        found["rope_factors"] = (config.rope_dim // 2,)
    if style.qk_norm:
        found |= {"attention_q_norm": (layer.head_dim,), "attention_k_norm": (layer.head_dim,)}
    return found


def graph(style: Style, config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """See `Architecture`."""
    g = GraphBuilder(weights)
    hidden = g.embed("embedded", "token_embedding")
    for number in range(config.num_layers):
        layer = g.layer(number)
        hidden = _attention(layer, config, number, hidden)
        hidden = _feed_forward(layer, style, config, hidden)
    normed = g.norm("final_normed", hidden, "output_norm", config.norm_epsilon, LOGITS)
    logits = g.linear("logits", normed, "token_embedding" if config.tie_word_embeddings else "output")
    g.sample("sampled", logits)
    return g.graph()


def _attention(g: GraphBuilder, config: ModelConfig, number: int, hidden: str) -> str:
    has = config.layer(number)
    heads = {
        "layer": number,
        "num_heads": has.num_heads,
        "num_kv_heads": has.num_kv_heads,
        "head_dim": has.head_dim,
    }
    normed = g.norm("attention_normed", hidden, "attention_norm", config.norm_epsilon)
    qkv = g.linear("qkv", normed, "attention_q", "attention_k", "attention_v")
    rotated = g.rope_kv(
        "rotated_qkv",
        qkv,
        ("attention_q_norm", "attention_k_norm") if g.has("attention_q_norm") else (),
        rope_dim=has.rope_dim,
        interleaved=config.rope_style == "interleaved",
        epsilon=config.norm_epsilon,
        **heads,
    )
    columns = has.num_heads * has.head_dim
    attended = g.attention("attended", rotated, columns, scale=has.head_dim**-0.5, **heads)
    return g.add("attention_residual", hidden, g.linear("attention_out", attended, "attention_output"))


def _feed_forward(g: GraphBuilder, style: Style, config: ModelConfig, hidden: str) -> str:
    normed = g.norm("ffn_normed", hidden, "ffn_norm", config.norm_epsilon)
    activated = g.gate("activated", g.linear("gate_up", normed, "ffn_gate", "ffn_up"), style.activation)
    return g.add("ffn_residual", hidden, g.linear("ffn_out", activated, "ffn_down"))


def _member(name: str, rope_style: RopeStyle, rope_factors: bool = False, **style: Any) -> Architecture:
    how = Style(**style)
    return Architecture(
        name,
        rope_style,
        _KEYS,
        _TENSORS,
        partial(shapes, how),
        partial(graph, how),
        fused=_FUSED,
        rope_factors=rope_factors,
    )


ARCHITECTURES = (
    _member("llama", rope_style="interleaved", rope_factors=True),
    _member("qwen2", rope_style="half"),
    _member("qwen3", rope_style="half", qk_norm=True),
)
"""The family's members: a line each."""
